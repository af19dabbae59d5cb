"""Rows 6 and 7: the stop, with a queue of clients, and with a handler that never ends."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from support.load import Load
from support.scorecard import STACKS
from support.server import read_all
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.scorecard import Row
    from support.server import Server

QUEUED = 50
DRAIN = 2.0

SLOW = """
    import time
    from prefork import Lines, reply

    @reply(Lines(newline=b"\\n"))
    def service(line: bytes) -> bytes:
        time.sleep(float(line))
        return line
"""
STUCK_ASYNC = """
    import asyncio, os
    from prefork import Lines, reply

    @reply(Lines(newline=b"\\n"))
    async def service(line: bytes) -> bytes:
        if line.startswith(b"sleep "):
            await asyncio.sleep(float(line[6:]))
        return line
"""
STUCK = STUCK_ASYNC.replace("async def", "def").replace("await asyncio", "time").replace("asyncio, os", "time")


@pytest.mark.parametrize("model", ["sync", "threads", "async"])
def test_row_06_term_with_fifty_clients_queued_behind_one_busy_worker_answers_all(
    start: Callable[..., Server], module: Callable[..., str], row: Row, model: str
) -> None:
    options = ["--workers", "1", "--threads", "1", "--model", model]
    with start(module(SLOW), *options) as server, row.watch(server):
        clients = [socket.create_connection(server.address, 20)]
        clients[0].sendall(b"1\n")
        until(lambda: server.status()["totals"]["bytes_in"] == 2, what="the worker is busy")
        clients += [socket.create_connection(server.address, 20) for _ in range(QUEUED)]
        for client in clients[1:]:
            client.sendall(b"0\n")
            client.shutdown(socket.SHUT_WR)
        until(lambda: server.status()["listeners"][0]["queued"] == QUEUED)
        server.send(signal.SIGTERM)
        replies, ends = 0, []
        for client in clients[1:]:
            with client:
                try:
                    replies += read_all(client) == b"0\n"
                except OSError as error:
                    ends.append(type(error).__name__)
        clients[0].close()
        row.is_("replies", replies, QUEUED)
        row.is_("resets", len(ends), 0)
        row.is_("exit code", server.process.wait(10), 0)


@pytest.mark.parametrize("model", ["sync", "threads", "async"])
def test_row_07_term_with_a_stuck_handler_ends_in_time_and_answers_the_others(
    start: Callable[..., Server], module: Callable[..., str], row: Row, model: str
) -> None:
    service = module(STUCK_ASYNC if model == "async" else STUCK)
    options = ["--workers", "2", "--model", model, "--drain-timeout", f"{DRAIN:g}"]
    announces = [r"dropped 1 connections at the end of its drain", "did not leave in time", "killed by SIG", STACKS]
    with start(service, *options) as server, row.watch(server, announces=announces), server.connect() as stuck:
        stuck.sendall(b"sleep 60\n")
        until(lambda: server.status()["totals"]["connections"] == 1)
        with Load(server.address, rate=100) as load:
            until(lambda: load.replies > 50)
            load.stop()
            others = [server.connect() for _ in range(10)]
            for other in others:
                other.sendall(b"sleep 0.1\n")
            told = time.monotonic()
            server.send(signal.SIGTERM)
            answered = 0
            for other in others:
                with other:
                    other.settimeout(10)
                    answered += read_all(other) == b"sleep 0.1\n"
            row.is_("exit code", server.process.wait(20), 0)
            row.at_most("seconds from TERM to the end", time.monotonic() - told, DRAIN + 2)
        row.is_("others answered after TERM", answered, 10)
        row.lost_nothing(load)
