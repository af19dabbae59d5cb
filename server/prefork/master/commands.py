"""The control socket in the master's loop: who has asked for what, and who still waits for an answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from prefork.errors import ControlError
from prefork.master.control import REPLY_PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork.master.control import Asker, ControlSocket
    from prefork.master.events import Events

    Handle = Callable[[Asker, dict[str, Any]], None]


MOST_ASKERS: Final = 32
"""Connections open at once; one more ends the oldest, so that nobody who holds them keeps others out."""


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
    """Accepts on the control socket and gives each request to `handle`, which answers now or later.

    `handle` may raise `ControlError`: it becomes the answer.
    """

    def __init__(self, socket: ControlSocket | None, events: Events, handle: Handle) -> None:
        self._socket = socket
        self._events = events
        self._handle = handle
        self._askers: dict[Asker, None] = {}  # the oldest first
        if socket is not None:
            events.on(socket, self._on_socket)

    def open_things(self) -> list[Asker | ControlSocket]:
        """Return everything open here that no child may keep."""
        return [*self._askers, *([self._socket] if self._socket else [])]

    def take_over(self) -> None:
        """Answer at the path itself from now on; see `ControlSocket.take_over`."""
        if self._socket is not None:
            self._socket.take_over()

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

    def _on_socket(self) -> None:
        self._admit()

    def _admit(self) -> bool:
        asker = self._socket.accept() if self._socket is not None else None
        if asker is None:
            return False
        if len(self._askers) >= MOST_ASKERS:
            self._dismiss(next(iter(self._askers)))
        self._askers[asker] = None
        self._events.on(asker, lambda: self._on_asker(asker))
        return True

    def _on_asker(self, asker: Asker) -> None:
        try:
            request = asker.read()
            if request is not None:
                self._handle(asker, request)
        except ControlError as error:
            asker.answer(error=str(error))
            self._dismiss(asker)

    def _dismiss(self, asker: Asker) -> None:
        self._askers.pop(asker, None)
        self._events.drop(asker)
