"""The two links of an async worker: `ReplyLink`, a function per frame, and `Connection`, a dialogue.

The path from bytes to reply in `ReplyLink` holds no task, no future and no stream object: that is where the speed is.
`Connection` is what an `async def` handler is given. Neither accepts, and neither knows how many others there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from prefork.connection.edge import RECEIVE_SIZE, ConnectionEnded, Wait
from prefork.connection.edge import peer_name as _name
from prefork.connection.link import Hub, Link
from prefork.connection.tls import Tls, describe, report
from prefork.scoreboard import Field
from prefork_wire import FrameError, all_taker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Sequence

    from prefork_wire import Framing

# looked up on every request: an enumeration's own attributes are slower than a global
_CLOSE, _FRAME, _HANDLER, _NEXT = Wait.CLOSE, Wait.FRAME, Wait.HANDLER, Wait.NEXT
_ERRORS: Final = int(Field.ERRORS)
_REQUESTS: Final = int(Field.REQUESTS)
_BYTES_IN: Final = int(Field.BYTES_IN)


class ReplyLink(Link):
    """A connection whose every frame is answered by one call of a plain function."""

    __slots__ = ("_choked", "_handler", "_left", "_take_all")

    def __init__(self, hub: Hub, address: object, handler: Callable[[bytes], bytes | None]) -> None:
        super().__init__(hub, address)
        self._handler = handler
        self._take_all = all_taker(self._decoder)
        self._left: Sequence[bytes] = ()  # frames that wait until the peer has read the answers before them
        self._choked = False

    def data_received(self, data: bytes) -> None:
        """Answer every frame that `data` completes, in one write."""
        self._hub.cells[_BYTES_IN] += len(data)
        if self.wait is _CLOSE:  # read on only to let the peer close
            return
        self._decoder.feed(data)
        if not self._choked:
            self._answer()

    def _answer(self) -> None:
        """Answer all frames that are here, as long as the peer reads, and note what is waited for next."""
        answered = False
        try:
            while frames := self._left or self._take_all():
                answered = True
                if not self._answer_each(frames):
                    return
        except FrameError as error:  # the peer's fault: what the handler and its answers may raise has been dealt with
            self._refuse(error)
            self._finish()
            return
        hub = self._hub
        if self._decoder.buffered:
            if answered or self.wait is not _FRAME:
                self.wait, self.since = _FRAME, hub.now
        elif hub.closing:  # the last part of a drain: right behind an answer nothing can be lost
            self._finish()
        else:
            self.wait, self.since = _NEXT, hub.now

    def _answer_each(self, frames: Sequence[bytes]) -> bool:
        """Call the handler for each frame and send the answers; False when that is the end, or a pause."""
        handler = self._handler
        answers: list[bytes] = []
        done = size = 0
        failure: Exception | None = None
        try:
            for frame in frames:
                done += 1
                if (answer := handler(frame)) is not None:
                    answers.append(answer)
                    size += len(answer)
                    if size >= RECEIVE_SIZE:  # large answers go out now, so that a slow peer is noticed
                        break
        except Exception as error:  # noqa: BLE001 - whatever the handler raises ends this connection alone
            failure = error
        hub = self._hub
        hub.cells[_REQUESTS] += done
        if answers:
            data, fault = hub.framed(answers)
            self._write(data)
            failure = fault or failure
        if failure is not None:
            self._failed(failure)
            self._finish()
            return False
        self._left = frames[done:] if done < len(frames) else ()
        return not self._choked

    def pause_writing(self) -> None:
        """Leave the peer's requests unread until it reads its replies."""
        self._choked = True
        if self.wait is not Wait.CLOSE:
            self.wait, self.since = Wait.READER, self._hub.now
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with what was left unread."""
        self._choked = False
        if self.wait is not Wait.CLOSE:
            self._transport.resume_reading()
            self._answer()

    def retire(self) -> None:
        """End a quiet connection because the worker drains."""
        self._half_close_if_nothing_came()

    def eof_received(self) -> bool:
        """Close once everything is sent: whatever was whole has been answered already."""
        self._peer_ended = True
        self._transport.close()
        return not self._secure


class Connection(Link):
    """A dialogue with one peer, as an `async def` handler sees it.

    `async for frame in conn` takes frames until the peer closes; `await conn.send(payload)` frames and sends. What is
    sent between two waits leaves in one write. `id` is unique in this worker, `peer` is the other side's address.
    """

    __slots__ = ("_encode", "_handler", "_out", "_over", "_paused", "_room", "_scheduled", "_taken", "_task", "_waiter")

    def __init__(self, hub: Hub, address: object, handler: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
        super().__init__(hub, address)
        self._handler = handler
        self._encode = hub.framing.encode
        self._out: list[bytes] = []
        self._scheduled = False
        self._taken = 0  # frames that are not yet on the scoreboard
        self._paused = False
        self._over = ""  # why no frame will come any more
        self._waiter: asyncio.Future[bytes | None] | None = None
        self._room: asyncio.Future[None] | None = None  # unset when the write buffer has room
        self._task: asyncio.Task[None] | None = None

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
        """The address the peer connected to."""
        return _name(self._transport.get_extra_info("sockname"))

    @property
    def state(self) -> str:
        """What the connection waits for, in words of `edge.Wait`, lower case."""
        return self.wait.name.lower()

    def __aiter__(self) -> Self:
        """Iterate over the frames that come, until the conversation is over."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next frame.

        Raises:
            StopAsyncIteration: the conversation is over.
        """
        frame = None if self._over else self._pop()
        if frame is None and ((waiter := self._begin_to_wait()) is None or (frame := await waiter) is None):
            raise StopAsyncIteration
        return frame

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            ConnectionEnded: the conversation is over, and why.
        """
        frame = None if self._over else self._pop()
        if frame is None and ((waiter := self._begin_to_wait()) is None or (frame := await waiter) is None):
            raise ConnectionEnded(self._over)
        return frame

    async def send(self, payload: bytes) -> None:
        """Frame `payload` and send it; wait while the peer is too slow to take it.

        Raises:
            ConnectionEnded: nobody is there to read it.
            prefork_wire.FrameError: the payload cannot be framed.
        """
        if self.wait is _CLOSE or self._transport.is_closing():
            raise ConnectionEnded(self._over or "the connection is closed")
        self._out.append(self._encode(payload))
        if not self._scheduled:
            self._scheduled = True
            self._hub.loop.call_soon(self._flush)
        if self._room is not None:
            self._flush()
            await self._room
            if self._transport.is_closing():
                raise ConnectionEnded(self._over or "the connection is closed")

    def set_framing(self, framing: Framing) -> None:
        """Read what comes next, bytes already here included, by another framing; send by it too."""
        rest = self._decoder.rest()
        self._encode = framing.encode
        self._set_decoder(framing.decoder())
        self._decoder.feed(rest)

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
        self._flush()
        if self._decoder.buffered:
            self._over = "bytes came between STARTTLS and the handshake"
            raise ConnectionEnded(self._over)
        try:
            transport = await hub.loop.start_tls(
                self._transport, self, hub.tls.context, server_side=True,
                ssl_handshake_timeout=hub.tls.handshake_timeout, ssl_shutdown_timeout=self.limits.close,
            )  # fmt: skip
        except OSError as error:
            hub.cells[_ERRORS] += bool(report(error, self.peer))
            self._over = "the TLS handshake failed"
            raise ConnectionEnded(self._over) from error
        if transport is None:
            self._over = "the peer closed in the TLS handshake"
            raise ConnectionEnded(self._over)
        self._secure = True
        self._transport = transport
        transport.set_write_buffer_limits(high=hub.write_high_water)

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
        self._flush()
        self._over = self._over or "the connection is closed"
        self._finish()

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes included."""
        self._over = self._over or "the connection was aborted"
        self._transport.abort()

    # What the event loop calls. --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handler: its own coroutine is all there is of a task, for a thousand idle ones cost memory."""
        super().connection_made(transport)
        try:
            self._task = self._hub.loop.create_task(self._handler(self))
        except TypeError as error:  # it takes other arguments
            self._failed(error)
            self._finish()
        else:
            self._task.add_done_callback(self._ended)

    def data_received(self, data: bytes) -> None:
        """Give a waiting handler its frame, or keep the bytes, up to a bound."""
        hub = self._hub
        hub.cells[_BYTES_IN] += len(data)
        if self._over:  # read on only to let the peer close
            return
        self._decoder.feed(data)
        waiter = self._waiter
        if waiter is None:
            if not self._paused and self._decoder.buffered > RECEIVE_SIZE:
                self._paused = True
                self._transport.pause_reading()
            return
        frame = self._pop()
        if frame is not None or self._over:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(frame)
        elif self.wait is not Wait.FRAME:
            self.wait, self.since = Wait.FRAME, hub.now

    def eof_received(self) -> bool:
        """Tell the handler, after what came before; replies can still be sent."""
        stays = super().eof_received()
        if not self._over and not self._decoder.buffered:
            self.end("the peer closed")
        elif self._waiter is not None:
            self.end("the peer closed in the middle of a frame")
        return stays

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler that nobody is there. The accounts wait for it: a worker does not leave in the middle."""
        self._wake("the peer is gone")
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._task is None or self._task.done():
            super().connection_lost(exc)
        else:
            self.wait = _HANDLER
            self._task.add_done_callback(lambda _: Link.connection_lost(self, exc))

    def pause_writing(self) -> None:
        """Let `send` wait."""
        self._room = self._hub.loop.create_future()
        if self.wait is not Wait.CLOSE:
            self.wait, self.since = Wait.READER, self._hub.now

    def resume_writing(self) -> None:
        """Let `send` go on."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None
        if self.wait is Wait.READER:
            self.wait, self.since = Wait.NEXT if self._waiter else Wait.HANDLER, self._hub.now

    def end(self, reason: str) -> None:
        """Tell the handler that no frame will come; it finishes, and the connection with it."""
        self._wake(reason)

    def cancel(self) -> None:
        """Cancel the handler and drop the connection: the drain timeout has come."""
        if self._task is not None:
            self._task.cancel()
        super().cancel()

    # Inside. ---------------------------------------------------------------------------------------------------------

    def _wake(self, reason: str) -> None:
        self._over = self._over or reason
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _pop(self) -> bytes | None:
        try:
            frame = self._take()
        except FrameError as error:
            self._refuse(error)
            self._over = str(error)
            return None
        if frame is not None:
            self._taken += 1
            if self.wait is not _HANDLER:
                self.wait, self.since = _HANDLER, self._hub.now
        return frame

    def _begin_to_wait(self) -> asyncio.Future[bytes | None] | None:
        """Return what will be the next frame, or None at the end; nothing will come now or then: `_over` says why."""
        # bytes that came before the peer's close have been served; after any other end nothing is
        if self._over:
            return None
        if self._peer_ended:
            self._over = "the peer closed in the middle of a frame" if self._decoder.buffered else "the peer closed"
            return None
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._flush()
        held = self._decoder.buffered
        if self._hub.closing and not held and self.wait is not Wait.FIRST_BYTE:
            self._over = "the worker drains"
            return None
        if self.wait is not Wait.FIRST_BYTE:
            self.wait, self.since = Wait.FRAME if held else Wait.NEXT, self._hub.now
        self._waiter = self._hub.loop.create_future()
        return self._waiter

    def _flush(self) -> None:
        """Send what the handler has sent since, in one write, and add up what it has taken."""
        self._scheduled = False
        if self._taken:
            self._hub.cells[_REQUESTS] += self._taken
            self._taken = 0
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            if not self._transport.is_closing():
                self._write(data)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Close in order what the handler has left open: it returned, raised, or was cancelled."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ConnectionEnded):  # a handler may let an end pass: no failure
            self._failed(error)
        self._flush()
        self._over = self._over or "the handler returned"
        self._finish()
