"""Frames that end with a delimiter: `Delimited` by any bytes, `Lines` by a newline.

It owns the search for the delimiter, also where it is split over chunks. It never reads a frame's inside.
"""

from dataclasses import dataclass

from prefork_wire.buffer import Buffer, require_positive
from prefork_wire.errors import FrameInvalid, FrameTooLarge


def _too_large(max_length: int) -> FrameTooLarge:
    return FrameTooLarge(f"no delimiter within the limit of {max_length} bytes")


class DelimitedDecoder(Buffer):
    """Cuts a byte stream at each delimiter."""

    __slots__ = ("_delimiter", "_max_length")

    def __init__(self, delimiter: bytes, max_length: int) -> None:
        """Begin empty, for frames of at most `max_length` bytes without their delimiter."""
        super().__init__()
        self._delimiter = delimiter
        self._max_length = max_length

    def take(self) -> bytes | None:
        """Return the next frame without its delimiter; see `prefork_wire.Decoder`."""
        held = self._held
        if not held and not self._tail and self._failure is None:
            return None
        at = self._at
        end = held.find(self._delimiter, at)
        if 0 <= end <= at + self._max_length:
            following = end + len(self._delimiter)
            if following == len(held):
                self._held = b""
                self._at = 0
            else:
                self._at = following
            return held[at:end]
        return self.take() if self._refill() else None

    def _measure(self, pending: bytearray) -> int:
        delimiter = self._delimiter
        # Where the last search stopped, less what a delimiter split there may have left behind.
        end = pending.find(delimiter, max(0, self._need - len(delimiter)))
        if end >= 0:
            if end > self._max_length:
                raise _too_large(self._max_length)
            return end + len(delimiter)
        if len(pending) > self._max_length:
            begun = next((n for n in range(len(delimiter) - 1, 0, -1) if pending.endswith(delimiter[:n])), 0)
            if len(pending) - begun > self._max_length:
                raise _too_large(self._max_length)
        return len(pending) + 1


class LineDecoder(Buffer):
    """Cuts a byte stream at each LF and drops one CR before it."""

    __slots__ = ("_max_length",)

    def __init__(self, max_length: int) -> None:
        """Begin empty, for lines of at most `max_length` bytes without their terminator."""
        super().__init__()
        self._max_length = max_length

    def take(self) -> bytes | None:
        """Return the next line without its terminator; see `prefork_wire.Decoder`."""
        held = self._held
        if not held and not self._tail and self._failure is None:
            return None
        at = self._at
        newline = held.find(b"\n", at)
        if newline >= 0:
            end = newline - 1 if newline > at and held[newline - 1] == 13 else newline  # noqa: PLR2004 - CR
            if end - at <= self._max_length:
                following = newline + 1
                if following == len(held):
                    self._held = b""
                    self._at = 0
                else:
                    self._at = following
                return held[at:end]
        return self.take() if self._refill() else None

    def _measure(self, pending: bytearray) -> int:
        newline = pending.find(b"\n", max(0, self._need - 1))
        end = newline if newline >= 0 else len(pending)
        if end > self._max_length and end - pending.endswith(b"\r", 0, end) > self._max_length:
            raise _too_large(self._max_length)
        return end + 1


@dataclass(frozen=True, slots=True)
class Delimited:
    """Frames that end with a delimiter, which may be several bytes long and is not part of the payload.

    Attributes:
        delimiter: The bytes that end a frame; never empty.
        max_length: The longest payload, in bytes, in both directions.

    Raises:
        ValueError: `delimiter` is empty or `max_length` below 1.
    """

    delimiter: bytes
    max_length: int = 8192

    def __post_init__(self) -> None:
        if not self.delimiter:
            raise ValueError("delimiter must not be empty")
        require_positive("max_length", self.max_length)

    def decoder(self) -> DelimitedDecoder:
        """Return a decoder with fresh state, for one connection."""
        return DelimitedDecoder(self.delimiter, self.max_length)

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` and the delimiter.

        Raises:
            FrameTooLarge: The payload is longer than `max_length`.
            FrameInvalid: The delimiter would be found too early: it is in the payload, or begins there and
                ends in the delimiter itself.
        """
        if len(payload) > self.max_length:
            raise FrameTooLarge(f"payload of {len(payload)} bytes, the limit is {self.max_length}")
        frame = payload + self.delimiter
        if frame.find(self.delimiter) != len(payload):
            raise FrameInvalid("payload contains the delimiter")
        return frame


@dataclass(frozen=True, slots=True)
class Lines:
    r"""Lines of bytes: received with LF or CRLF, sent with `newline`.

    Only the one CR before LF belongs to the terminator; a CR anywhere else is payload.

    Attributes:
        max_length: The longest line, in bytes without its terminator, in both directions.
        newline: What ends a sent line, ``b"\r\n"`` or ``b"\n"``.

    Raises:
        ValueError: `max_length` is below 1 or `newline` is neither.
    """

    max_length: int = 8192
    newline: bytes = b"\r\n"

    def __post_init__(self) -> None:
        require_positive("max_length", self.max_length)
        if self.newline not in (b"\r\n", b"\n"):
            raise ValueError(f"newline must be CRLF or LF, not {self.newline!r}")

    def decoder(self) -> LineDecoder:
        """Return a decoder with fresh state, for one connection."""
        return LineDecoder(self.max_length)

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` and the newline.

        Raises:
            FrameTooLarge: The payload is longer than `max_length`.
            FrameInvalid: The payload would not arrive as it is: it contains LF, or ends with CR before a lone LF.
        """
        if len(payload) > self.max_length:
            raise FrameTooLarge(f"line of {len(payload)} bytes, the limit is {self.max_length}")
        if b"\n" in payload:
            raise FrameInvalid("line contains a newline")
        if self.newline == b"\n" and payload.endswith(b"\r"):
            raise FrameInvalid("line ends with CR, which a receiver would take for a part of the newline")
        return payload + self.newline
