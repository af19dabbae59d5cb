"""A throttle for log lines that a stranger can cause: a few per cause and span of time, and how many were left out."""

from __future__ import annotations

import time
from typing import Final

SPAN: Final = 5.0
"""Seconds within which a cause has its lines."""

MOST: Final = 256
"""Causes that are told apart; whatever is beyond them is one more."""


class Throttle:
    """Says of each line whether it is to be written: `burst` of a cause within `span` seconds are."""

    def __init__(self, span: float = SPAN, burst: int = 1) -> None:
        self._span = span
        self._burst = burst
        # by cause: when its span ends, how many were written in it, and how many were left out
        self._causes: dict[str, tuple[float, int, int]] = {}

    def left_out(self, cause: str) -> int | None:
        """Return how many lines of this cause were left out since the last one; None: leave this one out, too."""
        now = time.monotonic()
        if cause not in self._causes and len(self._causes) >= MOST:
            cause = ""
        ends, written, count = self._causes.get(cause, (0.0, 0, 0))
        if now >= ends:
            self._causes[cause] = (now + self._span, 1, 0)
            return count
        if written < self._burst:
            self._causes[cause] = (ends, written + 1, 0)
            return 0
        self._causes[cause] = (ends, written, count + 1)
        return None

    def more(self, cause: str) -> dict[str, int] | None:
        """Return what a line of this cause says besides: `left_out`, if lines were; None: leave this one out, too."""
        count = self.left_out(cause)
        return None if count is None else {"left_out": count} if count else {}
