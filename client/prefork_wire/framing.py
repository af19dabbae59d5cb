"""What a framing is: the two protocols that every framing, built in or your own, fulfils.

This file holds no code that runs; the built-in framings are in the files named after them.
"""

from typing import Protocol


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
