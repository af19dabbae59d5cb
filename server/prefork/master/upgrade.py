"""Upgrade: a new master, possibly a new version of this program, takes over the same open sockets.

A master forks and executes a new one as it was started itself, with its listeners open and a line between the two:
it is the new one's *maker*. The new one reads its settings, starts its workers and says "ready"; the maker answers
"granted" and lets its own workers leave; the new one takes the control path and says "taken". Whatever goes wrong
before "granted", the maker was never touched.

Whoever started the first master keeps the process it knows: that process stays as the *front* when its own workers
have left. It holds no socket, passes signals on to the master that serves, reaps, and ends as that one ends; so an
upgrade works as PID 1 of a container and below any supervisor. Every later master inherits the line to the front and
tells it who serves. Only a service manager that can be told of another main process (MAINPID) gets the new one instead,
and then the old one ends.

This file owns what is passed on and what is said. It never decides when.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prefork import environment
from prefork.errors import SettingsError
from prefork.listener import INHERITED, Heirloom
from prefork.master import process

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prefork.listener import Listener

# What is said, one line each. By a new master to its maker:
READY: Final = "ready"
FAILED: Final = "failed"  # with the reason
TAKEN: Final = "taken"  # the control path and the unix sockets' paths are mine
# By the maker to the new one:
GRANTED: Final = "granted"  # you are the one that serves
RELEASED: Final = "released"  # and you are the service's main process, with no front
# By the master that serves to the front:
MAIN: Final = "main"  # with the pid of the one that serves from now on
ENDED: Final = "ended"  # that one has ended, with its exit code; said by its maker, whose child it was

STARTED_IN: Final = environment.working_folder()
"""Where the program was started, and where a new one is: before any `--chdir`."""

_COULD_NOT_RUN: Final = 127


def go_to_the_start() -> None:
    """Make the folder in which the program was started the current one.

    Raises:
        SettingsError: it is gone.
    """
    try:
        os.chdir(STARTED_IN)
    except OSError as error:
        raise SettingsError([f"the folder it was started in, {STARTED_IN}: {error.strerror}"]) from error


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
    """A new master that this process has made: on trial until `deadline`, or the one that serves."""

    pid: int
    line: Channel
    deadline: float
    failure: str = ""

    def __str__(self) -> str:
        return f"new master pid {self.pid}"


@dataclass(frozen=True)
class Passed:
    """What a new master is given: the listeners, and those of the metrics socket."""

    listeners: Sequence[Listener]
    metrics: Sequence[Listener]


@dataclass(frozen=True)
class Heritage:
    """What a maker left: open listeners by the option they were made for, the line to it, and that to the front."""

    listeners: tuple[Heirloom, ...] = ()
    metrics: tuple[Heirloom, ...] = ()
    maker: Channel | None = None
    front: Channel | None = None

    @property
    def passed_on(self) -> tuple[int, ...]:
        """The descriptors that a service manager had passed to the first master."""
        return tuple(one.fd for one in self.listeners if one.bind == INHERITED)


def launch(
    passed_on: Passed, front: Channel | None, deadline: float, not_its_own: Iterable[process.Closeable]
) -> Successor:
    """Start a new master with what is passed on and the line to the front open.

    Raises:
        OSError: the kernel has no room for another process.
    """
    ours, theirs = socket.socketpair()
    heritage = json.dumps({
        "maker": theirs.fileno(),
        "front": front.fileno() if front else None,
        "listeners": [[one.bind, one.socket.fileno(), one.path] for one in passed_on.listeners],
        "metrics": [[one.bind, one.socket.fileno(), one.path] for one in passed_on.metrics],
    })  # fmt: skip
    kept = [theirs, *([front.socket] if front else [])]
    kept += [one.socket for one in (*passed_on.listeners, *passed_on.metrics)]
    fds = [sock.fileno() for sock in kept]
    its_own = {id(front), *map(id, passed_on.metrics)}
    command = [sys.executable, *sys.orig_argv[1:]]
    variables = environment.with_heritage(heritage)

    def execute() -> int:
        for fd in fds:
            os.set_inheritable(fd, True)
        try:
            go_to_the_start()
            os.execve(command[0], command, variables)  # noqa: S606 - the very command this process was started by
        except SettingsError as error:
            Channel(theirs).say(FAILED, str(error))
        except OSError as error:
            Channel(theirs).say(FAILED, f"cannot run {command[0]}: {error.strerror}")
        return _COULD_NOT_RUN

    try:
        pid = process.fork(execute, [ours, *(thing for thing in not_its_own if id(thing) not in its_own)])
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Successor(pid, Channel(ours), deadline)


def receive() -> Heritage:
    """Return what a maker left for this process; empty when there was none, or it cannot be read."""
    text = environment.take_heritage()
    if not text:
        return Heritage()
    try:
        left: dict[str, Any] = json.loads(text)
        listeners, metrics = (
            tuple(
                Heirloom(str(bind), int(fd), path) for bind, fd, path in left.get(key, [])
            )  # an older one has no metrics
            for key in ("listeners", "metrics")
        )
        maker = Channel(socket.socket(fileno=int(left["maker"])))
        front = None if left["front"] is None else Channel(socket.socket(fileno=int(left["front"])))
    except (ValueError, TypeError, KeyError, OSError):
        return Heritage()
    for fd in (maker.fileno(), *([front.fileno()] if front else []), *(one.fd for one in (*listeners, *metrics))):
        os.set_inheritable(fd, False)
    return Heritage(listeners, metrics, maker, front)
