"""Whether the load generator itself keeps up: its processor share, and how late its event loop wakes.

A saturated generator measures itself. Each load process has one meter; their readings merge like ledgers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypedDict

import gevent

from prefork_loadtest.histogram import Encoded, Histogram

if TYPE_CHECKING:
    from typing import NoReturn

TICK_S = 0.05
MOST_CPU_SHARE = 0.9
"""Above this part of one processor a Python process has no room left: replies wait for the generator."""
MOST_LAG_US = 250_000
"""A loop that is later than this for one wake-up in a hundred measures itself."""
HICCUPS = 5
"""As many late wake-ups prove nothing: starting up takes a few, and in a short run they are more than one in 100."""


class MeterData(TypedDict):
    """A meter's readings as plain data."""

    cpu_s: float
    wall_s: float
    lag: Encoded


class Meter:
    """Processor seconds, wall seconds and loop lateness since the last `take`."""

    def __init__(self) -> None:
        self.lag = Histogram(figures=2)
        self._cpu = time.process_time()
        self._wall = time.monotonic()

    def run(self) -> NoReturn:
        """Measure lateness for ever; for a greenlet of its own."""
        while True:
            due = time.perf_counter() + TICK_S
            gevent.sleep(TICK_S)
            self.lag.record((time.perf_counter() - due) * 1e6)

    def take(self) -> MeterData:
        """The readings since the last `take`."""
        cpu, wall = time.process_time(), time.monotonic()
        data = MeterData(cpu_s=cpu - self._cpu, wall_s=wall - self._wall, lag=self.lag.encode())
        self._cpu, self._wall, self.lag = cpu, wall, Histogram(figures=2)
        return data


class Readings:
    """The readings of one load process over the whole run."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self.lag = Histogram(figures=2)

    def merge(self, data: MeterData) -> None:
        """Add what a meter took."""
        self.cpu_s += data["cpu_s"]
        self.wall_s += data["wall_s"]
        self.lag.merge(Histogram.decode(data["lag"]))

    @property
    def cpu_share(self) -> float:
        """Part of one processor that the process used."""
        return self.cpu_s / self.wall_s if self.wall_s else 0.0

    @property
    def lag_p99_us(self) -> int:
        """Microseconds that 99 % of the loop's wake-ups were not late by."""
        return self.lag.percentile(99)

    def trouble(self) -> str | None:
        """Why this process was saturated, in one line; None if it kept up."""
        if self.cpu_share > MOST_CPU_SHARE:
            return f"generator saturated: a load process used {self.cpu_share:.0%} of a processor"
        late = self.lag.percentile(100 * (1 - max(0.01, HICCUPS / max(HICCUPS, self.lag.count))))
        if late > MOST_LAG_US:
            return f"generator saturated: its loop woke {late / 1000:.0f} ms late and later, again and again"
        return None
