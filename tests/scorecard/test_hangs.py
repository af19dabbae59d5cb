"""Row 11: what hangs is killed with its stacks in the log, what only sleeps or starves is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from support.load import Load
from support.scorecard import STACKS
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.scorecard import Row
    from support.server import Server

HANG = 2.0
BUSY_PER_CORE = 4
ANNOUNCED = [r"its loop has not moved for --hang-timeout", r"was killed by SIG(ABRT|KILL)", STACKS]

HANGS = """
    import ctypes, os, re
    from prefork import Lines, reply

    me = b"%d " % os.getpid()
    libc = ctypes.PyDLL(None)  # unlike CDLL it keeps the GIL

    def spin_in_python():
        while True:
            pass

    def spin_in_c():
        re.match(r"(a+)+$", "a" * 60 + "b")

    def sleep_in_c():
        libc.sleep(60)

    @reply(Lines())
    def service(line: bytes) -> bytes:
        hang = globals().get(line.decode())
        if hang is not None:
            hang()
        return me + line
"""


@pytest.mark.parametrize("hang", ["spin_in_python", "spin_in_c", "sleep_in_c"])
def test_row_11_worker_that_hangs_is_killed_with_its_stacks_in_the_log(
    start: Callable[..., Server], module: Callable[..., str], row: Row, hang: str
) -> None:
    options = ["--workers", "2", "--hang-timeout", f"{HANG:g}"]
    with start(module(HANGS), *options) as server, row.watch(server, announces=ANNOUNCED):
        before = server.workers()
        with Load(server.address, rate=100) as load, server.connect() as victim:
            until(lambda: load.replies > 100)
            at = time.monotonic()
            victim.sendall(f"{hang}\n".encode())
            until(lambda: len(set(server.workers().values()) & set(before.values())) == 1, HANG + 8)
            row.at_most("seconds until it was killed", time.monotonic() - at, HANG + 2)
            until(lambda: len(server.workers()) == 2)
            served = load.replies
            until(lambda: load.replies > served + 100)
        row.is_("its stacks are in the log", f"in {hang}" in server.log(), True)
        row.says("requests answered", load.replies)
        # each of them was held by the hung worker: it accepted a batch and never came to serve it
        row.says("classes of failures", str(dict(load.kinds()) or "none"))
        row.at_most("requests lost with it", len(load.failures), 8)


def test_row_11_worker_stopped_for_longer_than_the_timeout_is_killed(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    options = ["--workers", "2", "--hang-timeout", f"{HANG:g}"]
    with start(app, *options) as server, row.watch(server, announces=ANNOUNCED):
        before = server.workers()
        with Load(server.address, rate=100) as load:
            until(lambda: load.replies > 100)
            at = time.monotonic()
            os.kill(before[0], signal.SIGSTOP)
            until(lambda: server.workers().get(0, before[0]) != before[0], HANG + 8)
            row.at_most("seconds until it was replaced", time.monotonic() - at, HANG + 2)
        row.is_("the other, untouched", server.workers()[1] == before[1], True)
        row.says("requests answered", load.replies)
        row.at_most("requests lost with it", len(load.failures), 8)


def test_row_11_worker_stopped_for_less_than_the_timeout_keeps_its_pid(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    options = ["--workers", "2", "--hang-timeout", f"{HANG:g}"]
    with start(app, *options) as server, row.watch(server):
        before = server.workers()
        with Load(server.address, rate=100) as load:
            until(lambda: load.replies > 100)
            os.kill(before[0], signal.SIGSTOP)
            at = time.monotonic()
            until(lambda: time.monotonic() >= at + HANG / 2)
            os.kill(before[0], signal.SIGCONT)
            until(lambda: time.monotonic() >= at + HANG + 2, what="the timeout has passed since it was stopped")
        row.is_("the same workers", server.workers() == before, True)
        row.lost_nothing(load)


def test_row_11_nobody_is_killed_on_a_starved_machine(start: Callable[..., Server], app: str, row: Row) -> None:
    seconds = row.seconds(60, 15)
    options = ["--workers", "4", "--hang-timeout", f"{HANG:g}"]
    count = BUSY_PER_CORE * (os.cpu_count() or 1)
    # they end by themselves, whatever happens here
    spin = f"import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    with start(app, *options) as server, row.watch(server, announces=["the master was away"]):
        before = server.workers()
        with Load(server.address, rate=50, kept=10) as load:
            busy = [subprocess.Popen([sys.executable, "-S", "-c", spin]) for _ in range(count)]
            try:
                for one in busy:
                    one.wait(seconds + 60)
            finally:
                for one in busy:
                    one.kill()
                    one.wait()
        row.says("busy processes", count)
        row.is_("false kills", sum(server.workers().get(slot) != pid for slot, pid in before.items()), 0)
        row.lost_nothing(load)
