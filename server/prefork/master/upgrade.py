"""Upgrade: a new master, possibly a new version of this program, takes over the same open sockets.

The old master forks and executes the new one as it was started itself, listeners open and a channel between
the two. The new one reads its settings, starts its workers, and says "ready"; only then do the old workers leave.
Whatever goes wrong before that word, the old one was never touched.

Whoever started the first master keeps the process it knows: that process stays as the *front* when its own workers have
left. It holds nothing, passes signals on, reaps, and ends as its successor ends; so an upgrade works as PID 1 of a
container and below any supervisor. Only a service manager that can be told of another main process (MAINPID) gets the
new one instead, and then the old one ends.

This file owns what is passed on and what is said on the channel. It never decides when.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prefork import environment
from prefork.listener import INHERITED
from prefork.master import process

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prefork.listener import Listener

# What is said on the channel, one line each. To the front:
READY: Final = "ready"
FAILED: Final = "failed"  # with the reason
STOPPING: Final = "stopping"  # it stops, and the last holder of the sockets must be one of its workers
UPGRADE: Final = "upgrade"  # somebody asked the new one for yet another
# And from it:
RETIRE: Final = "retire"  # your successor serves
REFUSED: Final = "refused"  # the upgrade you asked for failed; with the reason
RELEASED: Final = "released"  # you are the service's own main process now

STARTED_IN: Final = Path.cwd()
"""Where the program was started, and where a new one is: before any `--chdir`."""

_COULD_NOT_RUN: Final = 127


class Channel:
    """One end of the line between two masters: short lines of a word and, behind a blank, a reason."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._received = b""

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.socket.fileno()

    def say(self, word: str, reason: str = "") -> None:
        """Send one line; a peer that is gone is left alone."""
        line = f"{word} {reason}".strip().replace("\n", " ")[:1000]
        with contextlib.suppress(OSError):
            self.socket.sendall(line.encode("utf-8", "backslashreplace") + b"\n")

    def hear(self) -> tuple[list[tuple[str, str]], bool]:
        """Return the lines that have come, as word and reason, and whether the peer is gone."""
        gone = False
        try:
            data = self.socket.recv(65536)
            gone = not data
        except BlockingIOError:
            data = b""
        except OSError:
            data, gone = b"", True
        *lines, self._received = (self._received + data).split(b"\n")
        words = [line.decode("utf-8", "replace").partition(" ") for line in lines]
        return [(word, reason) for word, _, reason in words], gone

    def close(self) -> None:
        """Close this end."""
        self.socket.close()


@dataclass
class Successor:
    """A new master: on trial until `deadline`, or the one that serves."""

    pid: int
    channel: Channel
    deadline: float
    failure: str = ""

    def __str__(self) -> str:
        return f"new master pid {self.pid}"


@dataclass(frozen=True)
class Heritage:
    """What an older master left: open listeners by the `--bind` they were made for, and the line to it."""

    listeners: tuple[tuple[str, int, tuple[str, int] | None], ...] = ()
    channel: Channel | None = field(default=None)

    @property
    def passed_on(self) -> tuple[int, ...]:
        """The descriptors that a service manager had passed to the first master."""
        return tuple(fd for bind, fd, _ in self.listeners if bind == INHERITED)


def launch(listeners: Sequence[Listener], deadline: float, not_its_own: Iterable[process.Closeable]) -> Successor:
    """Start a new master with the listeners open.

    Raises:
        OSError: the kernel has no room for another process.
    """
    ours, theirs = socket.socketpair()
    fds = [theirs.fileno(), *(one.socket.fileno() for one in listeners)]
    heritage = json.dumps({
        "channel": theirs.fileno(),
        "listeners": [[one.bind, one.socket.fileno(), one.unlink] for one in listeners],
    })  # fmt: skip
    command = [sys.executable, *sys.orig_argv[1:]]
    variables = environment.with_heritage(heritage)

    def execute() -> int:
        for fd in fds:
            os.set_inheritable(fd, True)
        try:
            os.chdir(STARTED_IN)
            os.execve(command[0], command, variables)  # noqa: S606 - the very command this process was started by
        except OSError as error:
            Channel(theirs).say(FAILED, f"cannot run {command[0]}: {error.strerror}")
        return _COULD_NOT_RUN

    try:
        pid = process.fork(execute, [ours, *not_its_own])
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Successor(pid, Channel(ours), deadline)


def receive() -> Heritage:
    """Return what an older master left for this process; empty when there was none, or it cannot be read."""
    text = environment.take_heritage()
    if not text:
        return Heritage()
    try:
        left: dict[str, Any] = json.loads(text)
        listeners = tuple(
            (str(bind), int(fd), (str(unlink[0]), int(unlink[1])) if unlink else None)
            for bind, fd, unlink in left["listeners"]
        )
        channel = socket.socket(fileno=int(left["channel"]))
    except (ValueError, TypeError, KeyError, OSError):
        return Heritage()
    for fd in (channel.fileno(), *(fd for _, fd, _ in listeners)):
        os.set_inheritable(fd, False)
    return Heritage(listeners, Channel(channel))
