"""`--workers MIN:MAX`: a spare worker is kept, and what is not needed any more goes home."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from support.server import Server, exchange
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(("model", "threads"), [("sync", "1"), ("threads", "2")])
def test_busy_workers_are_joined_by_a_spare_one_and_it_leaves_again(
    start: Callable[..., Server], model: str, threads: str
) -> None:
    options = ["--workers", "1:4", "--model", model, "--threads", threads]
    with start("echo", *options) as server:
        with contextlib.ExitStack() as held:
            for _ in range(2 * int(threads)):
                sock = held.enter_context(server.connect())
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"  # served, though every worker before it is taken
            until(lambda: len(server.workers()) >= 3, what="two are busy, one at least is spare")
            assert exchange(server.address, b"served at once") == b"served at once"
            most = len(server.workers())
        until(lambda: len(server.workers()) < most, 25, what="what is not needed goes home")
        assert server.status()["totals"]["workers_lost"] == 0


def test_async_workers_follow_the_load(start: Callable[..., Server], module: Callable[..., str]) -> None:
    service = module("""
        import time
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            end = time.process_time() + 0.01
            while time.process_time() < end:
                pass
            return line
    """)
    with start(service, "--workers", "1:2") as server, server.connect(timeout=30) as sock:

        def joined() -> bool:
            sock.sendall(b"work\r\n" * 50)
            got = 0
            while got < 300:
                got += len(sock.recv(4096))
            return len(server.workers()) == 2

        until(joined, 30, what="a second worker joins the busy one")
