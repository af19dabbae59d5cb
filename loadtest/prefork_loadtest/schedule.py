"""The absolute schedule of an open-rate user: when each request is meant to start, whatever the server does.

Pure: the clock is an argument. The schedule is never reset, so a stall leaves a backlog of intended starts in the past,
and the time of each of those requests, counted from its intended start, shows what a caller would have waited.
"""

from __future__ import annotations


class Schedule:
    """Intended starts, `1 / rate` seconds apart, from `start` on (seconds of a monotonic clock)."""

    def __init__(self, rate: float, start: float) -> None:
        if rate <= 0:
            raise ValueError("a rate is a positive number of requests per second")
        self._interval = 1.0 / rate
        self._next = start

    def take(self, pace: float = 1.0) -> float:
        """The intended start of the next request. The one after it is one interval later, late or not.

        Args:
            pace: the intervals after this start are so many times shorter.
        """
        due = self._next
        self._next += self._interval / pace
        return due

    def wait(self, now: float) -> float:
        """Seconds from `now` until the next intended start; 0 if it is already past."""
        return max(0.0, self._next - now)
