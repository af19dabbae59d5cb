"""Latency histograms in microseconds, exact enough to gate on and small enough to send (HdrHistogram, V2 encoding).

One value is recorded per successful request. Percentiles are within 0.1 % of the true value; smallest and largest are
kept exactly, which the encoding alone does not do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from hdrh.histogram import HdrHistogram

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_US = 3_600_000_000
"""One hour: a longer time is recorded as this."""
MOST_PENDING = 4096
"""So many different times wait to be recorded: counting in a dictionary is cheaper than recording, and most recur."""


class Encoded(TypedDict):
    """A histogram as Locust's messages and the report's JSON carry it."""

    hdr: str
    count: int
    min_us: int
    max_us: int


class Histogram:
    """Times in whole microseconds, from 1 to `LARGEST_US`.

    Args:
        figures: significant decimal digits that survive recording: 3 for verdicts, 2 for pictures.
    """

    def __init__(self, figures: int = 3) -> None:
        self._hdr = HdrHistogram(1, LARGEST_US, figures)
        self.count = 0
        self.min_us = LARGEST_US
        self.max_us = 0
        self._pending: dict[int, int] = {}

    def record(self, microseconds: float) -> None:
        """Record one time. Less than one microsecond counts as one."""
        value = min(max(int(microseconds), 1), LARGEST_US)
        pending = self._pending
        pending[value] = pending.get(value, 0) + 1
        self.count += 1
        self.min_us = min(self.min_us, value)
        self.max_us = max(self.max_us, value)
        if len(pending) >= MOST_PENDING:
            self._settle()

    def record_all(self, counts: Mapping[int, int]) -> None:
        """Record so many times of so many microseconds."""
        for microseconds, count in counts.items():
            value = min(max(microseconds, 1), LARGEST_US)
            self._pending[value] = self._pending.get(value, 0) + count
            self.count += count
            self.min_us = min(self.min_us, value)
            self.max_us = max(self.max_us, value)
        if len(self._pending) >= MOST_PENDING:
            self._settle()

    def _settle(self) -> HdrHistogram:
        """Record what waits, and return the histogram of all."""
        if self._pending:
            for value, count in self._pending.items():
                self._hdr.record_value(value, count)
            self._pending.clear()
        return self._hdr

    def percentile(self, percent: float) -> int:
        """Microseconds that `percent` % of the recorded times do not exceed; 0 when nothing was recorded."""
        if not self.count:
            return 0
        # The library rounds the rank to the nearest, which leaves out the slowest of few: ask for a whole rank.
        rank = max(1, math.ceil(percent * self.count / 100 - 1e-9))
        return min(int(self._settle().get_value_at_percentile(100 * rank / self.count)), self.max_us)

    def merge(self, other: Histogram) -> None:
        """Add every time of `other` to this one."""
        if not other.count:
            return
        self._settle().add(other._settle())
        self.count += other.count
        self.min_us = min(self.min_us, other.min_us)
        self.max_us = max(self.max_us, other.max_us)

    def encode(self) -> Encoded:
        """This histogram as plain data."""
        hdr = self._settle().encode().decode("ascii")
        return Encoded(hdr=hdr, count=self.count, min_us=self.min_us, max_us=self.max_us)

    @classmethod
    def decode(cls, data: Encoded) -> Histogram:
        """The histogram that `encode` described.

        Raises:
            ValueError: the count that was sent is not the count that arrived.
        """
        decoded = HdrHistogram.decode(data["hdr"])
        if decoded.get_total_count() != data["count"]:
            raise ValueError("a histogram arrived with another count than it was sent with")
        histogram = cls(decoded.significant_figures)
        histogram._hdr.add(decoded)
        histogram.count, histogram.min_us, histogram.max_us = data["count"], data["min_us"], data["max_us"]
        return histogram
