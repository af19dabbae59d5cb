"""The bytes a decoder holds: the one buffer under all built-in framings.

It owns what was fed and not yet taken, the wait for more, and failing for good. It never decides where a frame ends:
each framing says so twice, quickly in `take` for a frame that lies whole in what was fed, and thoroughly in
`_measure`, which alone checks limits and raises.
"""

from abc import ABC, abstractmethod

from prefork_wire.errors import FrameError, FrameTruncated
from prefork_wire.framing import cut_one_by_one


class Buffer(ABC):
    """Bytes in two parts, so that the common case copies nothing and no case costs quadratic time.

    `_held` from `_at` on are bytes exactly as they were fed; frames are cut out of them. `_tail` is what arrived
    behind them, growing in place. When `_held` runs out, its remainder moves in front of `_tail`, and once the first
    frame there is whole, all of it becomes `_held`. So each byte moves a bounded number of times.
    """

    __slots__ = ("_at", "_failure", "_held", "_need", "_tail", "buffered")

    buffered: int
    """How many bytes are held and not yet taken; kept, and not computed, because it is asked for after every batch."""

    def __init__(self) -> None:
        """Begin empty."""
        self._held = b""
        self._at = 0
        self._tail: bytearray | None = None
        self._need = 0  # no fewer bytes in _tail can complete its first frame; 0: not measured yet
        self._failure: tuple[type[FrameError], str] | None = None
        self.buffered = 0

    def feed(self, data: bytes) -> None:
        """Add bytes as they arrived; see `prefork_wire.Decoder`."""
        if self._failure is not None:
            return
        self.buffered += len(data)
        if self._tail is not None:
            self._tail += data
        elif self._held:
            self._tail = bytearray(data)
        else:
            self._held = data

    @abstractmethod
    def take(self) -> bytes | None:
        """Return the next frame, or None; see `prefork_wire.Decoder`."""

    def cut(self, data: bytes) -> list[bytes]:
        """Add bytes and return the whole frames; see `prefork_wire.framing.cut_one_by_one`."""
        return cut_one_by_one(self, data)

    @abstractmethod
    def _measure(self, pending: bytearray) -> int:
        """Return how many bytes the first frame of `pending` takes with its framing.

        As long as that is unknown, a number larger than ``len(pending)`` that it takes at least. `_need` is the
        last answer about these same bytes, or 0.

        Raises:
            FrameError: No further bytes can make this a frame.
        """

    def _refill(self) -> bool:
        """Bring a whole frame to the front of `_held`; False when more bytes are needed.

        Raises:
            FrameError: What comes next is no frame, or the decoder had failed before.
        """
        self._check()
        tail = self._tail
        if self._held or tail is None:
            tail = self._tail = bytearray(self._held[self._at :]) + (tail or b"")
            self._held = b""
            self._at = 0
            self._need = 0
        if len(tail) < self._need:
            return False
        try:
            self._need = self._measure(tail)
        except FrameError as error:
            self._fail(error)
            raise
        if len(tail) < self._need:
            return False
        self._held = bytes(tail)
        self._tail = None
        self._need = 0
        return True

    def _go_to(self, end: int) -> None:
        """Leave behind what of `_held` is before `end`: it has been taken."""
        self.buffered -= end - self._at
        if end == len(self._held):
            self._held = b""
            self._at = 0
        else:
            self._at = end

    def end(self) -> None:
        """Say that the peer's bytes have ended; see `prefork_wire.Decoder`."""
        self._check()
        if self.buffered:
            error = FrameTruncated("the peer's bytes ended in the middle of a frame")
            self._fail(error)
            raise error

    def rest(self) -> bytes:
        """Return all bytes not yet taken and forget them; see `prefork_wire.Decoder`."""
        rest = self._held[self._at :] + (self._tail or b"")
        self._clear()
        return rest

    def _check(self) -> None:
        if self._failure is not None:
            kind, message = self._failure
            raise kind(message)

    def _fail(self, error: FrameError) -> None:
        # Not the error itself: its traceback would tie this decoder, and its connection, into a cycle.
        self._failure = (type(error), str(error))
        self._clear()

    def _clear(self) -> None:
        self._held = b""
        self._at = 0
        self._tail = None
        self._need = 0
        self.buffered = 0


def require_positive(name: str, value: int) -> None:
    """Check a size given to a framing.

    Raises:
        ValueError: It is smaller than 1.
    """
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
