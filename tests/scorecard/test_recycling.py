"""Row 24: planned recycling under load. The ready count never goes below what is asked for, and nobody notices."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from support.load import Load
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.scorecard import Row
    from support.server import Server


class Count:
    """The fewest workers ready at once, seen whenever it is asked about the workers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.fewest = len(server.workers())
        self.looks = 0

    def workers(self) -> set[int]:
        """Return the pids of the workers that are ready."""
        pids = [w["pid"] for w in self._server.status()["workers"] if w["state"] in {"serving", "full"}]
        self.fewest = min(self.fewest, len(pids))
        self.looks += 1
        return set(pids)


RECYCLED = {
    "max-requests": ["--max-requests", "150", "--max-requests-jitter", "50"],
    "max-lifetime": ["--max-lifetime", "1.5"],
}


@pytest.mark.parametrize("model", ["async", "sync", "threads"])
@pytest.mark.parametrize("limit", RECYCLED)
def test_row_24_recycling_under_load_never_has_fewer_ready_and_loses_nothing(
    start: Callable[..., Server], app: str, row: Row, limit: str, model: str
) -> None:
    with start(app, "--workers", "3", "--model", model, *RECYCLED[limit]) as server, row.watch(server):
        count = Count(server)
        seen = count.workers()
        with Load(server.address, kept=6 if model == "async" else 0) as load:

            def replaced() -> bool:
                seen.update(count.workers())
                return len(seen) >= 9

            until(replaced, 30, what="every slot was renewed twice")
        row.says("workers seen", len(seen))
        row.at_least(f"fewest ready, in {count.looks} looks", count.fewest, 3)
        row.is_("workers lost", server.status()["totals"]["workers_lost"], 0)
        row.lost_nothing(load)


@pytest.mark.parametrize("model", ["async", "sync", "threads"])
def test_row_24_scaling_up_and_down_under_load_loses_nothing(
    start: Callable[..., Server], app: str, row: Row, model: str
) -> None:
    with start(app, "--workers", "3", "--model", model) as server, row.watch(server):
        count = Count(server)
        first = count.workers()
        with Load(server.address, kept=6 if model == "async" else 0) as load:
            until(lambda: load.replies > 100)
            for _ in range(3):
                server.send(signal.SIGTTIN)
                until(lambda: len(count.workers()) == 4)
                server.send(signal.SIGTTOU)
                until(lambda: len(count.workers()) == 3)
                server.ask(command="scale", workers=6)
                until(lambda: len(count.workers()) == 6)
                server.ask(command="scale", workers=3)
                until(lambda: len(count.workers()) == 3)
            served = load.replies
            until(lambda: load.replies > served + 100)
        row.at_least(f"fewest ready, in {count.looks} looks", count.fewest, 3)
        row.is_("the first three, untouched", count.workers() == first, True)
        row.is_("workers lost", server.status()["totals"]["workers_lost"], 0)
        row.lost_nothing(load)
