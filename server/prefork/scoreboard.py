"""The scoreboard: one anonymous shared mapping, a row of integers per worker, each written by its own worker only.

The master and every worker read all rows; a row is written by the one worker that was given it at its fork, so no
lock is needed: an aligned 64-bit store is seen whole or not at all on every machine this runs on. Nobody trusts what
is in it: a broken worker may write anything into its own row, and the worst that follows is a wrong figure in
`prefork status`, or that worker being taken for hung.

This file owns the layout. It never decides anything.
"""

from __future__ import annotations

import mmap
import time
from enum import IntEnum
from typing import Final, NamedTuple

ROWS: Final = 1024
"""Rows in the mapping: the most workers that can be alive at once, old generations included."""

WIDTH: Final = 16
"""Integers per row: 128 bytes, two cache lines, so that two workers never write to the same one."""

_USED: Final = ROWS * WIDTH  # the master's one integer, behind the rows


class Field(IntEnum):
    """The integers of a row. Counters only grow while a worker lives."""

    PHASE = 0  # Phase
    BEAT = 1  # nanoseconds of the monotonic clock, written by the serving loop itself, never by a helper thread
    CONNECTIONS = 2  # open now
    ACCEPTED = 3
    REQUESTS = 4
    ERRORS = 5
    BYTES_IN = 6
    BYTES_OUT = 7
    CAPACITY = 8  # connections a blocking worker can serve at once; 0 for an async one, whose limit is its CPU
    REFUSED = 9  # accepted and reset: not trusted, denied, or one too many of its source
    LOG_DROPPED = 10  # lines that could not be written to the log


class Phase(IntEnum):
    """What a worker says of itself."""

    BOOTING = 0
    ACCEPTING = 1
    FULL = 2  # at its connection limit: the kernel's queue is the waiting room
    DRAINING = 3
    YIELDING = 4  # accepting, but leaving the queue to the others for a moment
    PROVING = 5  # ready, and on trial: nothing is accepted yet


class Scoreboard:
    """The whole mapping. Made once by the master before the first fork; workers inherit it."""

    def __init__(self) -> None:
        self._mapping = mmap.mmap(-1, (ROWS + 1) * WIDTH * 8)
        self.cells = memoryview(self._mapping).cast("q")

    def row(self, index: int) -> Row:
        """Return row `index` (0 to ROWS - 1)."""
        return Row(self.cells[index * WIDTH : (index + 1) * WIDTH])

    def used(self) -> int:
        """Return how many rows, from the first, may hold a living worker: so far a reader need look."""
        return self.cells[_USED]

    def set_used(self, rows: int) -> None:
        """Say how far readers need look: the master alone does, in the line behind the last row."""
        self.cells[_USED] = rows


class Row:
    """One worker's integers. `cells` is public because the serving loop adds to it on every request."""

    __slots__ = ("cells",)

    def __init__(self, cells: memoryview) -> None:
        self.cells = cells

    def clear(self) -> None:
        """Zero the row: the master does, before it gives the row to a new worker."""
        for index in range(WIDTH):
            self.cells[index] = 0

    def beat(self) -> None:
        """Say that the serving loop has moved. Only the serving loop itself may call this."""
        self.cells[Field.BEAT] = time.monotonic_ns()

    def read(self) -> Reading:
        """Copy the row."""
        return Reading(*self.cells[: len(Field)].tolist())


class Reading(NamedTuple):
    """A copy of a row at one moment; in the order of `Field`, by which it can be indexed too."""

    phase_code: int = 0
    beat_ns: int = 0
    connections: int = 0
    accepted: int = 0
    requests: int = 0
    errors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    capacity: int = 0
    refused: int = 0
    log_dropped: int = 0

    @property
    def phase(self) -> Phase:
        """What the worker says of itself; a value nobody knows reads as BOOTING."""
        return Phase(self.phase_code) if self.phase_code in _PHASES else Phase.BOOTING

    @property
    def beat_s(self) -> float:
        """The last heartbeat, in seconds of the monotonic clock; 0.0 before the first."""
        return self.beat_ns / 1e9


_PHASES = frozenset(Phase)
