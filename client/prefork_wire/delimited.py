"""Frames that end with a delimiter: `Delimited` by any bytes, `Lines` by a newline.

It owns the search for the delimiter, also where it is split over chunks. It never reads a frame's inside.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefork_wire.buffer import Buffer, require_positive
from prefork_wire.errors import FrameInvalid, FrameTooLarge
from prefork_wire.framing import MOST, cut_one_by_one

_LF = 10  # a number: looking for it is far quicker than for b"\n", which `in` first tries to read as one


def _too_large(max_length: int) -> FrameTooLarge:
    return FrameTooLarge(f"no delimiter within the limit of {max_length} bytes")


class _SplitBuffer(Buffer):
    """What both decoders share: the frames of a chunk are cut in one step."""

    __slots__ = ("_max_length",)

    def __init__(self, max_length: int) -> None:
        """Begin empty, for frames of at most `max_length` bytes without what ends them."""
        Buffer.__init__(self)
        self._max_length = max_length

    def _cut_held(self) -> list[bytes]:
        """Do what `cut` does, of bytes that have been fed, held before or not, and of any length."""
        self._check()
        frames: list[bytes] = []
        if self._tail:
            first = self.take()  # joins what came with what was held
            if first is None:
                return frames
            frames.append(first)
        if self._tail or not self._held:
            return frames
        held = self._held[self._at :] if self._at else self._held
        pieces = self._split(held)
        rest = pieces.pop()
        # where all of it is within the limit, so is each of them
        if not pieces or (len(held) > self._max_length and max(map(len, pieces)) > self._max_length):
            return frames or cut_one_by_one(self, b"")
        self._held = rest
        self._at = 0
        self.buffered = len(rest)
        return frames + pieces if frames else pieces

    @abstractmethod
    def _split(self, held: bytes) -> list[bytes]:
        """Return the first frames in `held`, fewer than `MOST`, and last what is behind them."""


class DelimitedDecoder(_SplitBuffer):
    """Cuts a byte stream at each delimiter."""

    __slots__ = ("_delimiter",)

    def __init__(self, delimiter: bytes, max_length: int) -> None:
        """Begin empty, for frames of at most `max_length` bytes without their delimiter."""
        super().__init__(max_length)
        self._delimiter = delimiter

    def cut(self, data: bytes) -> list[bytes]:
        """Add bytes and return the whole frames; see `prefork_wire.framing.cut_one_by_one`."""
        if self.buffered or self._failure is not None or len(data) > self._max_length:
            self.feed(data)
            return self._cut_held()
        frames = data.split(self._delimiter, MOST - 1)
        self._held = rest = frames.pop()
        self.buffered = len(rest)
        return frames

    def _split(self, held: bytes) -> list[bytes]:
        return held.split(self._delimiter, MOST - 1)

    def take(self) -> bytes | None:
        """Return the next frame without its delimiter; see `prefork_wire.Decoder`."""
        held = self._held
        if not self.buffered and self._failure is None:
            return None
        at = self._at
        end = held.find(self._delimiter, at)
        if 0 <= end <= at + self._max_length:
            self._go_to(end + len(self._delimiter))
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


class LineDecoder(_SplitBuffer):
    """Cuts a byte stream at each LF and drops one CR before it."""

    __slots__ = ("_alone",)

    def __init__(self, max_length: int) -> None:
        """Begin empty, for lines of at most `max_length` bytes without what ends them."""
        _SplitBuffer.__init__(self, max_length)
        self._alone = True  # the last line came alone, as those do of a peer that waits for each answer

    def cut(self, data: bytes) -> list[bytes]:
        """Add bytes and return the whole lines; see `prefork_wire.framing.cut_one_by_one`."""
        if self.buffered or self._failure is not None or len(data) > self._max_length:
            self.feed(data)
            return self._cut_held()
        if self._alone:
            line, end, rest = data.partition(b"\r\n")
            if end and not rest and _LF not in line:
                return [line]
        lines = data.split(b"\r\n", MOST - 1)
        rest = lines.pop()
        self._alone = len(lines) == 1
        if data.count(b"\n") != len(lines):  # a line ends with LF alone, or there are more than MOST
            self.feed(data)
            return self._cut_held()
        self._held = rest
        self.buffered = len(rest)
        return lines

    def _split(self, held: bytes) -> list[bytes]:
        *lines, rest = held.split(b"\n", MOST - 1)
        return [*(line.removesuffix(b"\r") for line in lines), rest]

    def take(self) -> bytes | None:
        """Return the next line without its terminator; see `prefork_wire.Decoder`."""
        held = self._held
        if not self.buffered and self._failure is None:
            return None
        at = self._at
        newline = held.find(b"\n", at)
        if newline >= 0:
            end = newline - 1 if newline > at and held[newline - 1] == 13 else newline  # noqa: PLR2004 - CR
            if end - at <= self._max_length:
                self._go_to(newline + 1)
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
    _bare: bool = field(init=False, repr=False, compare=False)  # sent lines end with LF alone

    def __post_init__(self) -> None:
        require_positive("max_length", self.max_length)
        if self.newline not in (b"\r\n", b"\n"):
            raise ValueError(f"newline must be CRLF or LF, not {self.newline!r}")
        object.__setattr__(self, "_bare", self.newline == b"\n")  # asked for with every line

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
        if _LF in payload:
            raise FrameInvalid("line contains a newline")
        if self._bare and payload.endswith(b"\r"):
            raise FrameInvalid("line ends with CR, which a receiver would take for a part of the newline")
        return payload + self.newline

    def encode_all(self, payloads: Sequence[bytes]) -> bytes:
        """Return the frames of all payloads, one behind the other; raises as `encode` does for the first that must."""
        newline = self.newline
        frames = newline.join(payloads) + newline
        if (
            frames.count(b"\n") == len(payloads)
            and (len(frames) <= self.max_length or max(map(len, payloads), default=0) <= self.max_length)
            and (not self._bare or frames.find(b"\r\n") < 0)
        ):
            return frames
        return b"".join(map(self.encode, payloads))
