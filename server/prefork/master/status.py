"""What `prefork status` shows: the pool, the scoreboard and the listeners, as one JSON-ready object.

It reads and adds up; it changes nothing. Figures of workers that are gone stay in the totals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prefork.master.process import rss_bytes
from prefork.scoreboard import Field, Phase, Reading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefork.connection.terms import Terms
    from prefork.listener import Listener
    from prefork.master.pool import Pool, Worker
    from prefork.scoreboard import Scoreboard

_COUNTERS: Final = (
    Field.ACCEPTED, Field.REFUSED, Field.REQUESTS, Field.ERRORS, Field.BYTES_IN, Field.BYTES_OUT, Field.LOG_DROPPED
)  # fmt: skip


STATES: Final = ("starting", "running", "reloading", "draining")
WORKER_STATES: Final = ("starting", "serving", "full", "draining", "killing")
"""Every word that can be said of the server, and of a worker that is not gone."""


class Totals:
    """The counters of workers that are gone, and what has happened to workers, kept by the master."""

    def __init__(self) -> None:
        self._gone = dict.fromkeys(_COUNTERS, 0)
        self.started = 0  # workers forked
        self.lost = 0  # workers that ended without having been told to
        self.reloads = 0
        self.reloads_failed = 0

    def add(self, reading: Reading) -> None:
        """Keep the counters of a worker that has ended."""
        for counter in _COUNTERS:
            self._gone[counter] += reading[counter]

    def with_living(self, readings: Iterable[Reading], log_dropped: int) -> dict[str, int]:
        """Return all counters, of the dead and of the living; `log_dropped` is how many lines the master has lost."""
        totals = {field.name.lower(): count for field, count in self._gone.items()}
        totals["connections"] = 0
        for reading in readings:
            totals["connections"] += reading[Field.CONNECTIONS]
            for counter in _COUNTERS:
                totals[counter.name.lower()] += reading[counter]
        totals |= {
            "workers_started": self.started,
            "workers_lost": self.lost,
            "reloads": self.reloads,
            "reloads_failed": self.reloads_failed,
        }
        totals["log_dropped"] += log_dropped
        return totals


def state_of(pool: Pool) -> str:
    """Return the server's state in one word: starting, running, reloading or draining."""
    if pool.stop is not None:
        return "draining"
    if pool.candidate is not None:
        return "reloading"
    return "running" if pool.serving() >= max(1, pool.target) else "starting" if pool.target else "draining"


def workers(pool: Pool, board: Scoreboard, now: float) -> list[dict[str, Any]]:
    """Return a row per living worker, in the order of generation and slot."""
    rows = []
    for worker in sorted(pool, key=lambda w: (w.generation, w.slot)):
        reading = board.row(worker.row).read()
        rows.append({
            "slot": worker.slot,
            "pid": worker.pid,
            "generation": worker.generation,
            "state": _word(worker, reading),
            "connections": reading[Field.CONNECTIONS],
            "accepted": reading[Field.ACCEPTED],
            "refused": reading[Field.REFUSED],
            "requests": reading[Field.REQUESTS],
            "errors": reading[Field.ERRORS],
            "bytes_in": reading[Field.BYTES_IN],
            "bytes_out": reading[Field.BYTES_OUT],
            "log_dropped": reading[Field.LOG_DROPPED],
            "rss_bytes": rss_bytes(worker.pid),
            "age_s": round(now - worker.started, 3),
        })  # fmt: skip
    return rows


def listeners(opened: Iterable[Listener]) -> list[dict[str, Any]]:
    """Return a row per listening socket; `queued` is the depth of its accept queue, null where that is not told."""
    return [{"address": one.address, "backlog": one.backlog, "queued": one.queued()} for one in opened]


def certificates(terms: Terms | None) -> list[dict[str, Any]]:
    """Return a row per certificate that is served; `expires` in seconds since the epoch."""
    served = terms.certificates if terms is not None else ()
    return [{"file": one.file, "names": list(one.names), "expires": one.expires} for one in served]


def _word(worker: Worker, reading: Reading) -> str:
    if worker.state.value == "serving" and reading.phase is Phase.FULL:
        return "full"
    return worker.state.value
