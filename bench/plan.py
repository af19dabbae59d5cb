"""How much a run does: the whole of it, or a quick one that shows that everything works."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from bench.needs import MissingError
    from bench.servers import Server


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does, and how often.

    Attributes:
        rounds: how often each pair of the table of costs is measured.
        seconds: how long each measure is to last.
        bursts: how often two workers are measured against one: both take a moment, in which much may come between.
        other_rounds: how often everything else is measured.
        held: idle connections for the measure of memory.
        held_processes: the same, of servers with a process for each.
        opened: connections on the way of growth.
        workers: workers on the way of growth.
        frames: bytes of a frame.
        pipelined: requests on the way at once.
        modelled: connections for each model of the chapter.
    """

    rounds: int
    seconds: float
    bursts: int
    other_rounds: int
    held: int
    held_processes: int = 100
    opened: tuple[int, ...] = (10, 100, 1_000, 5_000, 15_000)
    workers: tuple[int, ...] = (1, 2, 4, 8)
    frames: tuple[int, ...] = (16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)
    pipelined: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    modelled: int = 3_000


FULL: Final = Plan(rounds=9, seconds=0.6, bursts=15, other_rounds=3, held=4_000)
QUICK: Final = Plan(
    rounds=1, seconds=0.06, bursts=1, other_rounds=1, held=400, held_processes=20, opened=(10, 100, 1_000, 15_000),
    frames=(16, 1_024, 65_536, 1_048_576), pipelined=(1, 8, 64), modelled=300,
)  # fmt: skip


@dataclass
class Run:
    """A run on its way: its plan, what it compares, what it had to leave out, and what it tells the person who waits.

    Attributes:
        plan: how much it does.
        kit: the folder of the compiled servers.
        peers: those that are there.
        missing: why a server is not measured, or not in one part, by the server's name.
        broken: whether a part could not be brought to its end.
    """

    plan: Plan
    kit: Path
    peers: list[Server]
    missing: dict[str, str]
    broken: bool = False

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.expected = 0.0

    def say(self, text: str) -> None:
        """Show where it stands, in one line."""
        passed, expected = time.monotonic() - self.begin, self.expected
        sys.stderr.write(f"[{passed:4.0f} s of about {expected:.0f}] {text}\n")
        sys.stderr.flush()

    def leave_out(self, server: Server, where: str, error: MissingError | RuntimeError | OSError) -> None:
        """Note that a server is not measured in a part of the report, and why."""
        self.missing[f"{server.name} ({where})"] = str(error)
        self.say(f"{where}: {server.name} is left out: {error}")
