"""How the connection of a function fares: what it waits for, since when, and how long that may go on.

Each wait for bytes or for room is a poll(2) with the limits of the settings, the function's own deadline, and an end
when the worker drains and the connection is quiet (see `edge.silence`). The limits count from the first wait since
bytes came, or from what was sent since then: a function that waits in short steps gives its peer no more time.
It owns these clocks and waits, and counts bytes; it never reads or sends one: `sockets` and `secure` do.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from prefork.adapters.opaque import Ended
from prefork.connection import edge
from prefork.connection.edge import SLOW_AT, Wait, silence
from prefork.connection.poll import wait_for
from prefork.scoreboard import Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork.connection.edge import Limits
    from prefork.connection.journal import Cells
    from prefork.connection.poll import Wakes

DRAIN_STEP: Final = 0.1
"""Seconds between two looks at how long a connection of a draining worker has been silent."""


class Course:
    """How a connection fares: one for all sockets that `dup` has made of its first.

    Attributes:
        limits: how long each wait may take.
        cells: its counters.
        wakes: how its worker drains.
        over: why we have ended it; "" as long as we have not.
        error: the last error that a call raised: the peer's doing, not the function's.
        sockets: those of the connection that are open.
    """

    def __init__(self, limits: Limits, cells: Cells, wakes: Wakes) -> None:
        self.limits = limits
        self.cells = cells
        self.wakes = wakes
        self.over = ""
        self.error: OSError | None = None
        self.sockets: WeakSet[socket.socket] = WeakSet()
        self._wait = Wait.FIRST_BYTE
        self._owes = False  # the last bytes came from the peer
        # when the wait for bytes that have not come yet began: the first with the connection, others in the function
        self._since: float | None = time.monotonic()
        self._sent_at = -math.inf
        self._full_since: float | None = None  # when there was no room for what it sends, and there has been none since
        self._drains_since = math.inf  # as this connection has noticed

    def begin(self) -> None:
        """Let the wait for the first byte begin: what came before had a limit of its own."""
        self._since = time.monotonic()

    def silent_since(self) -> float:
        """Return when the wait for bytes began that goes on, or when something was sent since then.

        It begins here if bytes have come since, to another thread.
        """
        since = self._since  # asked once: another thread may set it
        if since is None:
            since = self._since = time.monotonic()
        return max(since, self._sent_at)

    def has_received(self, size: int) -> None:
        """Count so many bytes of the peer's in: the next wait is another one."""
        if size:
            self.cells[Field.BYTES_IN] += size
            self._wait = Wait.NEXT
            self._owes = True
            self._since = None

    def has_sent(self, size: int) -> None:
        """Count so many bytes out: the peer is given time to answer."""
        if size:
            self.cells[Field.BYTES_OUT] += size
            self._owes = False
            self._sent_at = time.monotonic()

    def found_room(self) -> None:
        """Note that the peer has read: the write timeout counts from there."""
        self._full_since = None

    def note(self, error: OSError, *, waits: bool = True) -> None:
        """Raise an error of the peer's, and remember it; to who waits, nothing to read or no room to write is none.

        Raises:
            OSError: as it came.
        """
        if isinstance(error, BlockingIOError) and waits:
            return
        if error.errno != errno.EBADF:  # the function has closed it
            self.error = error
        try:
            raise error
        finally:
            del error  # or it would refer to itself, by its traceback

    def await_bytes(self, sock: socket.socket, until: float, events: int = select.POLLIN) -> None:
        """Wait until something can be read, as long as the limits, the worker and the function's own deadline allow.

        Or until something else of `events` (poll(2)) happens.

        Raises:
            Ended: the peer was too slow, or the worker drains.
            TimeoutError: it is `until`, the function's own deadline.
        """
        while sock.fileno() >= 0:  # what reads from a closed one says so
            now = time.monotonic()
            draining = self.wakes.draining
            step = math.inf
            if draining:
                self._drains_since = min(self._drains_since, now)
                step = now + DRAIN_STEP
            deadline = self.silent_since() + self.limits[self._wait]
            if wait_for(sock.fileno(), events, min(deadline, until, step), self.wakes, wake=not draining):
                return
            silent_since, now = self.silent_since(), time.monotonic()  # another thread may have moved something
            if now >= silent_since + self.limits[self._wait]:
                raise self._ended(SLOW_AT[self._wait])
            if draining and now - max(silent_since, self._drains_since) >= silence(
                self.limits, self._wait, owes=self._owes, closing=self.wakes.closing
            ):
                raise self._ended(edge.DRAINS)
            if now >= until:
                raise self._timed_out()

    def push(self, sock: socket.socket, give: Callable[[int], int], flags: int, until: float, *, waits: bool) -> int:
        """Return what `give` does, called with flags that let it wait for nothing; where there is no room, wait for it.

        Raises:
            Ended: the peer has not read for as long as it may.
            TimeoutError: it is `until`, the function's own deadline.
            BlockingIOError: there is no room, and it does not wait.
        """
        if self.over == SLOW_AT[Wait.READER]:  # and was told: who tries again is not to wait again
            self.note(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        while True:
            try:
                size = give(flags | socket.MSG_DONTWAIT)
            except OSError as error:
                now = time.monotonic()
                if self._full_since is None and isinstance(error, BlockingIOError):
                    self._full_since = now
                self.note(error, waits=waits)
            else:
                self._full_since = None
                return size
            deadline = (self._full_since or now) + self.limits.write
            # the function's is asked here too: a peer that reads little and often makes room again and again
            if now < until and wait_for(sock.fileno(), select.POLLOUT, min(deadline, until), self.wakes):
                continue
            now, full_since = time.monotonic(), self._full_since  # another thread may have found room
            if full_since is not None and now >= full_since + self.limits.write:
                raise self._ended(SLOW_AT[Wait.READER])
            if now >= until:
                raise self._timed_out()

    def _timed_out(self) -> TimeoutError:
        """Remember the end of the function's own limit as the peer's doing."""
        self.error = TimeoutError("timed out")
        return self.error

    def _ended(self, reason: str) -> Ended:
        self.over = reason
        return Ended(reason)
