"""What a run has found, in the shape in which results.json holds it. Nothing here measures or draws.

CPU time is in microseconds, memory in KiB, time in milliseconds where a name says so, and in seconds elsewhere.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

if TYPE_CHECKING:
    from pathlib import Path


class Spread(TypedDict):
    """A figure of several rounds."""

    median: float
    low: float
    high: float
    rounds: list[float]


class Cost(TypedDict):
    """What a request costs one server in one form. The ratio is to the baseline, round by round."""

    us: Spread
    ratio: Spread
    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


class Row(TypedDict):
    """A server in a table of costs: how many processes it has, and its costs by form.

    Where there are several processes: how many of the open connections each has, the fewest first.
    """

    processes: int
    forms: dict[str, Cost]
    shares: NotRequired[list[int]]


Table = dict[str, Row]
"""By the servers' names; the baseline is one of them, with the ratio 1."""


class Memory(TypedDict):
    """What a server takes: alone, for each idle connection, for each process beyond the first."""

    alone_kib: float
    connection_kib: float | None
    connections: int
    worker_kib: float | None


class Point(TypedDict):
    """A point of a curve."""

    x: float
    us: Spread
    per_second: float


Curve = dict[str, list[Point]]
"""By the servers' names."""


Scaling = dict[str, dict[str, Spread]]
"""How many times as much as one worker two carry, by the servers' names and by form."""


class Blocking(TypedDict):
    """The p99 of connections beside one whose handler blocks again and again, and beside none."""

    blocked_ms: float
    p99_ms: Spread
    p99_alone_ms: Spread


class Model(TypedDict):
    """A model of the chapter: what a connection costs, and what one more open connection takes, if it can be open."""

    processor_us: float
    memory_kib: float | None


class Results(TypedDict, total=False):
    """All of it. A part that was not run is not there."""

    facts: dict[str, str]
    versions: dict[str, str]
    missing: dict[str, str]
    cost: Table
    preforked: Table
    one_each: Table
    echo: Table
    accept: Table
    memory: dict[str, Memory]
    startup: dict[str, Spread]
    growth: dict[str, Curve]
    scaling: Scaling
    blocking: Blocking
    models: dict[str, Model]


def write(results: Results, path: Path) -> None:
    """Write the results as JSON."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read(path: Path) -> Results:
    """Return what `write` wrote."""
    return cast("Results", json.loads(path.read_text("utf-8")))
