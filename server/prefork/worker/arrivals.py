"""Connections of an async worker that have been accepted and are not let in yet: judged, and their PROXY headers read.

It stands between the acceptor and what makes a connection of a descriptor, and only where an option asks for it. A
header is read off the socket without a byte of what follows it, so that whatever comes next, TLS or a service of any
kind, begins as if there had been none. Nothing here knows what that is.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from prefork.connection.admission import Admission, Refused, Source, read_header
from prefork.connection.edge import FIRST_QUIET
from prefork.connection.proxy import Header
from prefork.log import LOGGER, fields

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Arrivals:
    """All of one worker.

    Args:
        loop: the worker's.
        admission: decides.
        take: makes a connection of a descriptor, its listener and its source.
        gone: is told of the source of each that does not get so far.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        admission: Admission,
        take: Callable[[int, socket.socket, object], None],
        gone: Callable[[object], None],
    ) -> None:
        self._loop = loop
        self._admission = admission
        self._take = take
        self._gone = gone
        self._waiting: set[_Arrival] = set()
        self._draining_since: float | None = None

    def come(self, fd: int, listener: socket.socket, address: object) -> None:
        """Let an accepted connection in, now or when its header has come, or refuse it."""
        try:
            source = self._admission.meet(address)
        except Refused as why:
            self._refuse(socket.socket(fileno=fd), Source(address), why)
            return
        if not self._admission.reads_headers:
            self._take(fd, listener, source)
            return
        arrival = _Arrival(socket.socket(fileno=fd), listener, source, Header(self._admission.versions))
        arrival.socket.setblocking(False)
        self._waiting.add(arrival)
        self._loop.add_reader(fd, self._read, arrival)

    def sweep(self, *, draining: bool) -> None:
        """Refuse whose header has not come in time; let go of those who have sent nothing to a worker that drains."""
        now = time.monotonic()
        if draining and self._draining_since is None:
            self._draining_since = now
        for one in tuple(self._waiting):
            if now - one.since >= self._admission.header_timeout:
                self._leave(one)
                self._refuse(one.socket, one.source, self._admission.too_late())
            elif (
                self._draining_since is not None
                and not one.header.begun
                and now - max(one.since, self._draining_since) >= FIRST_QUIET
            ):
                self._close(one, "the worker drains")

    def drop(self) -> None:
        """Close all: the drain timeout has come."""
        for one in tuple(self._waiting):
            self._close(one, "the worker leaves")

    def _read(self, one: _Arrival) -> None:
        try:
            if not read_header(one.socket, one.header):
                return
            self._leave(one)
            self._admission.take_header(one.source, one.header.proxied)
        except BlockingIOError:
            return
        except Refused as why:
            self._leave(one)
            self._refuse(one.socket, one.source, why)
        except (EOFError, OSError):
            self._close(one, "the peer left")
        else:
            self._take(one.socket.detach(), one.listener, one.source)

    def _leave(self, one: _Arrival) -> None:
        if one in self._waiting:
            self._waiting.discard(one)
            self._loop.remove_reader(one.socket.fileno())

    def _refuse(self, sock: socket.socket, source: Source, why: Refused) -> None:
        self._admission.refuse(sock, source, why)
        self._gone(source)

    def _close(self, one: _Arrival, why: str) -> None:
        LOGGER.debug("a connection ended before its PROXY header: %s", why, extra=fields(peer=one.source.name))
        self._leave(one)
        one.socket.close()
        self._gone(one.source)


class _Arrival:
    """One whose header is awaited."""

    __slots__ = ("header", "listener", "since", "socket", "source")

    def __init__(self, sock: socket.socket, listener: socket.socket, source: Source, header: Header) -> None:
        self.socket = sock
        self.listener = listener
        self.source = source
        self.header = header
        self.since = time.monotonic()
