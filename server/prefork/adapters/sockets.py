"""A `handle(sock, address)` function in a threads or sync worker: a real socket, whose waits are watched over.

The function is given a `socket.socket` that behaves as one: `recv`, `send`, `sendall`, `makefile`, `settimeout`. Each
wait for bytes also has the limits of the settings, and ends when the worker drains and the connection is quiet (see
`edge.silence`): then it raises `Ended`, a `TimeoutError`, once, and after that reads an end of file. A limit of the
function's own (`settimeout`) counts if it is shorter; a socket it makes non-blocking is its own to wait for.

The connection is over when the function returns: half-closed, read to the peer's end (bounded) and closed. Closing it
earlier does the same. One call is one request on the scoreboard, as `socketserver` has it. This file never accepts, and
knows nothing of TLS: `secure` does.
"""

from __future__ import annotations

import errno
import itertools
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from prefork.adapters.opaque import Ended
from prefork.connection import edge, journal
from prefork.connection.blocking import wait_for
from prefork.connection.edge import LINGER, RECEIVE_SIZE, SLOW_AT, ConnectionEnded, Wait, silence
from prefork.log import LOGGER
from prefork.scoreboard import Field

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from prefork.connection.admission import Source
    from prefork.connection.blocking import Wakes
    from prefork.connection.edge import Limits
    from prefork.connection.journal import Cells
    from prefork.connection.terms import Terms
    from prefork.scoreboard import Row
    from prefork.service import Service

_ids = itertools.count(1)

DRAIN_STEP: Final = 0.1
"""Seconds between two looks at how long a connection of a draining worker has been silent."""


class _Sendable(Protocol):
    """What `socket.sendfile` takes."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> object: ...


class WatchedSocket(socket.socket):
    """The socket of one connection: it counts, keeps the deadlines, hears of the drain and closes in order."""

    def __init__(self, sock: socket.socket, limits: Limits, cells: Cells, wakes: Wakes) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self._limits = limits
        self._cells = cells
        self._wakes = wakes
        self._wait = Wait.FIRST_BYTE
        self._owes = False
        self.error: OSError | None = None  # the last that a call here raised: the peer's doing, not the function's
        self.over = ""  # why we have ended it

    def begin(self, peer: str) -> None:
        """Do what comes before the function.

        Raises:
            ConnectionEnded: a TLS handshake failed.
        """

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return what comes; b"" at the peer's end.

        Raises:
            Ended: the peer was too slow, or the worker drains.
        """
        began = time.monotonic()
        while not self.over:
            self._await_bytes(began)
            try:
                data = super().recv(bufsize, flags | self._at_once())
            except OSError as error:
                self._note(error)
            else:
                self._count(len(data), flags)
                return data
        return b""

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Write what comes into `buffer` and return its size; the same as `recv` otherwise."""
        began = time.monotonic()
        while not self.over:
            self._await_bytes(began)
            try:
                size = super().recv_into(buffer, nbytes, flags | self._at_once())
            except OSError as error:
                self._note(error)
            else:
                self._count(size, flags)
                return size
        return 0

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        """Send as much as the kernel takes now, at least a byte, and return how much.

        Raises:
            Ended: the peer has not read for `--write-timeout`.
        """
        sent = self._push(data, flags)
        self._has_sent(sent)
        return sent

    def sendall(self, data: Buffer, flags: int = 0, /) -> None:
        """Send all of `data`; every part has the write timeout for itself."""
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view, flags) :]

    def sendfile(self, file: _Sendable, offset: int = 0, count: int | None = None) -> int:
        """Send a file, read and sent in parts, so that each is counted and watched over; return how much."""
        return int(self._sendfile_use_send(file, offset, count))  # type: ignore[attr-defined] # as ssl.SSLSocket does

    def finish(self) -> None:
        """Close in order, whatever still refers to it."""
        if self.fileno() >= 0:
            self._real_close()

    def _real_close(self) -> None:
        """Half-close, read on until the peer closes too (bounded), and close: never a reset.

        It is what `socket.close` calls once no file of `makefile` refers to the socket, as in `ssl.SSLSocket`.
        """
        try:
            self.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + LINGER
            while time.monotonic() < deadline and wait_for(self.fileno(), select.POLLIN, deadline, self._wakes):
                if not super().recv(RECEIVE_SIZE):
                    break
        except OSError:
            pass  # the peer is gone already
        finally:
            super()._real_close()  # type: ignore[misc] # not in the stubs

    def _push(self, data: Buffer, flags: int = 0) -> int:
        """Give the kernel as much as it takes, as `send` does, and count nothing."""
        deadline = time.monotonic() + self._limits.write
        while True:
            try:
                return super().send(data, flags | self._at_once())
            except OSError as error:
                self._note(error)
                if not wait_for(self.fileno(), select.POLLOUT, deadline, self._wakes):
                    raise self._ended(SLOW_AT[Wait.READER]) from None

    def _has_sent(self, size: int) -> None:
        self._cells[Field.BYTES_OUT] += size
        self._owes = False

    def _at_once(self) -> int:
        """Return the flag that keeps the kernel from waiting: `wait_for` does. A limit of one's own needs none."""
        return 0 if self.gettimeout() is not None else socket.MSG_DONTWAIT

    def _note(self, error: OSError) -> None:
        """Raise an error of the peer's, and remember it; nothing to read or no room to write is none.

        Raises:
            OSError: as it came.
        """
        if isinstance(error, BlockingIOError) and self.gettimeout() != 0:
            return
        if error.errno != errno.EBADF:  # the function has closed it
            self.error = error
        raise error

    def _count(self, size: int, flags: int) -> None:
        if size and not flags & socket.MSG_PEEK:
            self._cells[Field.BYTES_IN] += size
            self._wait = Wait.NEXT
            self._owes = True

    def _await_bytes(self, began: float) -> None:
        """Wait until something can be read, as long as the limits and the worker allow: counted from `began`."""
        own = self.gettimeout()
        if own == 0:
            return
        since = time.monotonic()
        deadline = began + self._limits[self._wait]
        own_deadline = began + own if own is not None else deadline
        while True:
            draining = self._wakes.draining
            until = min(deadline, own_deadline)
            if draining:
                until = min(until, time.monotonic() + DRAIN_STEP)
            if wait_for(self.fileno(), select.POLLIN, until, self._wakes, wake=not draining):
                return
            now = time.monotonic()
            if now >= deadline:
                raise self._ended(SLOW_AT[self._wait])
            if now >= own_deadline:
                raise TimeoutError("timed out")
            if not draining:
                since = now
            elif now - since >= silence(self._limits, owes=self._owes, closing=self._wakes.closing):
                raise self._ended(edge.DRAINS)

    def _ended(self, reason: str) -> Ended:
        self.over = reason
        return Ended(reason)


def serve(  # noqa: PLR0913, PLR0917 - called in one place
    sock: socket.socket,
    service: Service,
    limits: Limits,
    row: Row,
    wakes: Wakes,
    terms: Terms | None = None,
    source: Source | None = None,
) -> None:
    """Serve one connection to its end with a function of a socket and an address, and close it."""
    peer = edge.take_peer(sock) if source is None else source.name
    number, why = next(_ids), edge.RETURNED
    cells = journal.account(row)
    watched = WatchedSocket(sock, limits, cells, wakes) if terms is None else _secure(sock, limits, cells, wakes, terms)
    try:
        watched.begin(peer)
        cells[Field.REQUESTS] += 1
        service.handler(watched, _address(watched) if source is None else source.address)
    except ConnectionEnded as error:
        LOGGER.debug("connection %d from %s %s", number, peer, error)
    except BaseException as error:  # noqa: BLE001 - whatever it raises, exit() included, ends this connection alone
        if error is watched.error:
            LOGGER.debug("connection %d from %s: %s", number, peer, error)
            why = edge.why_lost(error)
        else:
            row.cells[Field.ERRORS] += 1
            why = edge.failure(error)
            journal.handler_failed(error, peer, number)
    finally:
        watched.finish()
        row.cells[Field.CONNECTIONS] -= 1
        journal.closed(cells, number, peer, watched.over or why)


def _secure(sock: socket.socket, limits: Limits, cells: Cells, wakes: Wakes, terms: Terms) -> WatchedSocket:
    from prefork.adapters.secure import SecureSocket  # noqa: PLC0415 - without TLS it would be mere memory

    return SecureSocket(sock, limits, cells, wakes, terms)


def _address(sock: WatchedSocket) -> Any:  # noqa: ANN401 - a tuple, or a path
    try:
        return sock.getpeername()
    except OSError as error:  # it has left already
        sock.error = error
        raise
