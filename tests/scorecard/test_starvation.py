"""Row 17: no descriptor is left. What is connected goes on, nobody spins, and newcomers wait in the kernel's queue."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final

import pytest

from support.load import Load
from support.scorecard import cpu_seconds
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from support.scorecard import Row
    from support.server import Server

NOBODY_COMES_IN: Final = r"cannot accept: Too many open files; trying again every 0\.1 s"
CPU_AT_MOST: Final = 20.0
"""Percent of one processor, each process for itself, the live connections' requests included."""

LIVE: Final = {"async": 20, "threads": 8, "sync": 1}
"""Connections that are served all the time: a sync worker that serves one does not accept, so the other is idle."""


@contextlib.contextmanager
def no_descriptor_for(pids: Iterable[int]) -> Iterator[None]:
    """Take from each process the room for one more descriptor, and give it back at the end."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    try:
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (_lowest_free(pid), hard))
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def _lowest_free(pid: int) -> int:
    """Return the number of the descriptor that this process would get next."""
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


@pytest.mark.parametrize("model", LIVE)
def test_row_17_workers_without_descriptors_serve_on_and_accept_again_at_once(
    start: Callable[..., Server], app: str, row: Row, model: str
) -> None:
    seconds = row.seconds(30, 3)
    options = ["--workers", "2", "--model", model, "--threads", "16"]
    with start(app, *options) as server, row.watch(server, announces=[NOBODY_COMES_IN]):
        workers = list(server.workers().values())
        live = Load(server.address, rate=0, kept=LIVE[model])
        # whoever comes meanwhile waits for as long as it takes
        newcomers = Load(server.address, rate=20, timeout=seconds + 10)
        with live, contextlib.ExitStack() as coming:
            until(lambda: live.replies > 10 * LIVE[model])
            with no_descriptor_for(workers):
                coming.enter_context(newcomers)
                until(lambda: NOBODY_COMES_IN.replace("\\", "") in server.log())
                began, used, served = time.monotonic(), [cpu_seconds(pid) for pid in workers], live.replies
                until(lambda: time.monotonic() >= began + seconds, seconds + 5)
                row.at_least("requests of live connections answered", live.replies - served, seconds)
                shares = [100 * (cpu_seconds(pid) - u) / seconds for pid, u in zip(workers, used, strict=True)]
                row.at_most("busiest worker, % of a processor", max(shares), CPU_AT_MOST)
                row.at_least("new connections that wait", len(newcomers.unanswered), seconds)
            lifted = time.monotonic()
            until(lambda: newcomers.answered_at > lifted, what="somebody new is answered")
            row.at_most("seconds until it accepts again", newcomers.answered_at - lifted, 1)
            until(lambda: len(newcomers.unanswered) < 10, what="whoever has waited is answered")
            row.says("seconds until all who waited are answered", round(time.monotonic() - lifted, 2))
        now = [worker["pid"] for worker in server.status()["workers"]]  # one may still pause, and be called full
        row.is_("the same workers", now == workers, True)
        row.is_("live connections that ended", live.ended + live.crossed + len(live.failures), 0)
        row.at_most("lines in the log about it", server.log().count("cannot accept"), 2 * (1 + seconds / 5))
        row.lost_nothing(newcomers)


def test_row_17_master_without_descriptors_does_not_spin_and_hears_commands_and_forks_again(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    seconds = row.seconds(30, 3)
    announced = ["cannot fork: Too many open files"]
    with start(app, "--workers", "2") as server, row.watch(server, announces=announced), Load(server.address) as load:
        master = server.status()["pid"]
        until(lambda: load.replies > 200)
        answers: list[str] = []
        asker = Thread(target=lambda: answers.append(server.ask(command="status")["state"]))
        with no_descriptor_for([master]):
            asker.start()
            server.send(signal.SIGTTIN)  # one worker more, which takes descriptors too
            until(lambda: announced[0] in server.log())
            began, used = time.monotonic(), cpu_seconds(master)
            until(lambda: time.monotonic() >= began + seconds, seconds + 5)
            share = 100 * (cpu_seconds(master) - used) / seconds
            row.at_most("the master, % of a processor", share, CPU_AT_MOST)
            row.is_("commands answered meanwhile", len(answers), 0)
        lifted = time.monotonic()
        until(lambda: answers, what="the command that waited is answered")
        row.at_most("seconds until it hears commands again", time.monotonic() - lifted, 1)
        until(lambda: len(server.workers()) == 3, what="the third worker serves")
        row.at_most("seconds until the third worker serves", time.monotonic() - lifted, 3)
        load.stop()
        row.lost_nothing(load)
        server.send(signal.SIGTTOU)  # as many as before, so that their descriptors can be compared
        until(lambda: len(server.status()["workers"]) == 2)
