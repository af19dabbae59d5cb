"""Planned replacement of workers: the ready count never dips and no client notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.load import Load
from support.server import Server, exchange
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

LEAKY = """
    from prefork import Lines, reply
    hoard = []

    @reply(Lines())
    def service(line: bytes) -> bytes:
        if line == b"leak":
            hoard.append(bytearray(b"x" * 30_000_000))
        return line
"""


@pytest.mark.parametrize("model", ["async", "sync", "threads"])
def test_max_requests_replaces_workers_under_load_without_a_failure(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    options = ["--workers", "2", "--model", model, "--max-requests", "50", "--max-requests-jitter", "20"]
    with start(module(LEAKY), *options) as server:
        first = set(server.workers().values())
        fewest = 2
        with Load(server.address) as load:

            def replaced() -> bool:
                nonlocal fewest
                now = server.workers()
                fewest = min(fewest, len(now))
                return not set(now.values()) & first

            until(replaced, 30, what="both first workers were replaced")
        assert load.failures == []
        assert load.replies > 50
        assert fewest == 2, "the ready count never dips"
        assert server.status()["totals"]["workers_lost"] == 0


def test_max_lifetime_replaces_an_idle_worker(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1", "--max-lifetime", "1") as server:
        first = server.workers()[0]
        until(lambda: server.workers().get(0, first) != first)
        assert "(--max-lifetime)" in server.log()


def test_max_rss_replaces_a_leaking_worker(start: Callable[..., Server], module: Callable[..., str]) -> None:
    with start(module(LEAKY), "--workers", "1", "--max-rss", "80MiB") as server:
        first = server.workers()[0]
        for _ in range(3):
            assert exchange(server.address, b"leak\n") == b"leak\r\n"
        until(lambda: server.workers().get(0, first) != first)
        assert "(--max-rss)" in server.log()
        assert exchange(server.address, b"fine\n") == b"fine\r\n"
