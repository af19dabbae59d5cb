"""An `asyncio.Protocol` in an async worker: a link in front of it, and for it a transport that is not the real one.

The link enforces the deadlines, the drain and the orderly close, and counts; the protocol sees what asyncio promises.
Between the two there is no task, no future and no copy (but one into the buffer of a `BufferedProtocol`).

How a worker that drains ends a protocol, which knows nothing of draining:

- if it has a method `connection_draining()`, that is called, once; the protocol ends by itself then, or at the timeout;
- else it is ended when quiet: see `edge.silence`. It is told by `connection_lost(Ended)`, never by an end of file;
- at the drain timeout it is dropped.

`transport.get_extra_info("prefork")` gives the link: `draining`, `id`, `peer`, `set_timeouts`, `count_request`.
This file never accepts and never reads a frame.
"""

from __future__ import annotations

import asyncio
from asyncio.sslproto import SSLProtocol
from typing import TYPE_CHECKING, Any, Final, cast

from prefork.adapters.opaque import Ended
from prefork.connection.edge import DRAINS, PAUSE_AT, PAUSE_AT_TLS, PEER_CLOSED, Wait, silence
from prefork.connection.link import Hub, Link
from prefork.scoreboard import Field

if TYPE_CHECKING:
    from collections.abc import Callable

_REQUESTS: Final = int(Field.REQUESTS)
_BYTES_IN: Final = int(Field.BYTES_IN)
# members of an enumeration are slow to look up, and these are asked for with every byte
_FIRST_BYTE: Final = Wait.FIRST_BYTE
_NEXT: Final = Wait.NEXT
_READER: Final = Wait.READER
_HANDLER: Final = Wait.HANDLER
_CLOSE: Final = Wait.CLOSE


class ProtocolLink(Link):
    """A connection served by a protocol that `make` makes."""

    __slots__ = (
        "_choked",
        "_end_waits",
        "_feed",
        "_governs",
        "_halted",
        "_inner",
        "_kept",
        "_make",
        "_outward",
        "_owes",
    )

    def __init__(self, hub: Hub, make: Callable[[], asyncio.BaseProtocol], address: object) -> None:
        super().__init__(hub, address)
        self._make = make
        self._outward = Outward(self)
        self._inner: asyncio.BaseProtocol | None = None
        self._feed: Callable[[bytes], object] = _drop
        self._owes = False  # the last bytes came from the peer
        self._governs = False  # the protocol itself sees to a peer that does not read
        self._choked = False  # the peer is left unread until it reads
        self._halted = False  # the protocol does not want to be given more
        self._kept = b""  # what had come by then
        self._end_waits = False  # the peer's end has come, behind that

    # What adapted code may use of it. --------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether this worker is about to leave: finish soon, start nothing long."""
        return self._hub.draining

    def set_timeouts(self, *, idle: float | None = None, write: float | None = None) -> None:
        """Change this connection's deadlines, in seconds; what is not given stays as it is.

        Raises:
            ValueError: a limit is not above 0.
        """
        self.limits = self.limits.changed(idle, None, write)

    @property
    def accepted_from(self) -> object:
        """The address that accept(2) gave: it is known even if the peer has left before anybody looked."""
        return getattr(self._address, "address", self._address)

    def count_request(self) -> None:
        """Count one request: only the protocol knows what that is."""
        self._cells[_REQUESTS] += 1

    # What the event loop calls. --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the protocol and greet it."""
        super().connection_made(transport)
        try:
            inner = self._make()
            if not hasattr(inner, "connection_made"):
                raise TypeError(f"the target returned {inner!r}, which is no protocol")  # noqa: TRY301 - as what it raises
            self.adopt(inner)
            inner.connection_made(self._outward)
        except BaseException as error:  # noqa: BLE001 - whatever it raises, exit() included, ends this connection alone
            self._broke(error)
        if self._hub.draining:
            self.told()

    def data_received(self, data: bytes) -> None:
        """Count, note the time, and pass on."""
        hub = self._hub
        self._cells[_BYTES_IN] += len(data)
        wait = self.wait
        if wait >= _HANDLER:  # read on only to let the peer close
            return
        if wait is not _READER:
            self.wait, self.since = _NEXT, hub.now
        self._owes = True
        if self._kept:
            data, self._kept = self._kept + data, b""
        try:
            self._feed(data)
        except BaseException as error:  # noqa: BLE001 - the same
            self._broke(error)

    def eof_received(self) -> bool:
        """Pass on; the transport stays open if the protocol says so."""
        self._peer_ended = True
        self._over = self._over or PEER_CLOSED
        inner = self._inner
        if self.wait >= _HANDLER or inner is None:
            self._transport.close()
            return not self._secure
        self._feed_kept()
        if self._kept and not self._secure:  # with TLS the event loop closes now
            self._end_waits = True
            return True
        try:
            if self._inner is not None and not cast("asyncio.Protocol", self._inner).eof_received():
                self.close()
        except BaseException as error:  # noqa: BLE001 - the same
            self._broke(error)
        return not self._secure

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol that nobody is there, and leave the accounts."""
        self.wait = _HANDLER  # what it still sends is dropped
        self._part(exc)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on; where the protocol does not see to it, leave the peer's bytes unread until it reads its own.

        One that sees to it may read on while it sends no more: its peer may be in the middle of a long message. Where
        it does send more, see `send`.
        """
        if self.wait < _HANDLER:
            self._wait_for_reader()
            if not self._governs:
                self._choke()
        self._tell("pause_writing")

    def resume_writing(self) -> None:
        """Go on."""
        if self.wait is _READER:
            self.wait, self.since = _NEXT, self._hub.now
            if self._choked and not self._halted and not self._peer_ended:  # else that would come again
                self._transport.resume_reading()
        self._choked = False
        self._tell("resume_writing")

    # What the worker calls. ------------------------------------------------------------------------------------------

    def told(self) -> None:
        """Tell a protocol that has a method for it."""
        self._tell("connection_draining")

    def is_quiet(self, now: float) -> bool:
        """Say whether a draining worker may close this now, by the silence of the connection."""
        if self.wait not in {_NEXT, _FIRST_BYTE} or self._kept or self._transport.get_write_buffer_size():
            return False
        if hasattr(self._inner, "connection_draining"):
            return False
        return now - self.since >= silence(self.limits, self.wait, owes=self._owes, closing=self._hub.closing)

    def retire(self) -> None:
        """End a quiet connection because the worker drains."""
        self._half_close_if_nothing_came()
        if self.wait is _CLOSE:
            if self._halted and not self._transport.is_closing():  # else the peer's close would never be seen
                self._transport.resume_reading()
            self._part(Ended(DRAINS))

    def end(self, reason: str) -> None:
        """End the connection from this side, in order, and tell the protocol why."""
        super().end(reason)
        self._part(Ended(reason))

    # What the protocol calls, through its transport. -----------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be sent."""
        return self.wait >= _HANDLER or self._transport.is_closing()

    @property
    def transport(self) -> asyncio.Transport:
        """The real transport."""
        return self._transport

    @property
    def inner(self) -> asyncio.BaseProtocol:
        """The protocol that serves."""
        return cast("asyncio.BaseProtocol", self._inner)

    def adopt(self, inner: asyncio.BaseProtocol) -> None:
        """Pass everything to this protocol from now on: at first, and when a protocol hands over to another."""
        self._inner = inner
        if isinstance(inner, asyncio.BufferedProtocol):
            self._feed = self._feed_buffered
        else:
            self._feed = cast("asyncio.Protocol", inner).data_received
        own = getattr(type(inner), "pause_writing", None)
        # TLS of the code's own keeps what it may not pass on, however much the code behind it sends
        self._governs = own not in {None, asyncio.BaseProtocol.pause_writing} and not isinstance(inner, SSLProtocol)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Count, note the time, and send; after the end it is dropped, as asyncio does."""
        if self.wait >= _HANDLER:
            return
        self._owes = False
        if self.wait is not _READER:  # before the first byte too: a service that only speaks is not a slow peer
            self.since = self._hub.now
        elif not self._choked and self._transport.get_write_buffer_size() > self._too_much:  # it does not see to it
            self._choke()
        self._write(data)  # type: ignore[arg-type] # it is only measured and passed on

    def halt(self, *, halted: bool) -> None:
        """Stop reading, or read on: the protocol's backpressure, unless ours holds or the peer's close is awaited."""
        self._halted = halted
        if self._kept and not halted:
            self._hub.loop.call_soon(self._feed_kept)
        if self._choked or self._peer_ended:  # after the end there is nothing to read but that again
            return
        if self.wait < _HANDLER and not self._transport.is_closing():
            if halted:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    @property
    def halted(self) -> bool:
        """Whether the protocol has stopped reading."""
        return self._halted

    def close(self) -> None:
        """Close in order, reading on for the peer's close.

        The protocol is told in the loop's next turn if nothing is unsent, else once the connection is lost.
        """
        if self.is_over:
            return
        super().end("the service closed")
        if not self._peer_ended and not self._transport.get_write_buffer_size():
            self._hub.loop.call_soon(self._part, None)

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes included."""
        self._over = self._over or "the service aborted"
        self._transport.abort()

    def drop(self, error: BaseException | None) -> None:
        """Drop the connection at once, for this error: the protocol is told."""
        self._transport._force_close(error)  # type: ignore[attr-defined] # noqa: SLF001 - what asyncio's own TLS calls

    # Inside. ---------------------------------------------------------------------------------------------------------

    @property
    def _too_much(self) -> float:
        """Bytes unsent to which nobody comes who stops when told to, unless one message alone is so long."""
        return 1.5 * self._hub.write_limit * (PAUSE_AT_TLS if self._secure else PAUSE_AT)

    def _choke(self) -> None:
        """Leave the peer unread until it reads."""
        self._choked = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _feed_buffered(self, data: bytes) -> None:
        """Fill the protocol's buffer until all is in it, or it pauses or closes; it may hand over in between."""
        inner = cast("asyncio.BufferedProtocol", self._inner)
        view = memoryview(data)
        while view and self._inner is inner and not self._halted and not self.is_over:
            room = memoryview(cast("bytearray", inner.get_buffer(len(view))))
            if not room:
                raise RuntimeError("get_buffer() returned an empty buffer")
            size = min(len(room), len(view))
            room[:size] = view[:size]
            view = view[size:]
            inner.buffer_updated(size)
        if view and not self.is_over:
            if self._halted:
                self._kept = bytes(view)
            else:
                self._feed(bytes(view))

    def _feed_kept(self) -> None:
        """Go on with what had come when the protocol paused."""
        if not self._kept or self._halted or self.is_over:
            return
        data, self._kept = self._kept, b""
        try:
            self._feed(data)
        except BaseException as error:  # noqa: BLE001 - the same
            self._broke(error)
        if self._end_waits and not self._kept:
            self._end_waits = False
            self.eof_received()

    def _tell(self, method: str) -> None:
        call = getattr(self._inner, method, None)
        if call is not None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - the same
                self._broke(error)

    def _broke(self, error: BaseException) -> None:
        self._failed(error)
        self._finish()
        self._part(error)

    def _part(self, exc: BaseException | None) -> None:
        """Tell the protocol that the connection is lost to it, once."""
        inner, self._inner, self._feed = self._inner, None, _drop
        if inner is not None:
            try:
                inner.connection_lost(exc)  # type: ignore[arg-type] # it is only told
            except BaseException as error:  # noqa: BLE001 - the same
                self._failed(error)


class Outward(asyncio.Transport):
    """The transport that a protocol is given: the link's, not the kernel's."""

    __slots__ = ("__weakref__", "_link")
    _start_tls_compatible = True  # asyncio's own mark of a transport that TLS can be put upon

    def __init__(self, link: ProtocolLink) -> None:
        super().__init__()
        self._link = link

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as asyncio has it
        """Return what the real transport says of itself; under "prefork", the link. Addresses are the client's."""
        if self._link.proxied is not None and name in {"peername", "sockname"}:
            return self._link.proxied.source if name == "peername" else self._link.proxied.destination
        if name == "prefork":
            return self._link
        said = self._link.transport.get_extra_info(name)
        if said is None and name == "peername":  # it has left already, and few handlers reckon with None
            return self._link.accepted_from
        return default if said is None else said

    def is_closing(self) -> bool:
        """Say whether nothing more can be sent."""
        return self._link.is_over

    def close(self) -> None:
        """Send what is left and close in order."""
        self._link.close()

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes included."""
        self._link.abort()

    def _force_close(self, exc: BaseException | None) -> None:
        """Drop the connection: what asyncio's TLS calls where a handshake fails or takes too long."""
        self._link.drop(exc)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand over to another protocol, as STARTTLS does."""
        self._link.adopt(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that serves."""
        return self._link.inner

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        self._link.send(data)

    def can_write_eof(self) -> bool:
        """Say whether there is a half-close: not with asyncio's TLS."""
        return self._link.transport.can_write_eof()

    def write_eof(self) -> None:
        """Half-close, and go on reading; with TLS it raises NotImplementedError, as asyncio does."""
        if not self._link.is_over:
            self._link.transport.write_eof()

    def pause_reading(self) -> None:
        """Leave the peer's bytes in the kernel."""
        self._link.halt(halted=True)

    def resume_reading(self) -> None:
        """Read on."""
        self._link.halt(halted=False)

    def is_reading(self) -> bool:
        """Say whether the protocol is given what comes."""
        return not self._link.halted and not self._link.is_over

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are unsent."""
        return self._link.transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high mark, in bytes."""
        return self._link.transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is told to pause; by default at half of `--max-write-buffer`."""
        self._link.transport.set_write_buffer_limits(high, low)


def _drop(_data: bytes) -> None:
    """Do nothing: there is no protocol, not yet or not any more."""
