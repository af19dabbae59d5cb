"""The dialogue of an async worker: `Connection`, which an `async def` handler is given.

Frames are cut from a whole chunk in one step and handed out one after the other without a wait; what answers them
leaves in one write. It never accepts, and never knows how many others there are.
"""

from __future__ import annotations

import asyncio
import sys
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final, NoReturn

from prefork.connection.dialogue import Dialogue
from prefork.connection.edge import (
    CUT_SHORT,
    DRAINS,
    NO_HANDSHAKE,
    PEER_CLOSED,
    RECEIVE_SIZE,
    TLS_CLOSE,
    ConnectionEnded,
    Wait,
    why_lost,
)
from prefork.connection.edge import peer_name as _name
from prefork.connection.hello import HANDSHAKE
from prefork.connection.link import Link
from prefork.connection.tls import Tls, describe, report
from prefork.connection.waiter import Waiter
from prefork.scoreboard import Field
from prefork_wire import FrameError, cut_one_by_one, cutter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence

    from prefork.connection.link import Hub
    from prefork_wire import Decoder, Framing

# looked up on every request: an enumeration's own attributes are slower than a global
_CLOSE, _FIRST_BYTE, _FRAME = Wait.CLOSE, Wait.FIRST_BYTE, Wait.FRAME
_HANDLER, _NEXT = Wait.HANDLER, Wait.NEXT
_ERRORS: Final = int(Field.ERRORS)
_REQUESTS: Final = int(Field.REQUESTS)
_BYTES_IN: Final = int(Field.BYTES_IN)
_BYTES_OUT: Final = int(Field.BYTES_OUT)

_NONE: Final = iter(())


def keep_no_list() -> None:
    """Spare the running event loop its list of the generators that `Connection.__aiter__` makes, one per connection.

    It would close those that are left over when it ends itself; ours have ended with their tasks by then. It holds a
    weak reference for each, made and unmade in Python, which short dialogues would pay for.
    """
    first, last = sys.get_asyncgen_hooks()
    ours = Connection.__aiter__.__code__

    def begun(generator: Any) -> None:  # noqa: ANN401 - the type of hooks knows no `ag_code`
        if getattr(generator, "ag_code", None) is not ours and first is not None:  # a compiled one has none
            first(generator)

    sys.set_asyncgen_hooks(begun, last)


class Connection(Dialogue):
    """A dialogue with one peer, as an `async def` handler sees it.

    `async for frame in conn` takes frames until the peer closes; `await conn.send(payload)` frames and sends. What
    answers frames that came at once leaves in one write. `id` is unique in this worker, `peer` is the other side's
    address.
    """

    __slots__ = (
        "_ahead",
        "_encode",
        "_fault",
        "_frames",
        "_framing",
        "_out",
        "_paused",
        "_uncounted",
        "_unsent",
        "_writable",
        "answering",
    )

    def __init__(self, hub: Hub, handler: Callable[[Connection], Coroutine[Any, Any, None]], address: object) -> None:
        Dialogue.__init__(self, hub, handler, address)
        self._framing = hub.framing
        self._encode = hub.encode
        self._frames: Iterator[bytes] = _NONE  # frames that are cut and not yet handed out
        self._ahead: tuple[bytes, int] | None = None  # the bytes that they were cut from, and how many they were
        self._fault: FrameError | None = None  # why no frame can come behind those in `_frames`
        self._uncounted = 0  # frames in `_frames`, and others, that are not yet on the scoreboard
        self._out: list[bytes] | tuple[()] = ()  # a list while there is something: an idle connection has none
        self._unsent = 0  # bytes in `_out`, or sent right away since the last wait
        self._paused = False
        self.answering = False  # somebody is at work for the peer, whoever waits for its next frame meanwhile
        self._writable: asyncio.Future[None] | None = None  # unset when the write buffer has room

    # What a handler calls. -------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether this worker is about to leave: finish soon, start nothing long."""
        return self._hub.draining

    @property
    def tls(self) -> Tls | None:
        """What is known of the connection's TLS; None on a plain one."""
        wrapped = self._transport.get_extra_info("ssl_object")
        return describe(wrapped) if wrapped is not None else None

    @property
    def local(self) -> str:
        """The address the peer connected to; `gone` if it is first asked for when the connection is."""
        if (proxied := self.proxied) is not None:
            return _name(proxied.destination)
        try:
            return _name(self._transport.get_extra_info("sockname"))
        except (AttributeError, OSError, ValueError):  # what uvloop raises where the socket is closed
            return "gone"

    @property
    def state(self) -> str:
        """What the connection waits for, in words of `edge.Wait`, lower case."""
        return self.wait.name.lower()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the frames that come, until the conversation is over."""
        while True:
            for frame in self._frames:
                yield frame
            if not self._decoder.buffered or not self._cut():
                waiter = self._begin_to_wait()
                if waiter is None:
                    return
                await waiter

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            ConnectionEnded: the conversation is over, and why.
        """
        while True:
            for frame in self._frames:
                return frame
            if not self._decoder.buffered or not self._cut():
                waiter = self._begin_to_wait()
                if waiter is None:
                    raise ConnectionEnded(self._over)
                await waiter

    async def send(self, payload: bytes) -> None:
        """Frame `payload` and send it; wait while the peer is too slow to take it.

        One that is given up while it waits may have been sent, or not.

        Raises:
            ConnectionEnded: nobody is there to read it.
            prefork_wire.FrameError: the payload cannot be framed.
        """
        if self._writable is not None:
            await self._until_room()
        out = self._out
        if not out:
            if self.wait is _CLOSE or self._transport.is_closing():
                self._refuse_to_send()
            if not self._unsent and self._uncounted <= 1:  # the only one, it seems: there is nothing to join it with
                frame = self._encode(payload)
                self._unsent = len(frame)
                self._cells[_BYTES_OUT] += len(frame)
                self._transport.write(frame)
                if self._writable is not None:
                    await self._until_read()
                return
            self._out = out = []
            self._hub.flush_soon(self)
        frame = self._encode(payload)
        out.append(frame)
        self._unsent += len(frame)
        if self._unsent > RECEIVE_SIZE:
            self.flush()
            if self._writable is not None:
                await self._until_read()

    def set_framing(self, framing: Framing) -> None:
        """Read what comes next, bytes already here included, by another framing; send by it too.

        It is for the task that receives: a frame that came alone, and for which another task was just woken, is that
        task's, as it was cut.
        """
        rest = self._give_back()
        self._framing = framing
        self._encode = framing.encode
        self._decoder = cutter(framing.decoder())
        self._decoder.feed(rest)
        if rest:  # another task may wait, for what may be a frame now
            self._tell()

    async def start_tls(self) -> None:
        """Speak TLS from here on; what has been sent before leaves in plain text first.

        Raises:
            ConnectionEnded: the handshake failed, or bytes had come before it: whoever put them there, they were not
                protected (CVE-2011-0411 and its many followers).
            RuntimeError: the server has no certificate, or the connection is secure already.
        """
        hub = self._hub
        if hub.tls is None or self._secure:
            raise RuntimeError("the connection is secure already" if self._secure else "there is no --tls-cert")
        self.flush()
        await self._until_room()  # as long as it is this connection that hears of it
        if self.wait is _CLOSE or self._transport.is_closing():  # the event loop would wait for a handshake for ever
            self._refuse_to_send()
        if self._holds():
            self._over = "bytes came between STARTTLS and the handshake"
            raise ConnectionEnded(self._over)
        try:
            transport = await hub.loop.start_tls(
                self._transport, self, hub.tls.context, server_side=True,
                ssl_handshake_timeout=hub.tls.handshake_timeout, ssl_shutdown_timeout=TLS_CLOSE,
            )  # fmt: skip
        except OSError as error:
            hub.cells[_ERRORS] += bool(report(error, self.peer))
            self._over = self._over or NO_HANDSHAKE
            hub.loop.call_soon(self.connection_lost, error)  # the event loop says so only of some failures
            raise ConnectionEnded(self._over) from error
        except BaseException:  # it was given up, or cancelled
            self._transport.abort()
            hub.loop.call_soon(self.connection_lost, None)
            raise
        if transport is None or transport.get_extra_info("cipher") is None:  # it is over before it was secure
            self._over = self._over or "the peer closed in the TLS handshake"
            hub.loop.call_soon(self.connection_lost, None)
            raise ConnectionEnded(self._over)
        self._secure = True
        self._first_waits = 0
        self._transport = transport
        self._bound_tls()

    def set_timeouts(
        self, *, idle: float | None = None, frame: float | None = None, write: float | None = None
    ) -> None:
        """Change this connection's deadlines, in seconds; what is not given stays as it is.

        Raises:
            ValueError: a limit is not above 0.
        """
        self.limits = self.limits.changed(idle, frame, write)

    async def close(self) -> None:
        """Send what is left and close in order; returning from the handler does the same."""
        self.flush()
        self._wake("the connection is closed")
        self._decoder.rest()  # nobody is given what has come since either
        self._finish()

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes included."""
        self._hand_out_no_more("the connection was aborted")
        self._decoder.rest()
        self._transport.abort()

    # What the event loop calls. --------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Give a waiting handler its frame, or keep the bytes, up to a bound."""
        hub = self._hub
        self._cells[_BYTES_IN] += len(data)
        if self._over:  # read on only to let the peer close
            return
        if self.wait is _FIRST_BYTE and data[0] == HANDSHAKE:
            self._look_for_hello(data)
        waiter = self._waiter
        # as `_is_waited_for`, without its two calls for each frame
        if not (waiter.waits if type(waiter) is Waiter else waiter is not None and not waiter.done()):
            self._waiter = None
            self._decoder.feed(data)
            if self.wait is not _HANDLER and self._writable is None:  # it is not the peer that is waited for
                self.wait, self.since = _HANDLER, hub.now
            if self._decoder.buffered > RECEIVE_SIZE:
                self._pause_reading()
            return
        if self._cut(data) or self._fault is not None:
            self._go_on()
        elif self.wait is not _FRAME and self._writable is None:
            self.wait, self.since = _FRAME, hub.now

    def eof_received(self) -> bool:
        """Tell the handler, after what came before; replies can still be sent, but not with TLS."""
        self._peer_ended = True
        if self._secure and self._out:  # those to what has just come, in one piece with this
            self._flush_now()
        if self.wait is _CLOSE:
            self._transport.close()
        elif self._is_waited_for():
            self._wake(CUT_SHORT if self._decoder.buffered else PEER_CLOSED)
        elif not self._over and not self._holds():
            self._wake(PEER_CLOSED)
        return not self._secure

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler that nobody is there. The accounts wait for it: a worker does not leave in the middle."""
        # with TLS this follows the peer's end at once, and what came before it is still to be handed out
        if (self._waiter is not None or not self._over) and (
            exc is not None or not self._peer_ended or not self._holds()
        ):
            self._wake(why_lost(exc))
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._task is None or self._task.done():
            Link.connection_lost(self, exc)
        else:
            self.wait = _HANDLER
            self._task.add_done_callback(lambda _: Link.connection_lost(self, exc))

    def pause_writing(self) -> None:
        """Let `send` wait, and leave the peer unread, unless the handler waits for it at the same time."""
        self._writable = self._hub.loop.create_future()
        if self.wait is not Wait.CLOSE:
            self._wait_for_reader()
            if not self._is_waited_for():
                self._pause_reading()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        if self.wait is Wait.READER:
            waiting = _FRAME if self._decoder.buffered else _NEXT
            self.wait, self.since = waiting if self._waiter else _HANDLER, self._hub.now
            if self._paused and not self._decoder.buffered:  # a handler that only sends hears of the peer's end
                self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        self._paused = False
        self._transport.resume_reading()

    def expire(self) -> None:
        """Close a connection whose peer is too slow; where nobody waits for the peer, it is the handler's turn."""
        if self.wait < Wait.READER and not self._is_waited_for():
            self.wait = _HANDLER
        else:
            super().expire()

    def is_quiet(self, now: float) -> bool:
        """Say whether a draining worker may end this now: not while an answer is being made."""
        return not self.answering and super().is_quiet(now)

    def end(self, reason: str) -> None:
        """Tell the handler that no frame will come; it finishes, and the connection with it."""
        self._wake(reason)

    # Inside. ---------------------------------------------------------------------------------------------------------

    async def _until_read(self) -> None:
        """Wait while the peer is too slow.

        Raises:
            ConnectionEnded: nobody is there to read it.
        """
        if self._writable is not None:
            await asyncio.shield(self._writable)  # others wait for it too: it outlives the cancelling of one
            if self.wait is _CLOSE or self._transport.is_closing():
                self._refuse_to_send()

    async def _until_room(self) -> None:
        """Wait until the peer has read enough of what has been sent before, by whatever task.

        Raises:
            ConnectionEnded: nobody is there to read it.
        """
        while self._writable is not None:
            if self.wait is _CLOSE or self._transport.is_closing():
                self._refuse_to_send()
            await self._until_read()

    def _holds(self) -> bool:
        """Say whether anything has come that the handler has not been given yet."""
        return bool(self._decoder.buffered or length_hint(self._frames))

    def _refuse_to_send(self) -> NoReturn:
        raise ConnectionEnded(self._over or "the connection is closed")

    def _hand_out_no_more(self, reason: str) -> None:
        self._over = self._over or reason
        if self._frames is not _NONE:
            self._uncounted -= length_hint(self._frames)  # nobody has been given these
            for _ in self._frames:  # the handler may be iterating over it at this moment
                pass

    def _wake(self, reason: str) -> None:
        self._hand_out_no_more(reason)
        self._tell()

    def _cut(self, data: bytes = b"") -> bool:
        """Make frames of the bytes that are here and of `data`, which has just come; False where there is none."""
        decoder = self._decoder
        came = b""
        try:
            if not decoder.buffered:
                frames: Sequence[bytes] = decoder.cut(came := data)
            elif not data:
                frames = decoder.cut(came := decoder.rest())
            else:  # a long frame grows in the decoder: what is there is not copied for each piece that comes
                frames = cut_one_by_one(decoder, data, 1)
        except FrameError as error:
            frames = error.frames
            if frames:  # what is behind them is held again: the framing may change before it is due
                self._decoder = cutter(self._behind(came, len(frames)))
            else:
                self._fault = error.with_traceback(None)  # which would tie the connection into a cycle
        if not frames:
            return False
        count = len(frames)
        if count > 1:
            held = self._decoder.buffered
            self._ahead = (came[:-held] if held else came, count)
        self._frames = iter(frames)
        self._uncounted += count
        if self._writable is None:  # while the peer does not read, that is what counts
            self.wait, self.since = _HANDLER, self._hub.now
        return True

    def _give_back(self) -> bytes:
        """Return all bytes that the handler has not been given yet, cut or not, and forget them."""
        rest = self._decoder.rest()
        left = length_hint(self._frames)
        if not left or self._ahead is None:
            return rest
        came, count = self._ahead
        self._ahead = None
        self._uncounted -= left
        for _ in self._frames:
            pass
        return self._behind(came, count - left).rest() + rest

    def _behind(self, came: bytes, count: int) -> Decoder:
        """Return a decoder that holds what is behind the first `count` frames of these bytes."""
        decoder = self._framing.decoder()
        decoder.feed(came)
        for _ in range(count):
            decoder.take()
        return decoder

    def _begin_to_wait(self) -> Awaitable[None] | None:  # noqa: C901 - on every wait: a further call is dear
        """Return what ends when there is something new; None where nothing will come now or then: `_over` says why."""
        hub = self._hub
        if self._uncounted:
            self._cells[_REQUESTS] += self._uncounted
            self._uncounted = 0
        held = self._decoder.buffered
        if self._over:
            return None
        if self._fault is not None:
            self._over = str(self._fault)
            self._refuse(self._fault)
            return None
        if self._peer_ended:  # what came before its close has been served
            self._over = CUT_SHORT if held else PEER_CLOSED
            return None
        if hub.closing and not held and self.wait is not _FIRST_BYTE:
            self._over = DRAINS
            return None
        self._frames, self._ahead = _NONE, None
        if not self._out:  # else the hub is about to send that, behind what others have
            self._unsent = 0
        if self._paused:
            self._resume_reading()
        waiter = self._waiter
        if waiter.waits if type(waiter) is Waiter else waiter is not None and not waiter.done():  # as above
            raise RuntimeError("another task waits for the next frame of this connection already")
        # a handler that gives up and waits again gives no more time for the same frame
        if self._writable is None and self.wait is not (_FRAME if held else _FIRST_BYTE):
            self.wait, self.since = _FRAME if held else _NEXT, hub.now
        elif self.wait is _FIRST_BYTE and self._waiter is None:  # what the handler did before is not the peer's delay
            self.since = hub.now
        return self._news()

    def flush(self) -> None:
        """Send what the handler has sent since, in one write, and add up what it has taken; for the hub and here."""
        if self._uncounted and (taken := self._uncounted - length_hint(self._frames)):
            self._cells[_REQUESTS] += taken
            self._uncounted -= taken
        if self._out:
            out, self._out, self._unsent = self._out, (), 0  # emptied first: what is no payload may raise anything
            data = out[0] if len(out) == 1 else b"".join(out)
            if not self._transport.is_closing():
                self._cells[_BYTES_OUT] += len(data)
                self._transport.write(data)

    def cannot_send(self, error: Exception) -> None:
        """End a dialogue whose handler sent what is no payload: what follows would not be understood without it."""
        self._failed(error)
        self._wake("what was sent is no payload")
        self._finish()
