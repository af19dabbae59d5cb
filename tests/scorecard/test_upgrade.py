"""Rows 4 and 14: upgrades, to what works and to what does not."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from support.load import Load
from support.scorecard import STACKS, descriptors
from support.server import run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.scorecard import Row
    from support.server import Server

UPGRADES = 5
BOOT_TIMEOUT = 2.0

SLOW = """
    import time
    from prefork import Lines, reply

    @reply(Lines(newline=b"\\n"))
    def service(line: bytes) -> bytes:
        time.sleep(float(line))
        return line
"""


def upgrade(server: Server) -> int:
    """Send USR2 and return the new master's pid, once it answers and nobody of the old one's is left."""
    before = server.status()["pid"]
    old = set(server.workers().values())
    server.send(signal.SIGUSR2)
    new: int = until(lambda: (pid := _master(server)) and pid != before and pid, 20, what="a new master answers")
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in old), 35, what="the old workers have left")  # noqa: PTH110
    return new


def _master(server: Server) -> int:
    try:
        return int(server.status()["pid"])
    except OSError:
        return 0


def test_row_04_five_upgrades_under_load_lose_nothing(start: Callable[..., Server], app: str, row: Row) -> None:
    with start(app, "--workers", "2") as server, row.watch(server, leak=False):
        with Load(server.address, kept=10) as load:
            masters, held = [], []
            began = time.monotonic()
            for _ in range(UPGRADES):
                masters.append(upgrade(server))
                held.append(descriptors(masters[-1]))
        row.says("seconds per upgrade, old workers gone", round((time.monotonic() - began) / UPGRADES, 2))
        row.is_("masters that served", len(set(masters)), UPGRADES)
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in masters[:-1]), 5)  # noqa: PTH110
        row.lost_nothing(load)
        row.is_("descriptors gained by the last upgrades", held[-1] - held[0], 0)


def test_row_04_the_accept_queue_is_kept_through_an_upgrade(
    start: Callable[..., Server], module: Callable[..., str], row: Row
) -> None:
    with start(module(SLOW), "--workers", "1", "--model", "sync") as server, row.watch(server, leak=False):
        clients = [socket.create_connection(server.address, 20) for _ in range(41)]
        clients[0].sendall(b"1\n")
        for client in clients[1:]:
            client.sendall(b"0\n")
            client.shutdown(socket.SHUT_WR)
        until(lambda: server.status()["listeners"][0]["queued"] == 40)
        server.send(signal.SIGUSR2)
        answers = []
        for client in clients[1:]:
            with client:
                answers.append(client.recv(10))
        clients[0].close()
        row.is_("clients in the queue that were answered", answers.count(b"0\n"), 40)
        until(lambda: _master(server) not in {0, server.process.pid}, what="the new master serves")


GOOD = """
    import os
    from prefork import Lines, reply

    me = b"%d " % os.getpid()

    @reply(Lines())
    def service(line: bytes) -> bytes:
        return me + line
"""


def test_row_14_upgrade_to_what_is_broken_is_rolled_back(
    start: Callable[..., Server], module: Callable[..., str], row: Row, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    settings = tmp_path / "prefork.toml"
    kept = f"workers = 2\nboot-timeout = {BOOT_TIMEOUT}\n"
    settings.write_text(kept)
    path = os.pathsep.join(entry for entry in sys.path if entry and not entry.endswith("tests"))
    announces = ["upgrade failed, nothing has changed", "before it was ready", "--boot-timeout", "cannot load", STACKS,
                 "the older master that started this one is gone", "the master is gone; draining"]  # fmt: skip

    def interpreter(text: str | None) -> None:
        python.unlink()
        if text is None:
            python.symlink_to(os.path.realpath(sys.executable))
        else:
            python.write_text(text)
            python.chmod(0o755)

    def nothing_there() -> None:
        python.unlink()
        python.symlink_to("/nowhere")

    broken: dict[str, tuple[Callable[[], object], str]] = {
        "interpreter that is gone": (nothing_there, "No such file"),
        "interpreter that is no program": (lambda: interpreter("not a program"), "Exec format error"),
        "interpreter that fails": (lambda: interpreter("#!/bin/sh\nexit 7\n"), "exited with code 7"),
        "interpreter that hangs": (lambda: interpreter("#!/bin/sh\nexec sleep 60\n"), "--boot-timeout"),
        "target with a syntax error": (lambda: module("def service(:\n"), "SyntaxError"),
        "target that raises": (lambda: module("raise RuntimeError('on purpose')\n"), "on purpose"),
        "target that hangs": (lambda: module("import time\ntime.sleep(60)\n"), "--boot-timeout"),
        "target that exits": (lambda: module("import os\nos._exit(9)\n"), "exited with code 9"),
        "settings that are no TOML": (lambda: settings.write_text("workers = ["), "not TOML"),
        "settings out of range": (lambda: settings.write_text("workers = 0\n"), "workers"),
    }
    with start(
        module(GOOD), cwd=tmp_path, program=(str(python), "-m", "prefork"), PYTHONPATH=path
    ) as server, row.watch(server, announces=announces):  # fmt: skip
        before = server.workers()
        with Load(server.address, rate=100, kept=5) as load:
            for name, (break_it, why) in broken.items():
                break_it()
                began = time.monotonic()
                told = run("upgrade", "--control", server.control)
                took = time.monotonic() - began
                lines = told.stderr.splitlines()
                said = "said in one line" if len(lines) == 1 and why in lines[0] else f"said {told.stderr[:300]!r}"
                same = "same workers" if server.workers() == before else "other workers"
                row.is_(name, f"exit {told.returncode}, {said}, {same}", "exit 1, said in one line, same workers")
                row.at_most(f"{name}: rolled back, s", took, BOOT_TIMEOUT + 2)
                interpreter(None)
                settings.write_text(kept)
                module(GOOD)
        row.lost_nothing(load)
