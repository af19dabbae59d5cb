"""What a framing is: the two protocols that every framing, built in or your own, fulfils.

Many frames often come in one piece. A decoder may offer `take_all`, and a framing `encode_all`, to do many in one step:
`all_taker` and `all_encoder` find them, or do it one by one. The built-in framings are in the files named after them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, cast

from prefork_wire.errors import FrameError


class Decoder(Protocol):
    """Bytes in, frames out, for one direction of one connection.

    Feed what arrived, then take until there is no more::

        decoder.feed(data)
        while (frame := decoder.take()) is not None:
            ...

    Used so, a decoder holds at most one frame of the largest allowed size and one fed chunk.
    """

    def feed(self, data: bytes) -> None:
        """Add bytes as they arrived. An empty `data` changes nothing: it is not the end, `end` is.

        After an error the bytes are dropped.
        """
        ...

    def take(self) -> bytes | None:
        """Return the payload of the next frame, or None when more bytes are needed.

        Raises:
            FrameError: The bytes cannot be a frame. All frames complete before them have been returned first;
                from now on every call fails in the same way.
        """
        ...

    def end(self) -> None:
        """Say that the peer's bytes have ended; call it once `take` has returned None.

        Raises:
            FrameTruncated: A frame has begun and is not complete.
            FrameError: The decoder had failed before.
        """
        ...

    def rest(self) -> bytes:
        """Return all bytes not yet taken and forget them, so that another framing can go on from here."""
        ...

    @property
    def buffered(self) -> int:
        """How many bytes are held and not yet taken; 0 means that no frame has begun."""
        ...


class Framing(Protocol):
    """How frames are told apart in a byte stream. One object serves any number of connections."""

    def decoder(self) -> Decoder:
        """Return a decoder with fresh state, for one connection."""
        ...

    def encode(self, payload: bytes) -> bytes:
        """Return one whole frame, ready to send.

        Raises:
            FrameTooLarge: The payload is longer than the framing allows.
            FrameInvalid: The payload cannot be told apart from its frame, such as a line with a newline in it.
        """
        ...


def take_one_by_one(decoder: Decoder, frames: list[bytes] | None = None) -> list[bytes]:
    """Return `frames` and, behind them, the payloads of all whole frames, which may be none.

    Call it until it returns none: what is wrong with the bytes behind the last frame is told by the next call.

    Raises:
        FrameError: The bytes cannot be a frame, and there is none to return.
    """
    taken = [] if frames is None else frames
    try:
        while (frame := decoder.take()) is not None:
            taken.append(frame)
    except FrameError:
        if not taken:
            raise
    return taken


def all_taker(decoder: Decoder) -> Callable[[], list[bytes]]:
    """Return what takes all whole frames from `decoder`: its own `take_all` if it has one, or `take_one_by_one`."""
    own = getattr(decoder, "take_all", None)
    return cast("Callable[[], list[bytes]]", own) if own is not None else partial(take_one_by_one, decoder)


def all_encoder(framing: Framing) -> Callable[[Sequence[bytes]], bytes]:
    """Return what makes one piece of bytes of many payloads: the framing's own `encode_all` if it has one.

    It raises what `encode` does for the first payload that is no good; then nothing is returned for those before it.
    """
    own = getattr(framing, "encode_all", None)
    return cast("Callable[[Sequence[bytes]], bytes]", own) if own is not None else partial(_encode_one_by_one, framing)


def _encode_one_by_one(framing: Framing, payloads: Sequence[bytes]) -> bytes:
    return b"".join(map(framing.encode, payloads))
