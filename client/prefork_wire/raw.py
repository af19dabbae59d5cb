"""No framing at all: whatever bytes arrived are a frame.

For protocols without frames (discard, chargen) and for those that frame on their own. It never waits for more.
"""

from dataclasses import dataclass

from prefork_wire.buffer import Buffer, require_positive
from prefork_wire.framing import cut_one_by_one


class RawDecoder(Buffer):
    """Hands on what arrived, cut to a largest size."""

    __slots__ = ("_max_length",)

    def __init__(self, max_length: int) -> None:
        """Begin empty, for frames of at most `max_length` bytes."""
        super().__init__()
        self._max_length = max_length

    def cut(self, data: bytes) -> list[bytes]:
        """Add bytes and return all that are here; see `prefork_wire.framing.cut_one_by_one`."""
        if self.buffered or self._failure is not None or not 0 < len(data) <= self._max_length:
            return cut_one_by_one(self, data)
        return [data]

    def take(self) -> bytes | None:
        """Return what arrived, at most `max_length` bytes of it; see `prefork_wire.Decoder`."""
        held = self._held
        if held:
            at = self._at
            end = min(at + self._max_length, len(held))
            self._go_to(end)
            return held[at:end]
        return self.take() if self._refill() else None

    def _measure(self, pending: bytearray) -> int:  # noqa: ARG002 - one byte is enough
        return 1


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes without frames: each piece is what arrived together, which no peer can rely on.

    Attributes:
        max_length: The longest piece handed out at once, in bytes. What is sent may be longer.

    Raises:
        ValueError: `max_length` is below 1.
    """

    max_length: int = 65536

    def __post_init__(self) -> None:
        require_positive("max_length", self.max_length)

    def decoder(self) -> RawDecoder:
        """Return a decoder with fresh state, for one connection."""
        return RawDecoder(self.max_length)

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` as it is."""
        return payload
