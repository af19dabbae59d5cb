"""Frames whose size is known before their body: `LengthPrefixed`, `FixedSize` and `Netstring`.

It owns reading the size and refusing it before the body is buffered. It never reads a frame's inside.
"""

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Literal

from prefork_wire.buffer import Buffer, require_positive
from prefork_wire.errors import FrameInvalid, FrameTooLarge
from prefork_wire.framing import MOST, cut_one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable

_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class LengthPrefixedDecoder(Buffer):
    """Reads a binary length, then so many bytes."""

    __slots__ = ("_max_length", "_size", "_unpack")

    def __init__(self, header: Struct, max_length: int) -> None:
        """Begin empty, for payloads of at most `max_length` bytes after a `header`."""
        super().__init__()
        self._size = header.size
        self._unpack: Callable[[bytes | bytearray, int], tuple[int]] = header.unpack_from
        self._max_length = max_length

    def cut(self, data: bytes) -> list[bytes]:
        """Add bytes and return the whole payloads; see `prefork_wire.framing.cut_one_by_one`."""
        if self.buffered or self._failure is not None:
            return cut_one_by_one(self, data)
        unpack, size, max_length, available = self._unpack, self._size, self._max_length, len(data)
        frames: list[bytes] = []
        at, body = 0, size
        while body <= available and len(frames) < MOST:
            (length,) = unpack(data, at)
            end = body + length
            if end > available or length > max_length:
                break
            frames.append(data[body:end])
            at, body = end, end + size
        if at == available:
            return frames
        self.feed(data[at:] if at else data)
        return frames or cut_one_by_one(self, b"")

    def take(self) -> bytes | None:
        """Return the next payload; see `prefork_wire.Decoder`."""
        held = self._held
        if not self.buffered and self._failure is None:
            return None
        at = self._at
        available = len(held)
        body = at + self._size
        if body <= available:
            (length,) = self._unpack(held, at)
            end = body + length
            if end <= available and length <= self._max_length:
                self._go_to(end)
                return held[body:end]
        return self.take() if self._refill() else None

    def _measure(self, pending: bytearray) -> int:
        if len(pending) < self._size:
            return self._size
        (length,) = self._unpack(pending, 0)
        if length > self._max_length:
            raise FrameTooLarge(f"announced length of {length} bytes, the limit is {self._max_length}")
        return self._size + length


class FixedSizeDecoder(Buffer):
    """Cuts a byte stream into pieces of one size."""

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        """Begin empty, for frames of `size` bytes."""
        super().__init__()
        self._size = size

    def take(self) -> bytes | None:
        """Return the next frame; see `prefork_wire.Decoder`."""
        held = self._held
        if not self.buffered and self._failure is None:
            return None
        at = self._at
        end = at + self._size
        if end <= len(held):
            self._go_to(end)
            return held[at:end]
        return self.take() if self._refill() else None

    def _measure(self, pending: bytearray) -> int:  # noqa: ARG002 - one size, whatever has arrived
        return self._size


class NetstringDecoder(Buffer):
    """Reads a decimal length, a colon, so many bytes, and a comma."""

    __slots__ = ("_digits", "_max_length")

    def __init__(self, max_length: int) -> None:
        """Begin empty, for payloads of at most `max_length` bytes."""
        super().__init__()
        self._max_length = max_length
        self._digits = len(str(max_length))

    def take(self) -> bytes | None:
        """Return the next payload; see `prefork_wire.Decoder`."""
        held = self._held
        if not self.buffered and self._failure is None:
            return None
        at = self._at
        colon = held.find(b":", at, at + self._digits + 1)
        length = held[at:colon] if colon > at else b""
        # A leading zero is left to _measure, which lets only a lone one pass.
        if length.isdigit() and (length[0] != ord("0") or length == b"0"):
            body = colon + 1
            end = body + int(length)
            if end - body <= self._max_length and held.startswith(b",", end):
                self._go_to(end + 1)
                return held[body:end]
        return self.take() if self._refill() else None

    def _measure(self, pending: bytearray) -> int:
        head = pending[: self._digits + 1]
        digits = head[: len(head) - len(head.lstrip(b"0123456789"))]
        # In the order of their bytes, so that the error does not depend on how many of them have arrived.
        if len(digits) > 1 and digits.startswith(b"0"):
            raise FrameInvalid("netstring's length has a leading zero")
        if digits and int(digits) > self._max_length:
            raise FrameTooLarge(f"announced length above the limit of {self._max_length} bytes")
        if len(digits) == len(pending):
            return len(pending) + 1
        if not digits or pending[len(digits)] != ord(":"):
            raise FrameInvalid("netstring does not begin with a decimal length and a colon")
        comma = len(digits) + 1 + int(digits)
        if comma < len(pending) and pending[comma] != ord(","):
            raise FrameInvalid("netstring does not end with a comma")
        return comma + 1


@dataclass(frozen=True, slots=True)
class LengthPrefixed:
    """Frames that begin with their payload's length as an unsigned binary number.

    Attributes:
        size: The length field's own size in bytes: 1, 2, 4 or 8.
        byteorder: The length field's byte order.
        max_length: The longest payload, in bytes, in both directions; what `size` bytes cannot count is never allowed.

    Raises:
        ValueError: `size` or `byteorder` is none of these, or `max_length` is below 1.
    """

    size: Literal[1, 2, 4, 8] = 4
    byteorder: Literal["big", "little"] = "big"
    max_length: int = 1 << 20

    def __post_init__(self) -> None:
        if self.size not in _FORMATS:
            raise ValueError(f"size must be 1, 2, 4 or 8, not {self.size}")
        if self.byteorder not in ("big", "little"):
            raise ValueError(f"byteorder must be 'big' or 'little', not {self.byteorder!r}")
        require_positive("max_length", self.max_length)

    def decoder(self) -> LengthPrefixedDecoder:
        """Return a decoder with fresh state, for one connection."""
        order = ">" if self.byteorder == "big" else "<"
        return LengthPrefixedDecoder(Struct(order + _FORMATS[self.size]), self.max_length)

    def encode(self, payload: bytes) -> bytes:
        """Return the length and `payload`.

        Raises:
            FrameTooLarge: The payload is longer than `max_length`, or than `size` bytes can count.
        """
        limit = min(self.max_length, 256**self.size - 1)
        if len(payload) > limit:
            raise FrameTooLarge(f"payload of {len(payload)} bytes, the limit is {limit}")
        return len(payload).to_bytes(self.size, self.byteorder) + payload


@dataclass(frozen=True, slots=True)
class FixedSize:
    """Frames that all have one size, and nothing between them.

    Attributes:
        size: The size of each frame in bytes.

    Raises:
        ValueError: `size` is below 1.
    """

    size: int

    def __post_init__(self) -> None:
        require_positive("size", self.size)

    def decoder(self) -> FixedSizeDecoder:
        """Return a decoder with fresh state, for one connection."""
        return FixedSizeDecoder(self.size)

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` as it is.

        Raises:
            FrameTooLarge: The payload is longer than `size`.
            FrameInvalid: The payload is shorter than `size`.
        """
        if len(payload) > self.size:
            raise FrameTooLarge(f"payload of {len(payload)} bytes, every frame has {self.size}")
        if len(payload) < self.size:
            raise FrameInvalid(f"payload of {len(payload)} bytes, every frame has {self.size}")
        return payload


@dataclass(frozen=True, slots=True)
class Netstring:
    """Netstrings, such as ``5:hello,`` (D. J. Bernstein, "Netstrings", 1997).

    The length has no leading zeros, as the source demands, and no more digits than the limit has.

    Attributes:
        max_length: The longest payload, in bytes, in both directions.

    Raises:
        ValueError: `max_length` is below 1.
    """

    max_length: int = 1 << 20

    def __post_init__(self) -> None:
        require_positive("max_length", self.max_length)

    def decoder(self) -> NetstringDecoder:
        """Return a decoder with fresh state, for one connection."""
        return NetstringDecoder(self.max_length)

    def encode(self, payload: bytes) -> bytes:
        """Return the length, a colon, `payload` and a comma.

        Raises:
            FrameTooLarge: The payload is longer than `max_length`.
        """
        if len(payload) > self.max_length:
            raise FrameTooLarge(f"payload of {len(payload)} bytes, the limit is {self.max_length}")
        return b"%d:%b," % (len(payload), payload)
