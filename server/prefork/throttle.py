"""A throttle for log lines that a stranger can cause: one per cause and span of time, and how many were left out."""

from __future__ import annotations

import time
from typing import Final

SPAN: Final = 5.0
"""Seconds between two lines of one cause."""


class Throttle:
    """Says of each line whether it is to be written. Causes are few and named by us: a stranger cannot add one."""

    def __init__(self, span: float = SPAN) -> None:
        self._span = span
        self._causes: dict[str, tuple[float, int]] = {}  # when the next may be written, and how many were left out

    def left_out(self, cause: str) -> int | None:
        """Return how many lines of this cause were left out since the last one; None: leave this one out, too."""
        now = time.monotonic()
        next_at, count = self._causes.get(cause, (0.0, 0))
        if now < next_at:
            self._causes[cause] = (next_at, count + 1)
            return None
        self._causes[cause] = (now + self._span, 0)
        return count
