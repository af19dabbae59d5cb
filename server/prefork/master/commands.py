"""The control socket in the master's loop: who has asked for what, and who still waits for an answer.

It owns which commands there are and how each is answered; what a command does is the server's. Nothing that is said
here ends the master: it is obeyed, or refused in one line.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from prefork.errors import ControlError
from prefork.log import LOGGER
from prefork.master.control import REPLY_PATIENCE
from prefork.settings import MAX_WORKERS

if TYPE_CHECKING:
    from prefork.master.control import Asker, ControlSocket
    from prefork.master.events import Events


class Commanded(Protocol):
    """A server as its commands see it: the master."""

    def status(self) -> dict[str, Any]:
        """Return what `prefork status --json` prints."""
        ...

    def stop(self, *, now: bool) -> None:
        """Stop, gracefully or now."""
        ...

    def scale(self, workers: int) -> None:
        """Set how many workers there should be."""
        ...

    def reopen_logs(self) -> str:
        """Reopen the log file; return why that is not possible."""
        ...

    def reload(self, asker: Asker | None) -> None:
        """Try a new generation; answers by itself, now or later."""
        ...

    def upgrade(self, asker: Asker | None) -> None:
        """Try a new master; answers by itself, now or later."""
        ...


def obey(server: Commanded, asker: Asker, request: dict[str, Any]) -> None:
    """Do what is asked and answer.

    Raises:
        ControlError: there is no such command, or not with these values.
    """
    match request:
        case {"command": "status"}:
            asker.answer(**server.status())
        case {"command": "stop", **rest}:
            now = bool(rest.get("now"))
            LOGGER.info("asked on the control socket: %s", "stop now" if now else "stop gracefully")
            server.stop(now=now)
            asker.answer(ok=True)
        case {"command": "scale", "workers": int(count)} if 1 <= count <= MAX_WORKERS and count is not True:
            server.scale(count)
            asker.answer(ok=True, workers=count)
        case {"command": "scale"}:
            raise ControlError(f"scale: give a number of workers from 1 to {MAX_WORKERS}")
        case {"command": "reopen-logs"}:
            if why := server.reopen_logs():
                raise ControlError(why)
            asker.answer(ok=True)
        case {"command": "reload"}:
            server.reload(asker)
        case {"command": "upgrade"}:
            server.upgrade(asker)
        case {"command": str(name)}:
            raise ControlError(f"unknown command {name[:40]!r}")
        case _:
            raise ControlError('not a request: there is no name in its "command"')


MOST_ASKERS: Final = 32
"""Connections open at once; one more ends the oldest, so that nobody who holds them keeps others out."""


PAUSE: Final = 0.5
"""Seconds without accepting when there is no descriptor left for it: trying at once would spin."""


class Audience:
    """Those who wait for the end of one thing, such as a reload."""

    def __init__(self) -> None:
        self._waiting: list[Asker] = []

    def add(self, asker: Asker | None) -> None:
        """Let `asker` wait too; None is whoever sent a signal, and cannot be told."""
        if asker is not None:
            self._waiting.append(asker)

    def tell(self, **answer: object) -> None:
        """Answer everybody; those who have left meanwhile are closed and not told."""
        for asker in self._waiting:
            asker.answer(**answer)
        self._waiting.clear()


class Commands:
    """Accepts on the control socket, and lets `server` obey each request."""

    def __init__(self, socket: ControlSocket | None, events: Events, server: Commanded) -> None:
        self._socket = socket
        self._events = events
        self._server = server
        self._askers: dict[Asker, None] = {}  # the oldest first
        self._again_at: float | None = None  # when to accept again, on the monotonic clock
        self._retired = False
        if socket is not None:
            events.on(socket, self._on_socket)

    def open_things(self) -> list[Asker | ControlSocket]:
        """Return everything open here that no child may keep."""
        return [*self._askers, *([self._socket] if self._socket else [])]

    def take_over(self) -> None:
        """Answer at the path itself from now on; see `ControlSocket.take_over`."""
        if self._socket is not None:
            self._socket.take_over()

    def retire(self) -> None:
        """Refuse from now on, until `close`, what would be done here and not by the newer master that takes over."""
        self._retired = True

    def forget_heir(self, pid: int) -> None:
        """Remove what a new master that was killed has left beside the path."""
        if self._socket is not None:
            self._socket.forget_heir(pid)

    def close(self) -> None:
        """Close the socket and everybody's connection; whoever has asked already is answered first."""
        while self._admit():
            pass
        deadline = time.monotonic() + REPLY_PATIENCE  # for all together
        for asker in tuple(self._askers):
            if asker.wait(deadline):
                self._on_asker(asker)
        for asker in tuple(self._askers):
            self._dismiss(asker)
        if self._socket is not None:
            self._events.drop(self._socket)
            self._socket.unlink()
            self._socket = None

    def look(self, now: float) -> None:
        """Accept again after a shortage; the loop calls it in every turn."""
        if self._again_at is not None and now >= self._again_at and self._socket is not None:
            self._again_at = None
            self._events.on(self._socket, self._on_socket)

    def _on_socket(self) -> None:
        self._admit()

    def _admit(self) -> bool:
        try:
            asker = self._socket.accept() if self._socket is not None else None
        except OSError as error:
            self._pause(error)
            return False
        if asker is None:
            return False
        if len(self._askers) >= MOST_ASKERS:
            self._dismiss(next(iter(self._askers)))
        self._askers[asker] = None
        self._events.on(asker, lambda: self._on_asker(asker))
        return True

    def _pause(self, error: OSError) -> None:
        if self._socket is not None and self._again_at is None:
            self._again_at = time.monotonic() + PAUSE
            self._events.off(self._socket)
            LOGGER.debug("cannot accept on the control socket: %s; trying again in %g s", error.strerror, PAUSE)

    def _on_asker(self, asker: Asker) -> None:
        try:
            asker.feed()
            while (request := asker.take()) is not None:
                self._obey(asker, request)
        except ControlError as error:
            asker.answer(error=str(error))
            self._dismiss(asker)

    def _obey(self, asker: Asker, request: dict[str, Any]) -> None:
        if self._retired and request.get("command") in {"stop", "scale"}:
            raise ControlError("a newer master is taking over; ask again")
        obey(self._server, asker, request)

    def _dismiss(self, asker: Asker) -> None:
        self._askers.pop(asker, None)
        self._events.drop(asker)
