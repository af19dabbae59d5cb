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
import errno
import itertools
import math
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from weakref import WeakSet

from prefork.adapters.opaque import Ended
from prefork.connection import edge, journal
from prefork.connection.blocking import wait_for
from prefork.connection.edge import LINGER, RECEIVE_SIZE, SLOW_AT, ConnectionEnded, Wait, silence
from prefork.log import LOGGER
from prefork.scoreboard import Field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Buffer

    from prefork.connection.admission import Source
    from prefork.connection.blocking import Wakes
    from prefork.connection.edge import Limits
    from prefork.connection.journal import Cells
    from prefork.connection.terms import Terms
    from prefork.scoreboard import Row
    from prefork.service import Service

T = TypeVar("T")

_ids = itertools.count(1)

DRAIN_STEP: Final = 0.1
"""Seconds between two looks at how long a connection of a draining worker has been silent."""

_NEVER_WAITS: Final = socket.MSG_DONTWAIT | socket.MSG_OOB | socket.MSG_ERRQUEUE
"""Flags with which recv(2) says at once what it has, or that there is nothing."""


class _Sendable(Protocol):
    """What `socket.sendfile` takes."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> object: ...


class Course:
    """How a connection fares: one for all sockets that `dup` has made of its first."""

    def __init__(self) -> None:
        self.wait = Wait.FIRST_BYTE
        self.owes = False
        # when the wait for bytes that have not come yet began: the first with the connection, others in the function
        self.since: float | None = time.monotonic()
        self.sent_at = -math.inf
        self.full_since: float | None = None  # when there was no room for what it sends, and there has been none since
        self.drains_since = math.inf  # as this connection has noticed
        self.error: OSError | None = None  # the last that a call raised: the peer's doing, not the function's
        self.over = ""  # why we have ended it
        self.sockets: WeakSet[WatchedSocket] = WeakSet()  # those that are open

    def silent_since(self) -> float:
        """Return when the wait for bytes began that goes on, or when something was sent since then.

        It begins here if bytes have come since, to another thread.
        """
        since = self.since  # asked once: another thread may set it
        if since is None:
            since = self.since = time.monotonic()
        return max(since, self.sent_at)


class WatchedSocket(socket.socket):
    """A socket of one connection: it counts, keeps the deadlines, hears of the drain and closes in order."""

    def __init__(
        self, sock: socket.socket, limits: Limits, cells: Cells, wakes: Wakes, course: Course | None = None
    ) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self._limits = limits
        self._cells = cells
        self._wakes = wakes
        self.course = course or Course()
        self.course.sockets.add(self)
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
        twin = WatchedSocket(twin, self._limits, self._cells, self._wakes, self.course)
        twin.settimeout(self._own)
        return twin

    # Ending. ---------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Close in order, whatever still refers to it."""
        for sock in tuple(self.course.sockets):
            sock._real_close()  # noqa: SLF001 - the same class

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
            while time.monotonic() < deadline and wait_for(self.fileno(), select.POLLIN, deadline, self._wakes):
                with contextlib.suppress(BlockingIOError):  # another thread has taken it
                    if not super().recv(RECEIVE_SIZE, socket.MSG_DONTWAIT):
                        break
        except OSError:
            pass  # the peer is gone already
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
                self._await_bytes(until)
            try:
                got = take(flags | socket.MSG_DONTWAIT)
            except OSError as error:
                self.course.silent_since()  # who asks again and again waits too
                self._note(error, waits=waits)
            else:
                self._count(size(got), flags)
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
        sent = self._push(give, flags, until)
        self._has_sent(sent)
        return sent

    def _push(self, give: Callable[[int], int], flags: int, until: float, *, always: bool = False) -> int:
        """Return what `give` does, called with flags, once there is room; `until` is the function's own deadline.

        It waits `always`, or as the function and its flags have it.
        """
        if self.course.over == SLOW_AT[Wait.READER]:  # and was told: who tries again is not to wait again
            self._note(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        waits = always or (self._own != 0 and not flags & socket.MSG_DONTWAIT)
        while True:
            try:
                size = give(flags | socket.MSG_DONTWAIT)
            except OSError as error:
                now = time.monotonic()
                if self.course.full_since is None and isinstance(error, BlockingIOError):
                    self.course.full_since = now
                self._note(error, waits=waits)
            else:
                self.course.full_since = None
                return size
            deadline = (self.course.full_since or now) + self._limits.write
            # the function's is asked here too: a peer that reads little and often makes room again and again
            if now < until and wait_for(self.fileno(), select.POLLOUT, min(deadline, until), self._wakes):
                continue
            now, full_since = time.monotonic(), self.course.full_since  # another thread may have found room
            if full_since is not None and now >= full_since + self._limits.write:
                raise self._ended(SLOW_AT[Wait.READER])
            if now >= until:
                self.course.error = TimeoutError("timed out")
                raise self.course.error

    def _has_sent(self, size: int) -> None:
        if size:
            self._cells[Field.BYTES_OUT] += size
            self.course.owes = False
            self.course.sent_at = time.monotonic()

    def _note(self, error: OSError, *, waits: bool = True) -> None:
        """Raise an error of the peer's, and remember it; to who waits, nothing to read or no room to write is none.

        Raises:
            OSError: as it came.
        """
        if isinstance(error, BlockingIOError) and waits:
            return
        if error.errno != errno.EBADF:  # the function has closed it
            self.course.error = error
        try:
            raise error
        finally:
            del error  # or it would refer to itself, by its traceback

    def _count(self, size: int, flags: int) -> None:
        if size and not flags & socket.MSG_PEEK:
            self._cells[Field.BYTES_IN] += size
            self.course.wait = Wait.NEXT
            self.course.owes = True
            self.course.since = None

    def _await_bytes(self, until: float, events: int = select.POLLIN) -> None:
        """Wait until something can be read, as long as the limits, the worker and the function's own deadline allow.

        Or until something of `events` (poll(2)) happens.

        The limits count from the first wait since bytes came, or from what was sent since then: a function that waits
        in short steps gives its peer no more time than others do.
        """
        while self.fileno() >= 0:  # what reads from a closed one says so
            now = time.monotonic()
            draining = self._wakes.draining
            step = math.inf
            if draining:
                self.course.drains_since = min(self.course.drains_since, now)
                step = now + DRAIN_STEP
            deadline = self.course.silent_since() + self._limits[self.course.wait]
            if wait_for(self.fileno(), events, min(deadline, until, step), self._wakes, wake=not draining):
                return
            silent_since, now = self.course.silent_since(), time.monotonic()  # another thread may have moved something
            if now >= silent_since + self._limits[self.course.wait]:
                raise self._ended(SLOW_AT[self.course.wait])
            if draining and now - max(silent_since, self.course.drains_since) >= silence(
                self._limits, owes=self.course.owes, closing=self._wakes.closing
            ):
                raise self._ended(edge.DRAINS)
            if now >= until:
                raise TimeoutError("timed out")

    def _await_as_many(self, size: int, until: float) -> None:
        """Wait as `_await_bytes` does, but for so many bytes, or the end: what is only looked at cannot be gathered."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        try:
            self._await_bytes(until)
        finally:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _ended(self, reason: str) -> Ended:
        self.course.over = reason
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
        if error is watched.course.error:
            LOGGER.debug("connection %d from %s: %s", number, peer, error)
            why = edge.why_lost(error)
        else:
            row.cells[Field.ERRORS] += 1
            why = edge.failure(error)
            journal.handler_failed(error, peer, number)
    finally:
        watched.finish()
        watched.course.error = None  # it refers to all that the function had, and that to it
        row.cells[Field.CONNECTIONS] -= 1
        journal.closed(cells, number, peer, watched.course.over or why)


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


def _secure(sock: socket.socket, limits: Limits, cells: Cells, wakes: Wakes, terms: Terms) -> WatchedSocket:
    from prefork.adapters.secure import SecureSocket  # noqa: PLC0415 - without TLS it would be mere memory

    return SecureSocket(sock, limits, cells, wakes, terms)


def _address(sock: WatchedSocket) -> Any:  # noqa: ANN401 - a tuple, or a path
    try:
        return sock.getpeername()
    except OSError as error:  # it has left already
        sock.course.error = error
        raise
