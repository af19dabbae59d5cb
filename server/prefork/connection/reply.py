"""The link of a `@reply`: a function per frame.

The path from bytes to reply holds no task, no future and no stream object: that is where the speed is. Replies that
wait are `waiting`'s. It never accepts, and never knows how many others there are.
"""

from __future__ import annotations

from operator import length_hint
from typing import TYPE_CHECKING, Final

from prefork.connection.edge import CUT_SHORT, DRAINS, LARGE, PEER_CLOSED, Wait, encode_before_fault
from prefork.connection.hello import HANDSHAKE
from prefork.connection.link import Hub, Link
from prefork.scoreboard import Field
from prefork_wire import FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# looked up on every request: an enumeration's own attributes are slower than a global
_CLOSE, _FIRST_BYTE, _FRAME, _NEXT = Wait.CLOSE, Wait.FIRST_BYTE, Wait.FRAME, Wait.NEXT
_REQUESTS: Final = int(Field.REQUESTS)
_BYTES_IN: Final = int(Field.BYTES_IN)
_BYTES_OUT: Final = int(Field.BYTES_OUT)


class ReplyLink(Link):
    """A connection whose every frame is answered by one call of a plain function."""

    __slots__ = ("_choked", "_handler", "_left")

    def __init__(self, hub: Hub, handler: Callable[[bytes], bytes | None], address: object) -> None:
        Link.__init__(self, hub, address)
        self._handler = handler
        self._left: Sequence[bytes] = ()  # frames that wait until the peer has read the answers before them
        self._choked = False

    def data_received(self, data: bytes) -> None:
        """Answer every frame that `data` completes, in one write."""
        hub = self._hub
        self._cells[_BYTES_IN] += len(data)
        if self.wait is not _NEXT:
            if self.wait is _CLOSE:  # read on only to let the peer close
                return
            if self._choked:
                self._decoder.feed(data)
                return
            if self.wait is _FIRST_BYTE and data[0] == HANDSHAKE:
                self._look_for_hello(data)
        try:
            frames = self._decoder.cut(data)
        except FrameError as error:
            self._end_behind(error)
            return
        if frames and not (self._answer_alone(frames[0]) if len(frames) == 1 else self._answer(frames)):
            return
        if self._decoder.buffered:
            self._go_on(answered=bool(frames))
        elif hub.closing:  # the last part of a drain: right behind an answer nothing can be lost
            self.end(DRAINS)
        else:
            self.wait, self.since = _NEXT, hub.now

    def _answer_alone(self, frame: bytes) -> bool:
        """Call the handler for a frame that came alone, by far the most, and send its answer; False as `_answer`."""
        self._cells[_REQUESTS] += 1
        try:
            answer = self._handler(frame)
            if answer is None:
                return True
            hub = self._hub
            data = hub.encode(answer) if type(answer) is bytes else hub.encode_all((answer,))
            if type(data) is not bytes:  # a framing of one's own may make of it what it likes
                data = b"".join((data,))
        except BaseException as error:  # noqa: BLE001 - whatever it raises ends this connection alone
            self._failed(error)
            self._finish()
            return False
        self._cells[_BYTES_OUT] += len(data)
        self._transport.write(data)
        return not self._choked

    def _answer(self, frames: Sequence[bytes]) -> bool:
        """Call the handler for each frame and send the answers; False when that is the end, or a pause."""
        hub = self._hub
        handler = self._handler
        coming = iter(frames)
        left = len(frames)
        while left:
            answers: list[bytes] = []
            failure: BaseException | None = None
            begun, left = left, 0
            try:
                for frame in coming:
                    if (answer := handler(frame)) is not None:
                        answers.append(answer)
                        if len(answer) > LARGE:  # it goes out now, so that a peer that does not read is noticed
                            left = length_hint(coming)
                            break
            except BaseException as error:  # noqa: BLE001 - whatever it raises ends this connection alone
                failure, left = error, length_hint(coming)
            self._cells[_REQUESTS] += begun - left
            if answers:
                try:
                    data = hub.encode_all(answers)
                except Exception as error:  # noqa: BLE001 - what is no payload may raise anything
                    data, failure = encode_before_fault(hub.framing, answers), error
                self._cells[_BYTES_OUT] += len(data)
                self._transport.write(data)
            if failure is not None:
                self._failed(failure)
                self._finish()
                return False
            if self._choked:
                self._left = list(coming)
                return False
        return True

    def _go_on(self, *, answered: bool) -> None:
        """Answer all frames that are here, as long as the peer reads, and note what is waited for next."""
        try:
            while frames := self._decoder.cut(b""):
                answered = True
                if not self._answer(frames):
                    return
        except FrameError as error:
            self._end_behind(error)
            return
        hub = self._hub
        if self._decoder.buffered:
            if answered or self.wait is not _FRAME:
                self.wait, self.since = _FRAME, hub.now
        elif hub.closing:
            self.end(DRAINS)
        else:
            self.wait, self.since = _NEXT, hub.now

    def _end_behind(self, error: FrameError) -> None:
        """Answer the frames before bytes that are none, and end; if the peer must read first, that is found again."""
        if self._answer(error.frames):
            self._refuse(error)
            self._finish()

    def pause_writing(self) -> None:
        """Leave the peer's requests unread until it reads its replies."""
        self._choked = True
        if self.wait is not Wait.CLOSE:
            self._wait_for_reader()
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with what was left unread."""
        self._choked = False
        if self.wait is not Wait.CLOSE:
            self._transport.resume_reading()
            left, self._left = self._left, ()
            if self._answer(left):
                self._go_on(answered=bool(left))

    def retire(self) -> None:
        """End a quiet connection because the worker drains."""
        self._half_close_if_nothing_came()

    def eof_received(self) -> bool:
        """Close once everything is sent: whatever was whole has been answered already."""
        self._peer_ended = True
        self._over = self._over or (CUT_SHORT if self._decoder.buffered else PEER_CLOSED)
        if self.wait is _CLOSE:
            self._transport.close()
        else:
            self._finish()
        return not self._secure
