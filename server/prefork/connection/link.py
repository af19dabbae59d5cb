"""The asyncio side that every connection shares: its deadlines, its orderly close, its place in the accounts.

`Hub` is what the connections of one worker have in common; `Link` is one of them, an `asyncio.Protocol`. Deadlines are
two plain stores on the fast path (what is waited for, since when); one sweep per tick compares them with the limits.
This file never takes a frame: its subclasses do.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import socket
import struct
import termios
import time
from functools import partial
from logging import INFO
from typing import TYPE_CHECKING, Any, Final, Protocol

from prefork.connection import edge, hello, journal
from prefork.connection.edge import DRAINS, FIRST_QUIET, PAUSE_AT, PAUSE_AT_TLS, QUIET, RECEIVE_SIZE, SLOW_AT, Wait
from prefork.connection.journal import Account
from prefork.log import ACCESS, LOGGER
from prefork.scoreboard import Field
from prefork_wire import all_encoder, cutter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from prefork.connection.journal import Cells
    from prefork.connection.proxy import Proxied
    from prefork.connection.terms import Terms
    from prefork.scoreboard import Row
    from prefork.settings import Settings
    from prefork_wire import Framing

_CONNECTIONS: Final = int(Field.CONNECTIONS)
_ERRORS: Final = int(Field.ERRORS)
_BYTES_OUT: Final = int(Field.BYTES_OUT)

# looked up for every connection: an enumeration's own attributes are slower than a global
_CLOSE: Final = Wait.CLOSE
_FIRST_BYTE: Final = Wait.FIRST_BYTE

_ids = itertools.count(1)

_NOT_COUNTED: Final = 1 << 62
"""More bytes than anybody has unread."""


class Flushed(Protocol):
    """A link that keeps back what it sends, so that it leaves in one write."""

    def flush(self) -> None:
        """Send it."""

    def cannot_send(self, error: Exception) -> None:
        """Hear why that failed."""


class Hub:
    """What the connections of one worker share. `now` is the monotonic clock as of the last tick."""

    def __init__(
        self,
        settings: Settings,
        framing: Framing,
        row: Row,
        loop: asyncio.AbstractEventLoop,
        tls: Terms | None = None,
    ) -> None:
        self.framing = framing
        self.encode = framing.encode
        self.encode_all = all_encoder(framing)
        self.cells = row.cells
        self.loop = loop
        self.start = _starter(loop)  # makes a task of a dialogue
        self.limits = edge.limits(settings)
        self.write_limit = settings.max_write_buffer
        self.pause_at = int(self.write_limit * PAUSE_AT)  # asked for with every connection
        self.tls = tls
        self.secure = tls is not None and tls.implicit  # from the first byte
        self.hello = 0  # the connection that was last found to speak TLS where plain text is spoken
        self.accounts = ACCESS.isEnabledFor(INFO)  # whether each connection keeps one
        self.links: set[Link] = set()
        self.unread: set[Link] = set()  # those whose peers do not read, and some that no longer wait for that
        self.draining = False
        self.closing = False  # the last part of a drain
        self.released: Callable[[object], None] = _nothing  # told of whose connection is gone, after each
        self.now = time.monotonic()
        self._unflushed: list[Flushed] = []

    def flush_soon(self, link: Flushed) -> None:
        """Flush this link in the loop's next turn: one call of the loop's for all that ask, not one for each."""
        if not self._unflushed:
            self.loop.call_soon(self._flush)
        self._unflushed.append(link)

    def _flush(self) -> None:
        due, self._unflushed = self._unflushed, []
        for link in due:
            try:
                link.flush()
            except Exception as error:  # noqa: BLE001 - what one handler sends must not keep back another's
                link.cannot_send(error)

    def begin_to_drain(self) -> None:
        """Let connections end: what counts as quiet begins now, whatever the last tick's clock said of each."""
        self.draining = True
        self.now = time.monotonic()
        for link in tuple(self.links):
            link.since = self.now
            link.told()

    def sweep(self) -> None:
        """Close what has outlasted its limit and, in a draining worker, what has become quiet.

        A wait may have begun just before this tick and bear the time of the one before it: limits are measured by
        that, so that no peer is closed early.
        """
        before, now = self.now, time.monotonic()
        self.now = now
        for link in tuple(self.unread):
            if link.wait is not Wait.READER or link not in self.links:
                self.unread.discard(link)
            else:
                link.look_whether_it_reads()
        for link in tuple(self.links):
            if before - link.since > link.limits[link.wait]:
                link.expire()
            elif self.draining and link.is_quiet(now):
                link.retire()


class Link(asyncio.Protocol):
    """One connection. `wait` and `since` say what it waits for; the sweep does the rest."""

    __slots__ = (
        "_address",
        "_cells",
        "_decoder",
        "_hub",
        "_over",
        "_peer_ended",
        "_secure",
        "_transport",
        "_unread",
        "id",
        "limits",
        "since",
        "wait",
    )

    def __init__(self, hub: Hub, address: object) -> None:
        self._hub = hub
        self._address = address
        self._cells: Cells = Account(hub.cells) if hub.accounts else hub.cells
        self._over = ""  # why it is over, or will be behind what is still to be sent
        self._decoder = cutter(hub.framing.decoder())
        self._transport: asyncio.Transport  # set before anything can be called
        self._peer_ended = False
        self._secure = hub.secure
        self._unread = _NOT_COUNTED  # bytes that the peer had not had when it was last seen to read
        self.limits = hub.limits
        self.wait: Wait = _FIRST_BYTE
        self.since = hub.now
        self.id = next(_ids)

    @property
    def peer(self) -> str:
        """The address of the other side, as it is written."""
        return edge.peer_name(self._address)

    @property
    def proxied(self) -> Proxied | None:
        """What a balancer says of the client by the PROXY protocol; None if none speaks for it."""
        return getattr(self._address, "proxied", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the accounts."""
        hub = self._hub
        self._transport = transport  # type: ignore[assignment] # a `cast` is a call
        self.since = hub.now  # with TLS a handshake has passed
        hub.links.add(self)
        # what is held of a peer that does not read is bounded
        self._transport.set_write_buffer_limits(hub.pause_at)
        if self._secure:
            self._bound_tls()

    def _bound_tls(self) -> None:
        """Bound more closely what is held of a TLS peer that does not read, and what is read of it in advance."""
        self._transport.set_write_buffer_limits(int(self._hub.write_limit * PAUSE_AT_TLS))
        self._transport.set_read_buffer_limits(RECEIVE_SIZE)  # type: ignore[attr-defined] # only TLS has it

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the accounts, once: a peer that is lost in the handshake of STARTTLS is told of twice, or never."""
        hub = self._hub
        if self not in hub.links:
            return
        hub.links.remove(self)
        hub.cells[_CONNECTIONS] -= 1
        hub.released(self._address)
        self._peer_ended = True
        if hub.accounts:
            self.write_access_line(self._over or edge.why_lost(exc))

    def write_access_line(self, reason: str) -> None:
        """Write it, where there is an access log: this connection is over."""
        journal.closed(self._cells, self.id, self.peer, reason)

    def eof_received(self) -> bool:
        """Note the peer's half-close; the transport stays open for what is still to be sent.

        Not so with TLS: there the event loop closes both directions at once, behind what has been sent by then.
        """
        self._peer_ended = True
        if self.wait is Wait.CLOSE:
            self._transport.close()
        return not self._secure

    def told(self) -> None:
        """Hear that the worker drains; most need not, they are ended when they are quiet."""

    def is_quiet(self, now: float) -> bool:
        """Say whether a draining worker may close this now: nothing begun, nothing to send, and nothing for a while."""
        if self._decoder.buffered or self._transport.get_write_buffer_size():
            return False
        if self.wait is Wait.NEXT:
            return now - self.since >= QUIET
        return self.wait is Wait.FIRST_BYTE and now - self.since >= FIRST_QUIET

    def expire(self) -> None:
        """Close a connection whose wait has outlasted its limit."""
        if self.wait in {Wait.READER, Wait.CLOSE} and self._reads():
            return
        LOGGER.debug("connection %d from %s %s", self.id, self.peer, SLOW_AT[self.wait])
        if self.wait in {Wait.READER, Wait.CLOSE}:
            if self.wait is Wait.READER or not self._over:
                self._over = SLOW_AT[self.wait]
            self._transport.abort()
        else:
            self.end(SLOW_AT[self.wait])

    def _reads(self) -> bool:
        """Say whether the peer reads what is still to be sent: the write timeout counts from when it last did."""
        unread, here = self._count_unread()
        if not unread:
            return False
        if self._has_read(unread):
            return True
        # what only the kernel still has leaves without us; with TLS the event loop does not tell of all that is here
        return (unread if self._secure else here) > 0 and self._hub.now - self.since <= self.limits.write

    def look_whether_it_reads(self) -> None:
        """Note when the peer has read, in every sweep: the write timeout counts from there."""
        self._has_read(self._count_unread()[0])

    def _has_read(self, unread: int) -> bool:
        if unread >= self._unread:
            return False
        self._unread, self.since = unread, self._hub.now
        return True

    def _count_unread(self) -> tuple[int, int]:
        """Return how many bytes the peer has not had yet, and how many of them the event loop says are still here.

        The kernel's are counted too: it takes more only once it has got rid of a lot, which may be seconds apart.
        """
        here = self._transport.get_write_buffer_size()
        sock = self._transport.get_extra_info("socket")
        return here + (_unacknowledged(sock.fileno()) if sock is not None else 0), here

    def _wait_for_reader(self) -> None:
        """Begin to wait for a peer that does not read."""
        self.wait, self.since = Wait.READER, self._hub.now
        self._unread, _ = self._count_unread()
        self._hub.unread.add(self)

    def end(self, reason: str) -> None:
        """End the connection from this side, in order: for a dialogue, its handler is told first."""
        self._over = self._over or reason
        self._finish()

    def retire(self) -> None:
        """End a quiet connection because the worker drains: for a dialogue, its handler is told first."""
        with self._if_nothing_came() as borrowed:
            if borrowed is not None:
                self.end(DRAINS)

    @contextlib.contextmanager
    def _if_nothing_came(self) -> Iterator[socket.socket | None]:
        """Give the socket, or None where the peer's next request, or its end, is here already and only not read yet."""
        with socket.socket(fileno=self._transport.get_extra_info("socket").fileno()) as borrowed:
            try:
                try:
                    borrowed.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                    nothing = False
                except OSError as error:  # any other: the peer is gone, and the transport will say so
                    nothing = isinstance(error, BlockingIOError)
                yield borrowed if nothing else None
            finally:
                borrowed.detach()  # it is the transport's

    def _half_close_if_nothing_came(self) -> None:
        """Half-close at this very moment.

        The transport's own `write_eof` waits for the loop's next turn; what comes in between would be read and dropped.
        """
        with self._if_nothing_came() as borrowed:
            if borrowed is None:
                return
            self.wait, self.since = Wait.CLOSE, self._hub.now
            self._over = self._over or DRAINS
            if self._secure:
                self._transport.close()
                return
            with contextlib.suppress(OSError):
                borrowed.shutdown(socket.SHUT_WR)

    def cancel(self) -> None:
        """Drop the connection at once: the drain timeout has come."""
        self._over = self._over or "the drain timeout has come"
        self._transport.abort()

    def _write(self, data: bytes) -> None:
        self._cells[_BYTES_OUT] += len(data)
        self._transport.write(data)

    def _finish(self) -> None:
        """Send what is left, half-close, and read on until the peer closes: its last bytes must not become a reset."""
        if self.wait is _CLOSE:
            return
        self.wait, self.since = _CLOSE, self._hub.now
        self._unread = _NOT_COUNTED
        if self._peer_ended or self._transport.is_closing():
            self._transport.close()
            return
        # a paused transport would never see the peer's close
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()
        if self._secure:  # sends what is left and TLS's own end, and waits for the peer's
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except (OSError, RuntimeError):  # the peer is gone already
            self._transport.abort()

    def _look_for_hello(self, data: bytes) -> None:
        """Say so, and count it, if these first bytes are TLS where plain text is spoken."""
        if not self._secure and hello.is_hello(data):
            self._hub.hello = self.id
            self._hub.cells[_ERRORS] += 1
            hello.report(self.peer, starttls=self._hub.tls is not None)

    def _refuse(self, error: Exception) -> None:
        """Refuse what the peer sent: it is logged, counted, and the connection ends."""
        self._over = str(error)
        if self._hub.hello == self.id:  # that says why already
            return
        self._hub.cells[_ERRORS] += 1
        journal.refused_a_frame(error, self.peer, self.id)

    def _failed(self, error: BaseException) -> None:
        """Log a handler that raised: the author's to mend, so the traceback is in the log."""
        self._hub.cells[_ERRORS] += 1
        self._over = edge.failure(error)
        journal.handler_failed(error, self.peer, self.id)


def _starter(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]:
    """Return what does as `create_task`, but for the name: a number in words for each costs a fifth of a task."""
    if loop.get_task_factory() is not None:
        return loop.create_task
    return partial(asyncio.Task, loop=loop, name="connection")


def _unacknowledged(fd: int) -> int:
    """Return how many bytes the kernel still keeps, for the peer has not acknowledged them (tcp(7), SIOCOUTQ)."""
    with contextlib.suppress(OSError, ValueError):  # not on every platform; or it is closed
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4))[0])
    return 0


def _nothing(_address: object) -> None:
    """Do nothing."""
