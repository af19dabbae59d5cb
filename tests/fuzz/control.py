"""The control socket: whatever comes, a request is obeyed, refused in one line, or waited for; the master lives on.

It is the real socket, with the real dispatch behind it; only what the commands do is noted instead of done.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fuzz.given import Given, pieces
from prefork.master.commands import Commands
from prefork.master.control import MAX_REQUEST, ControlSocket
from prefork.master.events import Events

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefork.master.control import Asker

LONGEST: Final = 9000
COMMANDS: Final = ("status", "stop", "scale", "reopen-logs", "reload", "upgrade")
WORDS: Final = (
    *(f'{{"command": "{one}"'.encode() for one in COMMANDS), b', "workers": ', b', "now": true', b"}\n", b"[" * 64,
    b'{"a":' * 16, b"NaN", b"-1", b"1e999", b"null", b"true", b'"\\ud800"', b"\xff", b"\n",
)  # fmt: skip


class Noted:
    """A server to be commanded; it notes what it was asked for."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def status(self) -> dict[str, Any]:
        """Say how it is."""
        self.done.append("status")
        return {"state": "running"}

    def stop(self, *, now: bool) -> None:
        """Stop."""
        self.done.append(("stop", now))

    def scale(self, workers: int) -> None:
        """Have so many workers."""
        assert type(workers) is int
        assert 1 <= workers <= 256
        self.done.append(("scale", workers))

    def reopen_logs(self) -> str:
        """Reopen the log."""
        self.done.append("reopen-logs")
        return ""

    def reload(self, asker: Asker | None) -> None:
        """Reload; that it went well is told at once."""
        self.done.append("reload")
        assert asker is not None
        asker.answer(ok=True)

    def upgrade(self, asker: Asker | None) -> None:
        """Upgrade, the same."""
        self.done.append("upgrade")
        assert asker is not None
        asker.answer(ok=True)


class Desk:
    """A control socket that is listened on, once for all runs."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self._folder.name) / "control.sock")
        self.server = Noted()
        self.events = Events()
        self.commands = Commands(ControlSocket(self.path, heir=False), self.events, self.server)

    def ask(self, chunks: Iterable[bytes]) -> tuple[list[object], list[dict[str, Any]], bool]:
        """Connect, say `chunks`; return what was done, what was answered, and whether the connection was closed."""
        self.server.done = []
        said = b""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.path)
            self.events.wait(0)
            sock.setblocking(False)
            closed = False
            for chunk in chunks:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    sock.sendall(chunk)
                for _ in range(2 + len(chunk) // MAX_REQUEST):
                    self.events.wait(0)
                more, closed = _heard(sock)
                said += more
                if closed:
                    break
        self.events.wait(0)  # the end of it, and of its descriptor
        *lines, rest = said.split(b"\n")
        assert not rest, f"an answer that is no line: {said!r}"
        return self.server.done, [json.loads(line) for line in lines], closed


def _heard(sock: socket.socket) -> tuple[bytes, bool]:
    said = b""
    while True:
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return said, False
        except ConnectionResetError:  # it was closed with something unread
            return said, True
        if not data:
            return said, True
        said += data


@functools.cache
def desk() -> Desk:
    """Return the one of this process."""
    return Desk()


def check(data: bytes) -> None:
    """Say the rest of `data` to a control socket."""
    given = Given(data)
    seed = given.below(256)
    stream = given.rest()
    asked = desk()
    descriptors = _descriptors()
    expected = asked.ask(pieces(stream, 0))
    done, answers, closed = expected
    refused = [one for one in answers if "error" in one]
    assert len(done) + len(refused) == len(answers), f"{done} was done, {answers} was answered"
    assert closed == bool(refused)
    assert answers[:-1] == [one for one in answers[:-1] if "error" not in one]
    for one in refused:
        assert one.keys() == {"error"}
        assert str(one["error"]).isprintable()
        assert len(one["error"]) < 200
    for how in {1 if len(stream) <= 300 else seed, seed}:
        found = asked.ask(pieces(stream, how))
        assert found == expected, f"cut by {how}: {found}, not {expected}"
    assert _descriptors() == descriptors, "a descriptor is left"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a hundred thousand times
