"""Row 22: a log that cannot be written, a clock that jumps, more HUPs than anybody needs. None of it is a client's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from support.load import Load
from support.server import PREFORK, read_all
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from support.scorecard import Row
    from support.server import Server

MODELS = ("async", "sync", "threads")
HOUR: Final = 3600
HUPS: Final = 10_000

CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *offset; /* seconds, in a file: whoever writes there moves the clock of a running process */

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY);
    void *page = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page == MAP_FAILED) abort();
    offset = page;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, id, now);
    if ((id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) && offset) now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    now->tv_sec = real.tv_sec;
    now->tv_usec = real.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    if (told) *told = real.tv_sec;
    return real.tv_sec;
}
"""
"""The wall clock of one process and its children, moved: the machine's own stays."""


def entries(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the records of the lines that are whole."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def closed(written: list[dict[str, Any]]) -> int:
    return sum(entry["message"] == "closed" for entry in written)


def confessed(written: list[dict[str, Any]]) -> int:
    return sum(entry["dropped"] for entry in written if "were dropped" in entry["message"])


def dropped(server: Server) -> int:
    return int(server.status()["totals"]["log_dropped"])


LOGGING: Final = ("--workers", "2", "--access-log", "--log-format", "json", "--log-level", "error")
"""Nothing but the access log: so many lines as connections, and no other to take the blame."""


def test_row_22_log_on_a_full_disk_costs_lines_that_are_counted(
    start: Callable[..., Server], app: str, row: Row, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs a mount namespace: only root may have one here")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=256k none "$0" && exec "$@"'
    program = ("unshare", "--mount", "sh", "-c", mount, str(disk), *PREFORK)
    options = (*LOGGING, "--log-file", str(disk / "log"))
    with start(app, *options, program=program) as server, row.watch(server):
        before = server.workers()
        seen = Path(f"/proc/{server.process.pid}/root{disk}")  # the disk, as the server has it
        (seen / "ballast").write_bytes(bytes(224 << 10))

        def written() -> list[dict[str, Any]]:
            return entries((seen / "log").read_text("utf-8", "replace").splitlines())

        with Load(server.address, kept=20) as load:
            until(lambda: dropped(server) > 300, 30)
            row.is_("lines that tell of it while nothing can be written", confessed(written()), 0)
            served = load.replies
            (seen / "ballast").unlink()
            until(lambda: load.replies > served + 200 and confessed(written()) == dropped(server))
        until(lambda: not server.status()["totals"]["connections"])
        totals = server.status()["totals"]
        row.lost_nothing(load)
        row.says("lines dropped", totals["log_dropped"])
        row.is_("lines written or counted as dropped", closed(written()) + totals["log_dropped"], totals["accepted"])
        row.is_("dropped lines that the log itself tells of", confessed(written()), totals["log_dropped"])
        row.is_("workers, untouched", str(server.workers() == before), "True")


class Reader:
    """The other end of standard error, a named pipe, which is read when it is told to be."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._fd = -1
        self._received = b""
        self.open()

    def open(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)

    def close(self) -> None:
        os.close(self._fd)

    def read(self) -> list[dict[str, Any]]:
        """Return all that has ever come."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 16):
                self._received += data
        return entries(self._received.decode().splitlines())


@pytest.fixture
def reader(tmp_path: Path) -> Iterable[Reader]:
    made = Reader(tmp_path / "stderr")
    yield made
    made.close()


def into(pipe: Path) -> tuple[str, ...]:
    """Return the program with its standard error going into a named pipe."""
    return ("sh", "-c", 'exec "$@" 2>"$0"', str(pipe), *PREFORK)


@pytest.mark.parametrize("model", MODELS)
def test_row_22_log_pipe_that_nobody_reads_holds_nobody_up(
    start: Callable[..., Server], app: str, row: Row, tmp_path: Path, reader: Reader, model: str
) -> None:
    program = into(tmp_path / "stderr")
    with start(app, *LOGGING, "--model", model, program=program) as server, row.watch(server):
        before = server.workers()
        with Load(server.address) as load:
            until(lambda: dropped(server) > 300, 30)
            row.is_("workers, untouched", str(server.workers() == before), "True")
            row.is_("a reload meanwhile makes generation", server.ask(command="reload")["generation"], 2)
            until(lambda: {w["generation"] for w in server.status()["workers"]} == {2})
            served = load.replies
            until(lambda: closed(reader.read()) > 300 and load.replies > served + 200)
        until(lambda: not server.status()["totals"]["connections"])
        totals = server.status()["totals"]
        row.lost_nothing(load)
        row.says("lines dropped", totals["log_dropped"])
        read = closed(reader.read()) + totals["log_dropped"]
        row.is_("lines read or counted as dropped", read, totals["accepted"])


@pytest.mark.parametrize("model", MODELS)
def test_row_22_log_pipe_that_is_closed_ends_nobody(
    start: Callable[..., Server], app: str, row: Row, tmp_path: Path, reader: Reader, model: str
) -> None:
    program = into(tmp_path / "stderr")
    with start(app, *LOGGING, "--model", model, program=program) as server, row.watch(server):
        before = server.workers()
        with Load(server.address) as load:
            until(lambda: closed(reader.read()) > 100)
            row.is_("lines dropped before", dropped(server), 0)
            reader.close()
            until(lambda: dropped(server) > 300, 30)
            server.send(signal.SIGUSR1)  # there is no file to reopen: nothing happens
            counted = dropped(server)
            reader.open()
            until(lambda: confessed(reader.read()) >= counted)
        row.lost_nothing(load)
        row.says("lines dropped", dropped(server))
        row.is_("dropped lines that the log itself tells of", confessed(reader.read()), dropped(server))
        row.is_("workers, untouched", str(server.workers() == before), "True")


@pytest.fixture
def clock(tmp_path: Path) -> dict[str, str]:
    """Return the variables that give a process a clock of its own, moved by the file at CLOCK_OFFSET."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a clock that can be moved needs a C compiler")
    (tmp_path / "clock.c").write_text(CLOCK)
    shim = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, tmp_path / "clock.c"], check=True, timeout=60)
    (tmp_path / "offset").write_bytes(bytes(8))
    return {"LD_PRELOAD": str(shim), "CLOCK_OFFSET": str(tmp_path / "offset")}


def move(clock: dict[str, str], seconds: int) -> None:
    with Path(clock["CLOCK_OFFSET"]).open("r+b") as file:
        file.write(struct.pack("l", seconds))


def hours_off(server: Server) -> int:
    """Return by how many hours the stamp of the log's last line is off."""
    stamp = server.log().splitlines()[-1].split()[0]
    return round((datetime.fromisoformat(stamp) - datetime.now(UTC)).total_seconds() / HOUR)


@pytest.mark.parametrize("model", MODELS)
def test_row_22_clock_that_jumps_an_hour_either_way_moves_no_deadline(
    start: Callable[..., Server], app: str, row: Row, clock: dict[str, str], model: str
) -> None:
    options = ("--workers", "2", "--model", model, "--hang-timeout", "2", "--idle-timeout", "1.5")
    with start(app, *options, **clock) as server, row.watch(server), Load(server.address, rate=100) as load:
        for hours in (1, -1, 0):
            before = server.workers()
            with server.connect() as idle:
                idle.sendall(b"idle\n")
                assert idle.recv(100)
                at = time.monotonic()
                move(clock, hours * HOUR)
                assert read_all(idle) == b""
                row.at_least(f"{hours:+} h: an idle connection is ended after, s", time.monotonic() - at, 1.2)
                row.at_most(f"{hours:+} h: and before, s", time.monotonic() - at, 3)
            until(lambda at=at: time.monotonic() > at + 3.5, what="whoever is taken for hung is killed")  # type: ignore[misc]
            row.is_(f"{hours:+} h: workers, untouched", str(server.workers() == before), "True")
            row.is_(f"{hours:+} h: a reload says", str("generation" in server.ask(command="reload")), "True")
            until(
                lambda: _is_settled(server), what="the old generation has left: it would end the next idle connection"
            )
            row.is_(f"{hours:+} h: hours by which the log's stamps are off", hours_off(server), hours)
        load.stop()
        row.is_("workers lost", server.status()["totals"]["workers_lost"], 0)
        row.lost_nothing(load)


def test_row_22_ten_thousand_hups_are_a_few_reloads(
    start: Callable[..., Server], app: str, row: Row, tmp_path: Path
) -> None:
    late = ["not reloading: the server is stopping"]  # a HUP that is read behind the TERM at the end
    with start(app, "--workers", "2") as server, row.watch(server, announces=late):
        with Load(server.address, kept=20) as load:
            until(lambda: load.replies > 400)
            at = time.monotonic()
            for number in range(HUPS):
                if number == HUPS - 1:  # what changed during a reload is not left to the next
                    fresh = tmp_path / "fresh.py"
                    fresh.write_text("open('fresh', 'w').close()\n" + (tmp_path / "app.py").read_text("utf-8"), "utf-8")
                    fresh.rename(tmp_path / "app.py")
                server.send(signal.SIGHUP)
                if number % 40 == 0:  # all at once would be one: signals of a kind do not queue
                    time.sleep(0.01)
            row.says("seconds over which they were sent", round(time.monotonic() - at, 1))
            row.says("reloads that had begun by then", server.status()["generation"] - 1)
            at = time.monotonic()
            until((tmp_path / "fresh").exists, what="the last HUP's settings are served")
            until(lambda: _is_settled(server), 20, what="one generation is left, and no reload is due")
            row.at_most("seconds until it had settled behind the last", time.monotonic() - at, 10)
            served = load.replies
            until(lambda: load.replies > served + 200)
        row.lost_nothing(load)
        status = server.status()
        row.is_("workers lost", status["totals"]["workers_lost"], 0)
        row.at_least("reloads", status["generation"] - 1, 2)
        row.at_most("lines of the log that name SIGHUP", server.log().count("SIGHUP"), 20)
        for _ in range(HUPS):
            server.send(signal.SIGHUP)
        at = time.monotonic()
        row.is_("a TERM right behind as many: exit code", server.stop(timeout=20), 0)
        row.at_most("and seconds until then", time.monotonic() - at, 10)


def _is_settled(server: Server) -> bool:
    status = server.status()
    generations = {worker["generation"] for worker in status["workers"]}
    return bool(status["state"] == "running" and generations == {status["generation"]} and len(status["workers"]) == 2)
