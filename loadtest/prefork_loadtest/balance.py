"""Who served what: each server worker's part of the run, read from the control socket.

A worker that dies keeps the last figures that were seen of it. Pure: statuses in, shares out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefork_loadtest.control import Status, Worker


@dataclass(slots=True)
class Share:
    """One worker process and what it did since the run began."""

    slot: int
    pid: int
    generation: int
    alive: bool
    connections: int
    accepted: int
    requests: int
    errors: int


class Balance:
    """All workers seen during a run, by process."""

    def __init__(self) -> None:
        self._first: dict[int, Worker] = {}
        self._last: dict[int, Worker] = {}
        self._alive: set[int] = set()

    def see(self, status: Status) -> None:
        """Take in one status. What a worker had done before the first one is not counted to the run."""
        first_look = not self._last
        self._alive = {worker.pid for worker in status.workers}
        for worker in status.workers:
            if first_look:
                self._first[worker.pid] = worker
            self._last[worker.pid] = worker

    def note(self, worker: Worker) -> None:
        """Take in the last figures of a worker that is about to be killed."""
        self._last[worker.pid] = worker

    def shares(self) -> list[Share]:
        """Every worker, by slot and then by age."""
        return [
            self._share(worker)
            for worker in sorted(self._last.values(), key=lambda worker: (worker.slot, worker.generation))
        ]

    def _share(self, worker: Worker) -> Share:
        first = self._first.get(worker.pid)
        return Share(
            slot=worker.slot,
            pid=worker.pid,
            generation=worker.generation,
            alive=worker.pid in self._alive,
            connections=worker.connections,
            accepted=worker.accepted - (first.accepted if first else 0),
            requests=worker.requests - (first.requests if first else 0),
            errors=worker.errors - (first.errors if first else 0),
        )
