"""Whether the load generator itself keeps up: how busy its event loop is, and how late it does what is due.

A saturated generator measures itself. Each load process has one meter; their readings merge like ledgers.
"""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, TypedDict

import gevent
from gevent import get_hub

from prefork_loadtest.histogram import Encoded, Histogram
from prefork_loadtest.verdict import SATURATED

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

TICK_S = 0.05
WATCHED_TICK = 4
"""In one tick of so many the loop is watched: that costs something each time it comes round, a tenth of a request."""
WINDOW_S = 1.0
"""Seconds of one window: short enough that a spike is not averaged away. Not so many ticks: a busy loop has few."""
MOST_BUSY = 0.9
"""A loop that waits for less than the rest of a window has no room left: replies wait for the generator."""
MOST_BUSY_PART = 0.1
"""So many of the windows may be that busy, and at least one: starting up takes one."""
MOST_LATE_US = 250_000
"""Later than this once in a hundred times, the generator measures itself."""
HICCUPS = 5
"""As many late moments prove nothing: starting up takes a few, and in a short run they are more than one in 100."""
MOST_FROZEN_PART = 0.1
"""A loop that stood still for more of the run than this, in however few pieces, was not there to measure."""


class MeterData(TypedDict):
    """A meter's readings as plain data."""

    cpu_s: float
    busy_s: float
    wall_s: float
    windows: int
    busy_windows: int
    lag: Encoded
    slip: Encoded
    frozen_s: float


class Meter:
    """Processor and loop time, the loop's lateness and that of scheduled requests, since the last `take`.

    The loop is busy while it does not wait for events, whether it computes or waits for a processor: on a machine that
    others use too, the time of the processor alone would look like plenty of room.
    """

    def __init__(self) -> None:
        self._watched_s = self._idle_s = self._watching_since = 0.0
        self._waiting_since: float | None = None
        self._watchers: list[tuple[Any, Callable[[], None]]] = []
        self._reset()

    def _reset(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        self._before = self._watched(), self._idle_s
        self._windows, self._busy_windows, self._frozen_s = 0, 0, 0.0
        self._lag, self._slip = Histogram(figures=2), Histogram(figures=2)

    def late(self, seconds: float) -> None:
        """Note by how much a scheduled request began late though its user had nothing else to do."""
        self._slip.record(seconds * 1e6)

    def run(self) -> NoReturn:
        """Measure for ever; for a greenlet of its own."""
        loop = get_hub().loop
        # The last to run before the loop waits for events, and the first after it.
        self._watchers = [
            (loop.prepare(ref=False, priority=-2), self._begin_to_wait),
            (loop.check(ref=False, priority=2), self._end_to_wait),
        ]
        try:
            while True:
                self._window()
        finally:
            self._unwatch()

    def _watch(self) -> None:
        self._waiting_since, self._watching_since = None, time.perf_counter()
        for watcher, heard in self._watchers:
            watcher.start(heard)

    def _unwatch(self) -> None:
        self._watched_s, self._watching_since = self._watched(), 0.0
        for watcher, _ in self._watchers:
            watcher.stop()

    def _begin_to_wait(self) -> None:
        self._waiting_since = time.perf_counter()

    def _end_to_wait(self) -> None:
        if self._waiting_since is not None:
            self._idle_s += time.perf_counter() - self._waiting_since

    def _watched(self) -> float:
        """Seconds in which the loop was watched so far, the tick included that has begun."""
        return self._watched_s + (time.perf_counter() - self._watching_since if self._watching_since else 0.0)

    def _window(self) -> None:
        """Measure one window."""
        watched, idle = self._watched_s, self._idle_s
        end = time.perf_counter() + WINDOW_S
        for tick in count():
            if tick % WATCHED_TICK == 0:
                self._watch()
            self._tick()
            if tick % WATCHED_TICK == 0:
                self._unwatch()
            if time.perf_counter() >= end:
                break
        watched, idle = self._watched_s - watched, self._idle_s - idle
        self._windows += 1
        self._busy_windows += watched - idle > MOST_BUSY * watched

    def _tick(self) -> None:
        """Sleep one tick, and note how late it ended."""
        due = time.perf_counter() + TICK_S
        gevent.sleep(TICK_S)
        late = time.perf_counter() - due
        self._lag.record(late * 1e6)
        if late * 1e6 > MOST_LATE_US:
            self._frozen_s += late

    def take(self) -> MeterData:
        """The readings since the last `take`."""
        wall = time.perf_counter() - self._wall
        watched, idle = self._watched() - self._before[0], self._idle_s - self._before[1]
        data = MeterData(
            cpu_s=time.process_time() - self._cpu,
            busy_s=wall * max(0.0, 1 - idle / watched) if watched else 0.0,
            wall_s=wall,
            windows=self._windows,
            busy_windows=self._busy_windows,
            lag=self._lag.encode(),
            slip=self._slip.encode(),
            frozen_s=self._frozen_s,
        )
        self._reset()
        return data


class Readings:
    """The readings of one load process over the whole run."""

    def __init__(self) -> None:
        self.cpu_s = self.busy_s = self.wall_s = self.frozen_s = 0.0
        self.windows = self.busy_windows = 0
        self.lag, self.slip = Histogram(figures=2), Histogram(figures=2)

    def merge(self, data: MeterData) -> None:
        """Add what a meter took."""
        self.cpu_s += data["cpu_s"]
        self.busy_s += data["busy_s"]
        self.wall_s += data["wall_s"]
        self.frozen_s += data["frozen_s"]
        self.windows += data["windows"]
        self.busy_windows += data["busy_windows"]
        self.lag.merge(Histogram.decode(data["lag"]))
        self.slip.merge(Histogram.decode(data["slip"]))

    def __str__(self) -> str:
        wall = self.wall_s or 1.0
        slip = f", scheduled requests {self.slip.percentile(99) / 1000:.1f} ms late" if self.slip.count else ""
        return (
            f"{self.cpu_s / wall:.0%} of a processor, loop {self.busy_s / wall:.0%} busy and at most "
            f"{self.lag.percentile(99) / 1000:.1f} ms late{slip} (99 %)"
        )

    def trouble(self) -> str | None:
        """Why this process was saturated, in one line; None if it kept up."""
        if self.busy_windows > max(1.0, MOST_BUSY_PART * self.windows):
            return f"{SATURATED}: its loop had no room left in {self.busy_windows} of {self.windows} seconds"
        if self.frozen_s > MOST_FROZEN_PART * self.wall_s:
            return f"{SATURATED}: its loop stood still for {self.frozen_s:.1f} of {self.wall_s:.1f} s"
        for what, times in (("its loop woke", self.lag), ("its scheduled requests began", self.slip)):
            late = _again_and_again(times)
            if late > MOST_LATE_US:
                return f"{SATURATED}: {what} {late / 1000:.0f} ms late and later, again and again"
        return None


def _again_and_again(times: Histogram) -> int:
    """The time that one in a hundred exceeds, and more than a few; 0 where there are only few."""
    return times.percentile(100 * (1 - max(0.01, HICCUPS / max(HICCUPS, times.count))))
