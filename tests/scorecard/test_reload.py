"""Rows 1, 2, 3 and 13: reloads, onto what works and onto what does not."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from prefork_client import ClientError, Pool
from support.load import Load
from support.scorecard import STACKS, Row
from support.server import Server, run
from support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

RELOADS = 20
MODELS = ("async", "sync", "threads")

LEDGER = """
    import os
    from prefork import Lines, reply

    me = b"%d " % os.getpid()
    ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @reply(Lines())
    def service(line: bytes) -> bytes:
        os.write(ledger, line + b"\\n")
        return me + line
"""
"""The same service, which also writes down every line that it has taken."""


def reload_often(server: Server, row: Row, times: int = RELOADS) -> None:
    """Reload one time after the other; each waits until the new generation serves and the old one has left."""
    began = time.monotonic()
    for _ in range(times):
        generation = server.ask(command="reload")["generation"]
        until(lambda now=generation: {w["generation"] for w in server.status()["workers"]} == {now}, 20)  # type: ignore[misc]
    row.is_("generations", server.status()["generation"], times + 1)
    row.says("seconds per reload, old generation gone", round((time.monotonic() - began) / times, 2))


@pytest.mark.parametrize("model", MODELS)
def test_row_01_twenty_reloads_under_load_lose_nothing(
    start: Callable[..., Server], app: str, row: Row, model: str
) -> None:
    with start(app, "--workers", "2", "--model", model) as server, row.watch(server):
        with Load(server.address) as load:
            reload_often(server, row)
        row.lost_nothing(load)


class Caller(threading.Thread):
    """One of many callers that ask through the same pool, each line once."""

    def __init__(self, name: str, pool: Pool, over: threading.Event) -> None:
        super().__init__()
        self._who, self._pool, self._over = name, pool, over
        self.answered: list[bytes] = []
        self.errors: Counter[str] = Counter()

    def run(self) -> None:
        pause = random.Random(self._who)  # noqa: S311 - spreads the requests
        for number in range(20_000):
            if self._over.wait(pause.uniform(0.0, 0.3)):
                return
            line = f"{self._who}-{number}".encode()
            try:
                answer = self._pool.request(line, repeatable=True)
            except ClientError as error:
                self.errors[type(error).__name__] += 1
                continue
            if answer.partition(b" ")[2] != line:
                self.errors["wrong"] += 1
            self.answered.append(line)


def test_row_02_callers_of_the_client_package_see_no_error_and_nothing_twice(
    start: Callable[..., Server], module: Callable[..., str], row: Row, tmp_path: Path
) -> None:
    over = threading.Event()
    with start(module(LEDGER), "--workers", "2") as server, row.watch(server):
        with Pool("{}:{}".format(*server.address), size=16) as pool:
            callers = [Caller(f"c{number}", pool, over) for number in range(16)]
            for caller in callers:
                caller.start()
            try:
                reload_often(server, row)
            finally:
                over.set()
                for caller in callers:
                    caller.join(20)
        served = Counter((tmp_path / "ledger").read_bytes().split())
        answered = {line for caller in callers for line in caller.answered}
        errors = sum((caller.errors for caller in callers), Counter[str]())
        row.at_least("requests answered", len(answered), 100)
        row.is_("errors seen by a caller", str(dict(errors) or "none"), "none")
        row.is_("served twice", sum(count - 1 for count in served.values()), 0)
        row.is_("served, never answered", len(served.keys() - answered), 0)


def test_row_03_raw_sockets_that_stay_open_end_after_their_last_reply_and_are_never_reset(
    start: Callable[..., Server], module: Callable[..., str], row: Row, tmp_path: Path
) -> None:
    with start(module(LEDGER), "--workers", "2") as server, row.watch(server):
        with Load(server.address, rate=0, kept=40) as load:
            until(lambda: load.replies > 200)
            reload_often(server, row)
        served = set((tmp_path / "ledger").read_bytes().split())
        row.lost_nothing(load)
        row.at_least("ends of file between two requests", load.ended, 40)
        row.is_("served, then cut off before the reply", len(load.unanswered & served), 0)
        # nobody can keep a request and an end of file from meeting on the way: such a request was never served
        row.at_most("requests that met an end of file, per 1,000 ends", load.crossed * 1000 / max(1, load.ended), 10)


def test_row_03_raw_sockets_that_are_never_quiet_are_not_reset_by_the_drain_timeout(
    start: Callable[..., Server], module: Callable[..., str], row: Row, tmp_path: Path
) -> None:
    announces = [r"dropped \d+ connections at the end of its drain"]
    options = ["--workers", "2", "--drain-timeout", "1"]
    with start(module(LEDGER), *options) as server, row.watch(server, announces=announces):
        with Load(server.address, rate=0, kept=30, pause=(0.01, 0.04)) as load:
            until(lambda: load.replies > 200)
            reload_often(server, row, 5)
        served = set((tmp_path / "ledger").read_bytes().split())
        row.lost_nothing(load)
        row.at_least("ends of file between two requests", load.ended, 30)
        row.is_("served, then cut off before the reply", len(load.unanswered & served), 0)
        row.at_most("requests that met an end of file, per 1,000 ends", load.crossed * 1000 / max(1, load.ended), 10)


GOOD = """
    import os
    from prefork import Lines, reply

    me = b"%d " % os.getpid()

    @reply(Lines())
    def service(line: bytes) -> bytes:
        return me + line
"""

LIFESPAN = """
    import contextlib, os, threading
    from prefork import Lines, reply

    @reply(Lines())
    def service(line: bytes) -> bytes:
        return line

    @service.lifespan
    @contextlib.contextmanager
    def lifespan():
        {}
        yield
"""

BROKEN_TARGETS = {
    "syntax error": ("def service(:\n    pass\n", "SyntaxError"),
    "raises": ("raise RuntimeError('on purpose')\n", "RuntimeError: on purpose"),
    "hangs at import": ("import time\ntime.sleep(60)\n", "--boot-timeout"),
    "exits at import": ("import os\nos._exit(5)\n", "exited with code 5 before it was ready"),
    "not a service": ("service = 3\n", "not a service"),
    "imports what is not there": ("import there_is_no_such_module\n", "there_is_no_such_module"),
    "lifespan raises": (LIFESPAN.format("raise OSError('no database')"), "no database"),
    "exits after ready": (LIFESPAN.format("threading.Timer(0.05, os._exit, (6,)).start()"), "exited with code 6"),
}
BROKEN_SETTINGS = {
    "settings that are no TOML": ("workers = [", "not TOML"),
    "a setting out of range": ("workers = 0", "workers"),
    "an unknown setting": ("wrokers = 2", "wrokers"),
    "a bad certificate": ('tls-cert = "bad.pem"', "bad.pem"),
    "a log nobody can write": ('log-file = "/nowhere/at/all.log"', "/nowhere/at"),
}


@pytest.mark.timeout(180)
def test_row_13_reload_onto_what_is_broken_changes_nothing_and_says_why(
    start: Callable[..., Server], module: Callable[..., str], row: Row, tmp_path: Path
) -> None:
    (tmp_path / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nbroken\n-----END PRIVATE KEY-----\n")
    settings = tmp_path / "prefork.toml"
    settings.write_text('workers = 2\nboot-timeout = 1.5\nbind = "127.0.0.1:0"\n')
    kept = settings.read_text()
    announces = [r"error   reload (failed|refused)", r"before it was ready", r"--boot-timeout", "the lifespan of",
                 r"exited with code 6"]  # fmt: skip
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        start(module(GOOD), bind=None) as server,
        row.watch(server, announces=[*announces, STACKS]),
    ):
        before = server.workers()
        port = taken.getsockname()[1]
        cases = {name: (code, kept, why) for name, (code, why) in BROKEN_TARGETS.items()}
        last = {"exits after ready": cases.pop("exits after ready")}  # it is the one that may do harm
        for name, (broken, why) in BROKEN_SETTINGS.items():
            cases[name] = (GOOD, re.sub(r"workers = 2\n" if "workers" in broken else r"$^", "", kept) + broken, why)
        cases["a port that is taken"] = (GOOD, kept.replace("127.0.0.1:0", f"127.0.0.1:{port}"), str(port))
        with Load(server.address, rate=100, kept=5) as load:
            for name, (code, toml, why) in {**cases, **last}.items():
                module(code)
                settings.write_text(toml)
                told = run("reload", "--control", server.control)
                after = server.workers()
                row.is_(name, _judge(told, why, same=after == before), "exit 1, said in one line, same workers")
                before = after
            module(GOOD)
            settings.write_text(kept)
            row.is_("then a good one: exit code", run("reload", "--control", server.control).returncode, 0)
        row.lost_nothing(load)


def _judge(told: subprocess.CompletedProcess[str], why: str, *, same: bool) -> str:
    lines = told.stderr.splitlines()
    said = "said in one line" if len(lines) == 1 and why in lines[0] else f"said {told.stderr[:200]!r}"
    return f"exit {told.returncode}, {said}, {'same' if same else 'other'} workers"
