"""Who gets the connection: over idle async workers nearly the same for each, and a stopped one delays nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from support.scorecard import starved_ms
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.scorecard import Row
    from support.server import Server

CONNECTIONS = 800
WORKERS = 4
SPACING = 0.002
TRIES = 3
"""Tries for a figure that a busy neighbour on the machine can spoil; a fault of the server's spoils all of them."""


def pace(began: float, number: int, spacing: float = SPACING) -> None:
    """Wait for a moment on the schedule: this is the rate that is asked for, not a wait for something to happen."""
    while (left := began + number * spacing - time.monotonic()) > 0:
        time.sleep(left)


@pytest.mark.parametrize(("spacing", "limit"), [(SPACING, 1.05), (0.0, 1.10)], ids=["2ms_apart", "at_once"])
def test_show_connections_are_spread_evenly_over_idle_async_workers(
    start: Callable[..., Server], app: str, row: Row, spacing: float, limit: float
) -> None:
    with start(app, "--workers", str(WORKERS)) as server, row.watch(server), contextlib.ExitStack() as stack:
        address = server.address
        waited = starved_ms(server.workers().values())
        began = time.monotonic()
        for number in range(CONNECTIONS):
            if spacing:
                pace(began, number)
            stack.enter_context(socket.create_connection(address, 10))
        took = time.monotonic() - began
        until(lambda: server.status()["totals"]["connections"] == CONNECTIONS)
        shares = sorted(w["connections"] for w in server.status()["workers"])
        row.says("connections per worker", "/".join(map(str, shares)))
        row.says("connections per second", round(CONNECTIONS / took))
        row.says("workers waited for a CPU, ms in all", round(starved_ms(server.workers().values()) - waited))
        row.at_most("largest share over smallest", shares[-1] / max(1, shares[0]), limit)


def test_show_newcomers_go_to_the_worker_that_has_taken_the_place_of_one_that_crashed(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    serve = start(app, "--workers", str(WORKERS))
    with serve as server, row.watch(server, announces=["was killed by SIGKILL"]), contextlib.ExitStack() as stack:

        def connect(count: int, spacing: float) -> None:
            expected = server.status()["totals"]["connections"] + count
            began = time.monotonic()
            for number in range(count):
                pace(began, number, spacing)
                stack.enter_context(server.connect())
            until(lambda: server.status()["totals"]["connections"] == expected)

        connect(80, SPACING)
        os.kill(server.workers()[0], signal.SIGKILL)
        until(lambda: server.has_replaced(1))
        connect(24, 10 * SPACING)
        shares = sorted(w["connections"] for w in server.status()["workers"])
        row.says("connections per worker", "/".join(map(str, shares)))
        row.at_most("largest share over smallest", shares[-1] / max(1, shares[0]), 1.25)


def delays_ms(address: tuple[str, int], count: int) -> list[float]:
    """Return how long each of `count` connections, 2 ms apart, waited from its connect to its reply."""
    delays = []
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        for number in range(count):
            pace(began, number)
            at = time.monotonic()
            client = stack.enter_context(socket.create_connection(address, 10))
            client.sendall(b"hello\n")
            assert client.recv(100).endswith(b" hello\r\n")
            delays.append((time.monotonic() - at) * 1000)
    return delays


def test_show_a_stopped_worker_delays_nobody_elses_connection(start: Callable[..., Server], app: str, row: Row) -> None:
    with start(app, "--workers", str(WORKERS)) as server, row.watch(server):
        address, victim = server.address, server.workers()[0]
        tries = []
        for _ in range(TRIES):
            before = max(delays_ms(address, 200))
            os.kill(victim, signal.SIGSTOP)
            stopped = sorted(delays_ms(address, 400))
            os.kill(victim, signal.SIGCONT)
            tries.append((stopped[-1], stopped[-4], before))
            if stopped[-1] <= 20:
                break
            until(lambda: server.status()["totals"]["connections"] == 0)
        worst, near, before = min(tries)
        row.says("tries", len(tries))
        row.says("longest delay with all four serving, ms", round(before, 1))
        row.says("99th percentile with one stopped, ms", round(near, 1))
        row.at_most("longest delay with one stopped, ms", worst, 20)


PATIENT = """
    import os
    from prefork import Lines, reply
    from prefork.worker import accept

    accept.STEP_BACK = 60.0
    step_back = accept.Acceptor._step_back

    def say_so(acceptor):
        step_back(acceptor)
        print("steps back", flush=True)

    accept.Acceptor._step_back = say_so

    @reply(Lines(newline=b"\\n"))
    def service(line: bytes) -> bytes:
        return str(os.getpid()).encode()
"""


def line_from(sock: socket.socket) -> bytes:
    """Return what comes, up to the end of a line."""
    with sock.makefile("rb") as lines:
        return lines.readline()


def test_worker_that_has_stepped_back_accepts_again_as_soon_as_it_holds_no_more_than_its_share(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    with start(module(PATIENT), "--workers", "2") as server, contextlib.ExitStack() as stack:
        other, worker = server.workers().values()
        os.kill(other, signal.SIGSTOP)  # whoever steps back for it waits in vain
        clients = []
        for _ in range(3):
            clients.append(stack.enter_context(server.connect()))
            clients[-1].sendall(b"who\n")
        first, second, waiting = clients
        assert {line_from(one) for one in (first, second)} == {b"%d\n" % worker}
        until(lambda: "steps back" in server.log())
        first.close()
        assert line_from(waiting) == b"%d\n" % worker
        os.kill(other, signal.SIGCONT)
