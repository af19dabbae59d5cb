"""What a framing is: the two protocols that every framing, built in or your own, fulfils.

Many frames often come in one piece. A decoder may offer `cut`, and a framing `encode_all`, to do many in one step:
`cutter` and `all_encoder` find them, or do it one by one. The built-in framings are in the files named after them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, cast

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


MOST: Final = 256
"""Frames that one `cut` returns at most: as objects, small frames take many times the memory of their bytes."""


def cut_one_by_one(decoder: Decoder, data: bytes, most: int = MOST) -> list[bytes]:
    """Add bytes as they arrived and return the payloads of all whole frames: what `cut` of a decoder does.

    At most `most` are returned; where bytes are left (`buffered`), calling it again with none may return more.

    Raises:
        FrameError: The bytes cannot be a frame; its `frames` are those before them.
    """
    decoder.feed(data)
    frames: list[bytes] = []
    try:
        while len(frames) < most and (frame := decoder.take()) is not None:
            frames.append(frame)
    except FrameError as error:
        error.frames = frames
        raise
    return frames


class Cutter(Decoder, Protocol):
    """A decoder that returns many frames in one step."""

    def cut(self, data: bytes) -> list[bytes]:
        """Add bytes and return the whole frames; see `cut_one_by_one`."""
        ...


class _OneByOne:
    """A decoder of anybody's, with a `cut` that takes."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.feed = decoder.feed
        self.take = decoder.take
        self.end = decoder.end
        self.rest = decoder.rest

    def cut(self, data: bytes) -> list[bytes]:
        return cut_one_by_one(self._decoder, data)

    @property
    def buffered(self) -> int:
        return self._decoder.buffered


def cutter(decoder: Decoder) -> Cutter:
    """Return a decoder that has `cut`: this one if it has, or one that does the same with its `take`."""
    if hasattr(decoder, "cut"):
        return decoder  # type: ignore[return-value] # that is what a cutter is
    return _OneByOne(decoder)


def all_encoder(framing: Framing) -> Callable[[Sequence[bytes]], bytes]:
    """Return what makes one piece of bytes of many payloads: the framing's own `encode_all` if it has one.

    It raises what `encode` does for the first payload that is no good; then nothing is returned for those before it.
    """
    own = getattr(framing, "encode_all", None)
    return cast("Callable[[Sequence[bytes]], bytes]", own) if own is not None else partial(_encode_one_by_one, framing)


def _encode_one_by_one(framing: Framing, payloads: Sequence[bytes]) -> bytes:
    return b"".join(map(framing.encode, payloads))
