"""The control socket: who may speak there, and that nothing said on it keeps the master from its work."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from prefork.master.commands import MOST_ASKERS
from support.server import Server, exchange, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANY: Final = 200
NOBODY: Final = 65534


def connect(server: Server) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    # the accept queue of a unix socket makes nobody wait: it says EAGAIN to a socket with a timeout
    until(lambda: sock.connect_ex(server.control) == 0, what="there is room to connect")
    return sock


def said(server: Server, data: bytes) -> bytes:
    """Send, half-close, and return all that is answered."""
    with connect(server) as sock, contextlib.suppress(OSError):  # it may be cut off before it has said all
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))
    return b""


@contextlib.contextmanager
def unharmed(server: Server) -> Iterator[None]:
    """Make sure that the master and its workers are the same afterwards, and that it still looks after them."""
    workers = server.workers()
    yield
    assert server.process.poll() is None
    assert server.workers() == workers
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: server.has_replaced(1), 5, what="a worker that dies is replaced")
    assert "the master was away" not in server.log()
    assert exchange(server.address, b"and on") == b"and on"


GARBAGE: Final = {
    "nothing": b"",
    "newlines": b"\n" * 4096,
    "no JSON": b"status\n",
    "no object": b"[]\n",
    "no command": b"{}\n",
    "a number for a command": b'{"command": 7}\n',
    "control bytes": b'{"command": "\\u0000\\u001b[2J\\ud800"}\n',
    "a thousand brackets": b"[" * 4000 + b"\n",
    "a thousand objects": b'{"a":' * 800 + b"\n",
    "a huge number": b'{"command": "scale", "workers": ' + b"9" * 3000 + b"}\n",
    "no number": b'{"command": "scale", "workers": NaN}\n',
    "a truth for a number": b'{"command": "scale", "workers": true}\n',
    "not UTF-8": b"\xff\xfe\x00\xd8\n",
    "a huge line": b"x" * (1 << 20),
    "half a request": b'{"command": "sta',
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_answered_by_an_error_and_changes_nothing(start: Callable[..., Server], data: bytes) -> None:
    with start("echo", "--workers", "2") as server, unharmed(server):
        answers = said(server, data).splitlines()
        assert all(json.loads(answer).keys() == {"error"} for answer in answers)
        assert answers or len(data) > 4096  # who goes on sending meets a reset, and may not see it


def test_random_bytes_change_nothing(start: Callable[..., Server]) -> None:
    dice = random.Random(5)  # noqa: S311 - the same in every run
    with start("echo", "--workers", "2") as server, unharmed(server):
        for _ in range(300):
            said(server, dice.randbytes(dice.randrange(1, 6000)))


def test_two_hundred_connections_that_say_nothing_keep_nobody_out(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2") as server, contextlib.ExitStack() as stack:
        with unharmed(server):
            before = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
            for number in range(MANY):
                sock = stack.enter_context(connect(server))
                with contextlib.suppress(BrokenPipeError):  # it is not the newest any more
                    sock.sendall(b'{"command": "sta'[: number % 2 * 99])
            assert server.status()["state"] == "running"
            after = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
            assert after <= before + MOST_ASKERS + 2
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5, "nobody waits for each of those who say nothing"


def test_peer_that_asks_and_never_reads_is_cut_off(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2") as server, unharmed(server), connect(server) as deaf:

        def is_cut_off() -> bool:
            try:
                deaf.send(b'{"command": "status"}\n')
            except BrokenPipeError:
                return True
            return False

        until(is_cut_off, 20)
        assert server.status()["state"] == "running"


def test_byte_for_byte_a_request_is_still_one(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2") as server, unharmed(server), connect(server) as slow:
        for byte in b'{"command": "status"}\n':
            slow.sendall(bytes([byte]))
            assert server.status()["state"] == "running"
        assert json.loads(slow.makefile().readline())["state"] == "running"


def test_socket_is_its_users_alone_whatever_the_umask(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1", "--umask", "000") as server:
        assert stat.S_IMODE(Path(server.control).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_folder_of_somebody_else_gets_no_control_socket(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    result = subprocess.Popen(
        [sys.executable, "-m", "prefork", "serve", "echo", "--bind", "127.0.0.1:0", "--workers", "1"],
        env={**os.environ, "XDG_RUNTIME_DIR": str(theirs)}, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert result.stderr is not None
        line = until(lambda: next((one for one in result.stderr or () if "control socket" in one), ""))
        assert "belongs to somebody else" in line
        assert run("status", cwd=tmp_path, XDG_RUNTIME_DIR=str(theirs)).returncode == 1
    finally:
        result.send_signal(signal.SIGTERM)
        result.communicate(timeout=20)
