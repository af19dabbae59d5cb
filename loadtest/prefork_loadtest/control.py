"""The server's control socket, as the load kit reads it: one line asked, one line of JSON answered.

It trusts nothing: a server that answers something else is a `ControlError` in one line. It only asks for the status.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefork_loadtest import agent

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 2.0
SERVING = frozenset({"serving", "full"})


class ControlError(Exception):
    """The control socket could not be asked, or what it said makes no sense."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker of the server, as its status tells. Counters are since the worker's start."""

    slot: int
    pid: int
    generation: int
    state: str
    connections: int
    accepted: int
    requests: int
    errors: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What all workers together did since the master began, those included that are gone."""

    requests: int
    bytes_in: int
    errors: int


@dataclass(frozen=True, slots=True)
class Status:
    """The part of the status that a load test reads."""

    state: str
    version: str
    pid: int
    generation: int
    addresses: tuple[str, ...]
    workers: tuple[Worker, ...]
    totals: Totals | None = None
    rss_bytes: int = 0
    """Resident memory of all workers together; 0 if it is not told."""

    @property
    def serving(self) -> tuple[Worker, ...]:
        """The workers that serve; one that is full for the moment is one of them."""
        return tuple(worker for worker in self.workers if worker.state in SERVING)

    def worker(self, pid: int) -> Worker | None:
        """The worker with this pid, or None if there is none."""
        return next((worker for worker in self.workers if worker.pid == pid), None)

    def in_slot(self, slot: int) -> Worker | None:
        """The serving worker of a slot, or None while there is none."""
        there = (worker for worker in self.serving if worker.slot == slot)
        return max(there, key=lambda worker: worker.generation, default=None)


def ask(path: Path, deadline_s: float = DEADLINE_S) -> Status:
    """The status of the server behind the control socket at `path`.

    Raises:
        ControlError: nobody answers there within `deadline_s` seconds, or not with a status.
    """
    try:
        line = agent.ask(str(path), deadline_s)
    except OSError as error:
        raise ControlError(f"control socket {str(path)!r}: {error.strerror or 'no answer in time'}") from error
    return parse(line, f"control socket {str(path)!r}")


def parse(line: str, place: str) -> Status:
    """The status that a line says.

    Raises:
        ControlError: it says none; the text begins with `place`.
    """
    try:
        return _status(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise ControlError(f"{place}: the answer is not a status") from error


def _status(table: dict[str, Any]) -> Status:
    workers = tuple(
        Worker(
            slot=int(row["slot"]),
            pid=int(row["pid"]),
            generation=int(row["generation"]),
            state=str(row["state"]),
            connections=int(row["connections"]),
            accepted=int(row["accepted"]),
            requests=int(row["requests"]),
            errors=int(row["errors"]),
        )
        for row in table["workers"]
    )
    addresses = tuple(str(listener["address"]) for listener in table["listeners"])
    counted = table["totals"]
    return Status(
        state=str(table["state"]),
        version=str(table["version"]),
        pid=int(table["pid"]),
        generation=int(table["generation"]),
        addresses=addresses,
        workers=workers,
        rss_bytes=sum(int(row.get("rss_bytes") or 0) for row in table["workers"]),
        totals=Totals(int(counted["requests"]), int(counted["bytes_in"]), int(counted["errors"])),
    )
