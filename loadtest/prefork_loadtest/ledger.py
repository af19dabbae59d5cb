"""The books of a run: every request by phase, by name and by second, in a form that merges without loss.

Pure: samples in, totals out. A load worker sends `take()` every few seconds and its master `merge`s it; `begun` and
`finished` travel with it, so that a sample lost on the way is noticed instead of missed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from prefork_loadtest.faultplan import Kind
from prefork_loadtest.histogram import Encoded, Histogram

if TYPE_CHECKING:
    from prefork_loadtest.failure import Failure

RAMP, STEADY, DRAIN = "ramp", "steady", "drain"
KILL = Kind.KILL.phase
FAULT_PHASES = frozenset(kind.phase for kind in Kind)
PHASES = (RAMP, STEADY, *(kind.phase for kind in Kind), DRAIN)


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished request.

    Attributes:
        name: the row it belongs to; there are few.
        began_in: the phase at its start.
        ended_in: the phase at its end.
        ended_at: seconds since the epoch, for the picture only.
        service_us: microseconds from the write to the last byte of the reply.
        intended_us: microseconds from the start the schedule intended; None without a schedule.
        reopened: its kept connection had been closed while idle; nothing was lost, but it was not kept either.
        failure: None for a right answer.
    """

    name: str
    began_in: str
    ended_in: str
    ended_at: float
    service_us: float
    intended_us: float | None = None
    reopened: bool = False
    failure: Failure | None = None

    @property
    def phase(self) -> str:
        """The phase it is booked to: a fault owns what was in flight when it struck, however late that fails."""
        return self.began_in if self.began_in in FAULT_PHASES else self.ended_in


class RowData(TypedDict):
    """A row as plain data."""

    requests: int
    reopened: int
    failures: dict[str, int]
    service: Encoded
    intended: Encoded


class SecondData(TypedDict):
    """A second as plain data."""

    requests: int
    failures: dict[str, int]
    service: Encoded


class LedgerData(TypedDict):
    """A ledger as plain data: what Locust's messages and the report carry."""

    connections: int
    begun: int
    finished: int
    phases: dict[str, dict[str, RowData]]
    seconds: dict[str, SecondData]


@dataclass
class Row:
    """The requests of one name in one phase. The histograms hold right answers only; failures are counted by class."""

    requests: int = 0
    reopened: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    service: Histogram = field(default_factory=Histogram)
    intended: Histogram = field(default_factory=Histogram)

    @property
    def failed(self) -> int:
        """Requests without a right answer."""
        return self.failures.total()

    def add(self, sample: Sample) -> None:
        """Book one sample."""
        self.requests += 1
        self.reopened += sample.reopened
        if sample.failure is not None:
            self.failures[sample.failure.value] += 1
            return
        self.service.record(sample.service_us)
        if sample.intended_us is not None:
            self.intended.record(sample.intended_us)

    def merge(self, other: Row) -> None:
        """Add another row to this one."""
        self.requests += other.requests
        self.reopened += other.reopened
        self.failures.update(other.failures)
        self.service.merge(other.service)
        self.intended.merge(other.intended)

    def encode(self) -> RowData:
        """This row as plain data."""
        return RowData(
            requests=self.requests,
            reopened=self.reopened,
            failures=dict(self.failures),
            service=self.service.encode(),
            intended=self.intended.encode(),
        )

    @classmethod
    def decode(cls, data: RowData) -> Row:
        """The row that `encode` described."""
        return cls(
            data["requests"],
            data["reopened"],
            Counter(data["failures"]),
            Histogram.decode(data["service"]),
            Histogram.decode(data["intended"]),
        )


@dataclass
class Second:
    """One second of the run over all names, for the picture of throughput and latency."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    service: Histogram = field(default_factory=lambda: Histogram(figures=2))

    def add(self, sample: Sample) -> None:
        """Book one sample."""
        self.requests += 1
        if sample.failure is None:
            self.service.record(sample.service_us)
        else:
            self.failures[sample.failure.value] += 1

    def merge(self, other: Second) -> None:
        """Add another second to this one."""
        self.requests += other.requests
        self.failures.update(other.failures)
        self.service.merge(other.service)

    def encode(self) -> SecondData:
        """This second as plain data."""
        return SecondData(requests=self.requests, failures=dict(self.failures), service=self.service.encode())

    @classmethod
    def decode(cls, data: SecondData) -> Second:
        """The second that `encode` described."""
        return cls(data["requests"], Counter(data["failures"]), Histogram.decode(data["service"]))


class Ledger:
    """All samples of one process, or of all of them once merged.

    Attributes:
        connections: connections that were made.
        begun: requests that were started. More than `finished` at the end means that samples were lost.
        finished: requests that were booked.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.begun = 0
        self.finished = 0
        self.phases: dict[str, dict[str, Row]] = {}
        self.seconds: dict[int, Second] = {}

    def connect(self) -> None:
        """A connection was made."""
        self.connections += 1

    def begin(self) -> None:
        """A request starts."""
        self.begun += 1

    def add(self, sample: Sample) -> None:
        """A request ended, one way or another."""
        self.finished += 1
        self._row(sample.phase, sample.name).add(sample)
        self._second(int(sample.ended_at)).add(sample)

    def _row(self, phase: str, name: str) -> Row:
        return self.phases.setdefault(phase, {}).setdefault(name, Row())

    def _second(self, second: int) -> Second:
        return self.seconds.setdefault(second, Second())

    def encode(self) -> LedgerData:
        """The whole ledger as plain data, keys sorted."""
        return LedgerData(
            connections=self.connections,
            begun=self.begun,
            finished=self.finished,
            phases={
                phase: {name: row.encode() for name, row in sorted(rows.items())} for phase, rows in self.phases.items()
            },
            seconds={str(second): books.encode() for second, books in sorted(self.seconds.items())},
        )

    def take(self) -> LedgerData:
        """What was booked since the last `take`, and an empty ledger from here on."""
        data = self.encode()
        self.__init__()  # type: ignore[misc]
        return data

    def merge(self, data: LedgerData) -> None:
        """Add what another process took."""
        self.connections += data["connections"]
        self.begun += data["begun"]
        self.finished += data["finished"]
        for phase, rows in data["phases"].items():
            for name, row in rows.items():
                self._row(phase, name).merge(Row.decode(row))
        for second, books in data["seconds"].items():
            self._second(int(second)).merge(Second.decode(books))

    def by_name(self, *phases: str) -> dict[str, Row]:
        """Rows by name over the given phases, or over all of them."""
        names: dict[str, Row] = {}
        for phase, rows in self.phases.items():
            if not phases or phase in phases:
                for name, row in rows.items():
                    names.setdefault(name, Row()).merge(row)
        return names

    def total(self, *phases: str) -> Row:
        """One row over all names of the given phases, or of all of them."""
        total = Row()
        for row in self.by_name(*phases).values():
            total.merge(row)
        return total
