"""A `handle(sock, address)` function in a threads or sync worker: a real socket, whose waits are watched over.

The function is given a `socket.socket` that behaves as one: `recv`, `send`, `sendall`, `makefile`, `settimeout`. Each
wait for bytes also has the limits of the settings, and ends when the worker drains and the connection is quiet (see
`edge.silence`): then it raises `Ended`, a `TimeoutError`, once, and after that reads an end of file; a file of
`makefile` goes on to raise, as after any timeout. Who sends again to a peer that did not read is told that it is gone.
A limit of the function's own (`settimeout`) counts if it is shorter; a socket it makes non-blocking is its own to wait
for. A wait that it has cut short by either goes on in the next call, until a byte has passed.

The connection is over when the function returns: half-closed, read to the peer's end (bounded) and closed. Closing it
earlier does the same. One call is one request on the scoreboard, as `socketserver` has it. This file never accepts, and
knows nothing of TLS: `secure` does.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from prefork.adapters.course import Course
from prefork.adapters.opaque import Ended
from prefork.connection import edge, journal
from prefork.connection.edge import LINGER, RECEIVE_SIZE, ConnectionEnded
from prefork.connection.poll import wait_for
from prefork.log import LOGGER
from prefork.scoreboard import Field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

    from prefork.connection.admission import Source
    from prefork.connection.edge import Limits
    from prefork.connection.poll import Wakes
    from prefork.connection.terms import Terms
    from prefork.scoreboard import Row
    from prefork.service import Service

T = TypeVar("T")

_ids = itertools.count(1)

_NEVER_WAITS: Final = socket.MSG_DONTWAIT | socket.MSG_OOB | socket.MSG_ERRQUEUE
"""Flags with which recv(2) says at once what it has, or that there is nothing."""


class _Sendable(Protocol):
    """What `socket.sendfile` takes."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> object: ...


class WatchedSocket(socket.socket):
    """A socket of one connection: it counts, keeps the deadlines, hears of the drain and closes in order."""

    def __init__(self, sock: socket.socket, course: Course) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.course = course
        course.sockets.add(self)
        self._own: float | None = None
        if (default := super().gettimeout()) is not None:  # `socket.setdefaulttimeout` was called
            self.settimeout(default)

    def begin(self, peer: str) -> None:
        """Do what comes before the function.

        Raises:
            ConnectionEnded: a TLS handshake failed.
        """

    # The function's own limit. ---------------------------------------------------------------------------------------

    def settimeout(self, value: float | None, /) -> None:
        """Set the function's own limit, in seconds: None for none, 0 to wait for nothing here.

        The descriptor's mode is that of any socket with this limit, for whoever it is passed on to.
        """
        super().settimeout(value)
        self._own = super().gettimeout()
        if self._own:
            super().settimeout(0.0)  # or each call would wait before it asks the kernel, and by no other limit

    def gettimeout(self) -> float | None:
        """Return the function's own limit."""
        return self._own

    @property
    def timeout(self) -> float | None:
        """The function's own limit."""
        return self._own

    def setblocking(self, flag: bool, /) -> None:  # noqa: FBT001 - as socket has it
        """Wait without a limit of the function's own, or for nothing here."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Say whether calls here wait at all."""
        return self._own != 0

    # Reading. --------------------------------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return what comes; b"" at the peer's end.

        Raises:
            Ended: the peer was too slow, or the worker drains.
        """
        if bufsize <= 0:
            return super().recv(bufsize)  # nothing, or an error
        until = self._own_deadline()
        data = self._recv(bufsize, flags, until)
        return data + self._rest(bufsize - len(data), flags, until) if flags & socket.MSG_WAITALL and data else data

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Write what comes into `buffer` and return its size; the same as `recv` otherwise."""
        view = _room(buffer, nbytes)
        if not view:
            return 0
        if flags & socket.MSG_WAITALL:
            return _spread(self.recv(len(view), flags), [view])
        until = self._own_deadline()
        return self._receive(lambda how: socket.socket.recv_into(self, view, 0, how), int, 0, 0, flags, until)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Return what comes and the address that the kernel gives with it; the same as `recv` otherwise."""
        data, _, _, address = self.recvmsg(bufsize, 0, flags)
        return data, address

    def recvfrom_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Write what comes into `buffer`; the same as `recvfrom` otherwise."""
        view = _room(buffer, nbytes)
        data, address = self.recvfrom(len(view), flags)
        return _spread(data, [view]), address

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """Return what comes, with ancillary data, flags and address (recvmsg(2)); the same as `recv` otherwise."""
        until = self._own_deadline()
        nothing: tuple[bytes, list[tuple[int, int, bytes]], int, Any] = (b"", [], 0, None)
        data, ancillary, said, address = self._receive(
            lambda how: socket.socket.recvmsg(self, bufsize, ancbufsize, how), _size, nothing, bufsize, flags, until
        )
        if flags & socket.MSG_WAITALL and data:
            data += self._rest(bufsize - len(data), flags, until)
        return data, ancillary, said, address

    def recvmsg_into(
        self, buffers: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """Write what comes into `buffers`, one after the other; the same as `recvmsg` otherwise."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        data, *more = self.recvmsg(sum(map(len, views)), ancbufsize, flags)
        return _spread(data, views), *more

    # Sending. --------------------------------------------------------------------------------------------------------

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        """Send as much as the kernel takes now, at least a byte, and return how much.

        Raises:
            Ended: the peer has not read for `--write-timeout`.
        """
        return self._send(data, flags, self._own_deadline())

    def sendall(self, data: Buffer, flags: int = 0, /) -> None:
        """Send all of `data`; every part has the write timeout for itself, and all have the function's own limit."""
        until = self._own_deadline()
        view = memoryview(data).cast("B")
        while view:
            view = view[self._send(view, flags, until) :]

    def sendto(self, data: Buffer, *rest: Any) -> int:  # noqa: ANN401 - an address, or flags before it
        """Send as `send` does: the kernel has the peer's address already, and leaves this one out of account."""
        if not 1 <= len(rest) <= 2:  # noqa: PLR2004 - see above
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(rest) + 1} given)")
        flags = rest[0] if len(rest) > 1 else 0
        return self._give(lambda how: socket.socket.sendto(self, data, how, rest[-1]), flags, self._own_deadline())

    def sendmsg(
        self,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: Any = None,  # noqa: ANN401 - a tuple, or a path
        /,
    ) -> int:
        """Send several pieces, with ancillary data (sendmsg(2)); the same as `send` otherwise."""
        pieces, ancillary = list(buffers), list(ancdata)  # it may be tried more than once
        return self._give(
            lambda how: socket.socket.sendmsg(self, pieces, ancillary, how, address), flags, self._own_deadline()
        )

    def sendfile(self, file: _Sendable, offset: int = 0, count: int | None = None) -> int:
        """Send a file, read and sent in parts, so that each is counted and watched over; return how much."""
        return int(self._sendfile_use_send(file, offset, count))  # type: ignore[attr-defined] # as ssl.SSLSocket does

    def dup(self) -> WatchedSocket:
        """Return another socket of the connection, watched alike; the last that is closed ends it."""
        twin = socket.socket(self.family, self.type, self.proto, os.dup(self.fileno()))
        twin = WatchedSocket(twin, self.course)
        twin.settimeout(self._own)
        return twin

    # Ending. ---------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Close in order, whatever still refers to it."""
        for sock in tuple(self.course.sockets):
            sock._real_close()  # type: ignore[attr-defined] # noqa: SLF001 - the same class

    def _real_close(self) -> None:
        """Half-close, read on until the peer closes too (bounded), and close: never a reset.

        It is what `socket.close` calls once no file of `makefile` refers to the socket, as in `ssl.SSLSocket`. Where
        another socket of `dup` is open it closes, and no more.
        """
        self.course.sockets.discard(self)
        try:
            if self.course.sockets:
                return
            self.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + LINGER
            while time.monotonic() < deadline and wait_for(self.fileno(), select.POLLIN, deadline, self.course.wakes):
                with contextlib.suppress(BlockingIOError):  # another thread has taken it
                    if not super().recv(RECEIVE_SIZE, socket.MSG_DONTWAIT):
                        break
        except (OSError, ValueError):
            pass  # the peer is gone already, or another thread has closed this too
        finally:
            super()._real_close()  # type: ignore[misc] # not in the stubs

    # Inside. ---------------------------------------------------------------------------------------------------------

    def _own_deadline(self) -> float:
        return time.monotonic() + self._own if self._own is not None else math.inf

    def _recv(self, size: int, flags: int, until: float) -> bytes:
        return self._receive(lambda how: socket.socket.recv(self, size, how), len, b"", size, flags, until)

    def _receive(
        self, take: Callable[[int], T], size: Callable[[T], int], nothing: T, wanted: int, flags: int, until: float
    ) -> T:
        """Return what `take` does, called with flags, once something has come; `nothing` if the connection is over.

        `until` is the function's own deadline.
        """
        waits = self._own != 0 and not flags & _NEVER_WAITS
        whole = waits and flags & socket.MSG_WAITALL and flags & socket.MSG_PEEK
        while not self.course.over:
            if whole:
                self._await_as_many(wanted, until)
            elif waits:
                self.course.await_bytes(self, until)
            try:
                got = take(flags | socket.MSG_DONTWAIT)
            except OSError as error:
                self.course.silent_since()  # who asks again and again waits too
                self.course.note(error, waits=waits)
            else:
                self.course.has_received(0 if flags & socket.MSG_PEEK else size(got))
                return got
        return nothing

    def _rest(self, size: int, flags: int, until: float) -> bytes:
        """Return the bytes behind the first that MSG_WAITALL waits for; fewer at the peer's end or the own limit's."""
        rest = bytearray()
        flags &= ~socket.MSG_WAITALL
        while len(rest) < size and self._own != 0 and not flags & (_NEVER_WAITS | socket.MSG_PEEK):
            try:
                data = self._recv(size - len(rest), flags, until)
            except Ended:  # an error, and not fewer bytes: those would pass for all that there were
                raise
            except TimeoutError:
                break
            if not data:
                break
            rest += data
        return bytes(rest)

    def _send(self, data: Buffer, flags: int, until: float) -> int:
        return self._give(lambda how: socket.socket.send(self, data, how), flags, until)

    def _give(self, give: Callable[[int], int], flags: int, until: float) -> int:
        """Have the kernel take as much as it will, count it and return how much."""
        waits = self._own != 0 and not flags & socket.MSG_DONTWAIT
        sent = self.course.push(self, give, flags, until, waits=waits)
        self.course.has_sent(sent)
        return sent

    def _await_as_many(self, size: int, until: float) -> None:
        """Wait for so many bytes, or the end: what is only looked at cannot be gathered."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        try:
            self.course.await_bytes(self, until)
        finally:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


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
    course = Course(limits, cells, wakes)
    watched = WatchedSocket(sock, course) if terms is None else _secure(sock, course, terms)
    try:
        watched.begin(peer)
        cells[Field.REQUESTS] += 1
        service.handler(watched, _address(watched) if source is None else source.address)
    except ConnectionEnded as error:
        LOGGER.debug("connection %d from %s %s", number, peer, error)
    except BaseException as error:  # noqa: BLE001 - whatever it raises, exit() included, ends this connection alone
        if error is course.error:
            LOGGER.debug("connection %d from %s: %s", number, peer, error)
            why = edge.why_lost(error)
        else:
            row.cells[Field.ERRORS] += 1
            why = edge.failure(error)
            journal.handler_failed(error, peer, number)
    finally:
        watched.finish()
        course.error = None  # it refers to all that the function had, and that to it
        row.cells[Field.CONNECTIONS] -= 1
        journal.closed(cells, number, peer, course.over or why)


def _size(received: tuple[bytes, object, object, object]) -> int:
    return len(received[0])


def _room(buffer: Buffer, nbytes: int) -> memoryview:
    """Return the part of `buffer` that so many bytes may be written into; 0 is for all of it.

    Raises:
        ValueError: it is smaller. Nothing has been read then.
    """
    view = memoryview(buffer).cast("B")
    if not 0 <= nbytes <= len(view):
        raise ValueError("nbytes is negative, or greater than the length of the buffer")
    return view[: nbytes or len(view)]


def _spread(data: bytes, views: list[memoryview]) -> int:
    """Write `data` into `views`, one after the other, and return its size."""
    rest = memoryview(data)
    for view in views:
        part, rest = rest[: len(view)], rest[len(view) :]
        view[: len(part)] = part
    return len(data)


def _secure(sock: socket.socket, course: Course, terms: Terms) -> WatchedSocket:
    from prefork.adapters.secure import SecureSocket  # noqa: PLC0415 - without TLS it would be mere memory

    return SecureSocket(sock, course, terms)


def _address(sock: WatchedSocket) -> Any:  # noqa: ANN401 - a tuple, or a path
    try:
        return sock.getpeername()
    except OSError as error:  # it has left already
        sock.course.error = error
        raise
