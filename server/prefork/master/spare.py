"""How many workers there should be, between a lowest and a highest number. Pure: what the workers say in, a target out.

Blocking workers are kept as classic preforking servers keep them: one more than are busy, so that nobody waits for a
fork. Async workers are counted by load: one that is busy nearly all the time cannot take what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefork.settings import Span

INTERVAL: Final = 0.5
"""Seconds between two looks."""

BUSY: Final = 0.8
"""Share of a CPU, averaged over the async workers, above which one more is wanted."""

FASTEST: Final = 8
"""Workers added at one look, at most; each look that finds too few doubles what the next one adds."""

CALM: Final = 10.0
"""Seconds for which one worker fewer would have been enough before one is sent home."""


@dataclass(frozen=True)
class Load:
    """What one serving worker carries."""

    free: bool  # it can take a connection now
    cpu: float  # its share of a CPU since the last look, 0 to 1
    blocking: bool  # it serves a fixed number of connections at once


class Spare:
    """Keeps the number of workers within `span`; `target` is the last answer."""

    def __init__(self, span: Span, now: float) -> None:
        self._span = span
        self._step = 1
        self._enough_since = self._looked = now

    def due(self, now: float) -> bool:
        """Say whether it is time to look."""
        return self._span.low < self._span.high and now - self._looked >= INTERVAL

    def look(self, target: int, loads: Sequence[Load], now: float) -> int:
        """Return how many workers there should be, given `target` and what those that serve carry.

        As long as not all of the target serve, what was decided last has not yet shown its effect: nothing is added.
        """
        self._looked = now
        if _too_few(loads):
            self._enough_since = now
            if len(loads) < target:
                return target
            step, self._step = self._step, min(FASTEST, self._step * 2)
            return min(self._span.high, target + step)
        self._step = 1
        if not _one_fewer_would_do(loads):
            self._enough_since = now
        if now - self._enough_since >= CALM and target > self._span.low:
            self._enough_since = now
            return target - 1
        return max(target, self._span.low)


def _too_few(loads: Sequence[Load]) -> bool:
    if any(load.blocking for load in loads):
        return not any(load.free for load in loads)
    return bool(loads) and sum(load.cpu for load in loads) / len(loads) > BUSY


def _one_fewer_would_do(loads: Sequence[Load]) -> bool:
    if any(load.blocking for load in loads):
        return sum(load.free for load in loads) > 1 + 1
    # half of what makes too few, so that the number does not swing
    return len(loads) > 1 and sum(load.cpu for load in loads) / (len(loads) - 1) < BUSY / 2
