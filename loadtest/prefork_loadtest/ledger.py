"""The books of a run: every request by phase, by name and by second, in a form that merges without loss.

Pure: samples in, totals out. A load worker sends `take()` every few seconds and its master `merge`s it; `begun` and
`finished` travel with it, so that a sample lost on the way is noticed instead of missed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from prefork_loadtest.failure import Failure
from prefork_loadtest.faultplan import Kind
from prefork_loadtest.histogram import Encoded, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prefork_loadtest.example import ExampleData, WrongAnswer
    from prefork_loadtest.sheet import Sheet

RAMP, STEADY, DRAIN = "ramp", "steady", "drain"
CLIMB, SPIKE, RECOVERY, OVERLOAD = "climb", "spike", "recovery", "overload"
STAGES = (CLIMB, STEADY, SPIKE, RECOVERY, OVERLOAD)
"""The phases in which a scenario asks for another load."""
HOSTILE = "hostile"
"""Rows of this name and a word are no requests but attacks: they have a phase of their own, and no part in others."""
KILL = Kind.KILL.phase
ROLLING = "rolling"
"""A replica behind a balancer is stopped and started again."""
FAULT_PHASES = frozenset({*(kind.phase for kind in Kind), ROLLING})
PHASES = (RAMP, *STAGES, *(kind.phase for kind in Kind), ROLLING, DRAIN, HOSTILE)


@dataclass(slots=True)  # frozen would cost as much as the rest of its making
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
        sent: frames that were sent for it.
        sent_bytes: bytes of them on the wire.
    """

    name: str
    began_in: str
    ended_in: str
    ended_at: float
    service_us: float
    intended_us: float | None = None
    reopened: bool = False
    failure: Failure | None = None
    sent: int = 0
    sent_bytes: int = 0

    @property
    def is_hostile(self) -> bool:
        """Whether it was an attack."""
        return is_hostile(self.name)

    @property
    def phase(self) -> str:
        """The phase it is booked to: a fault owns what was in flight when it struck, however late that fails."""
        return self.began_in if self.began_in in FAULT_PHASES else self.ended_in


def is_hostile(name: str) -> bool:
    """Whether a row of this name is one of attacks."""
    return name.partition(" ")[0] == HOSTILE


class RowData(TypedDict):
    """A row as plain data."""

    requests: int
    reopened: int
    failures: dict[str, int]
    service: Encoded
    intended: Encoded
    busy: Encoded


class SecondData(TypedDict):
    """A second as plain data."""

    requests: int
    failures: dict[str, int]
    service: Encoded
    intended: Encoded


class LedgerData(TypedDict):
    """A ledger as plain data: what Locust's messages and the report carry."""

    connections: int
    begun: int
    finished: int
    sent: int
    sent_bytes: int
    proven: int
    proven_bytes: int
    phases: dict[str, dict[str, RowData]]
    seconds: dict[str, SecondData]
    example: ExampleData | None


@dataclass
class Row:
    """The requests of one name in one phase. Failures are counted by class.

    The histograms hold right answers only, but for `busy`: how long it took a server to say that it is full.
    """

    requests: int = 0
    reopened: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    service: Histogram = field(default_factory=Histogram)
    intended: Histogram = field(default_factory=Histogram)
    busy: Histogram = field(default_factory=Histogram)

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
            if sample.failure is Failure.BUSY:
                self.busy.record(sample.service_us)
            return
        self.service.record(sample.service_us)
        if sample.intended_us is not None:
            self.intended.record(sample.intended_us)

    def post(self, sheet: Sheet, requests: int) -> None:
        """Book the answers of a sheet."""
        self.requests += requests
        self.reopened += sheet.reopened
        self.service.record_all(sheet.service)
        self.intended.record_all(sheet.intended)

    def merge(self, other: Row) -> None:
        """Add another row to this one."""
        self.requests += other.requests
        self.reopened += other.reopened
        self.failures.update(other.failures)
        self.service.merge(other.service)
        self.intended.merge(other.intended)
        self.busy.merge(other.busy)

    def encode(self) -> RowData:
        """This row as plain data."""
        return RowData(
            requests=self.requests,
            reopened=self.reopened,
            failures=dict(self.failures),
            service=self.service.encode(),
            intended=self.intended.encode(),
            busy=self.busy.encode(),
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
            Histogram.decode(data["busy"]),
        )


@dataclass
class Second:
    """One second of the run over all names, for the picture of throughput and latency."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    service: Histogram = field(default_factory=lambda: Histogram(figures=2))
    intended: Histogram = field(default_factory=lambda: Histogram(figures=2))

    def add(self, sample: Sample) -> None:
        """Book one sample."""
        self.requests += 1
        if sample.failure is not None:
            self.failures[sample.failure.value] += 1
            return
        self.service.record(sample.service_us)
        if sample.intended_us is not None:
            self.intended.record(sample.intended_us)

    def post(self, sheet: Sheet, requests: int) -> None:
        """Book the answers of a sheet."""
        self.requests += requests
        self.service.record_all(sheet.service)
        self.intended.record_all(sheet.intended)

    def merge(self, other: Second) -> None:
        """Add another second to this one."""
        self.requests += other.requests
        self.failures.update(other.failures)
        self.service.merge(other.service)
        self.intended.merge(other.intended)

    def encode(self) -> SecondData:
        """This second as plain data."""
        return SecondData(
            requests=self.requests,
            failures=dict(self.failures),
            service=self.service.encode(),
            intended=self.intended.encode(),
        )

    @classmethod
    def decode(cls, data: SecondData) -> Second:
        """The second that `encode` described."""
        times = (Histogram.decode(data["service"]), Histogram.decode(data["intended"]))
        return cls(data["requests"], Counter(data["failures"]), *times)


class Ledger:
    """All samples of one process, or of all of them once merged.

    Right answers are counted on sheets and posted when the books are read: whoever asks a method is told all of them.

    Args:
        told: is given each sheet before it is posted.

    Attributes:
        sheets: the open ones of this phase, by row.
        connections: connections that were made.
        begun: requests that were started. More than `finished` at the end means that samples were lost.
        finished: requests that were booked.
        sent: frames that were sent, and `sent_bytes` their bytes; a server cannot have counted more.
        proven: frames that were sent for right answers, and `proven_bytes`; a server cannot have counted fewer.
        example: the first wrong answer that is known; the others are only counted.
    """

    def __init__(self, told: Callable[[Sheet], None] = lambda _: None) -> None:
        self._told = told
        self._clear()

    def _clear(self) -> None:
        self.sheets: dict[str, Sheet] = {}
        self.connections = self.begun = self.finished = 0
        self.sent = self.sent_bytes = self.proven = self.proven_bytes = 0
        self.phases: dict[str, dict[str, Row]] = {}
        self.seconds: dict[int, Second] = {}
        self.example: ExampleData | None = None

    def connect(self) -> None:
        """A connection was made."""
        self.connections += 1

    def begin(self) -> None:
        """A request starts."""
        self.begun += 1

    def add(self, sample: Sample) -> None:
        """A request ended, one way or another."""
        self.finished += 1
        self.sent += sample.sent
        self.sent_bytes += sample.sent_bytes
        if sample.failure is None and not sample.is_hostile:
            self.proven += sample.sent
            self.proven_bytes += sample.sent_bytes
        self._row(sample.phase, sample.name).add(sample)
        if not sample.is_hostile:
            self._second(int(sample.ended_at)).add(sample)

    def exemplify(self, answer: WrongAnswer) -> None:
        """Keep a wrong answer to show, if there is none yet."""
        if self.example is None:
            self.example = answer.shown()

    def open(self, sheet: Sheet) -> None:
        """Count right answers of this row on this sheet from now on."""
        old = self.sheets.get(sheet.name)
        if old is not None:
            self._post(old)
        self.sheets[sheet.name] = sheet

    def post(self) -> None:
        """Book what the sheets hold; those that are open stay so."""
        for sheet in self.sheets.values():
            self._post(sheet)

    def close(self) -> None:
        """Book what the sheets hold, and close them: another phase begins."""
        self.post()
        self.sheets = {}

    def _post(self, sheet: Sheet) -> None:
        requests = sum(sheet.service.values())
        if not requests:
            return
        self._told(sheet)
        self.sent += sheet.sent
        self.sent_bytes += sheet.sent_bytes
        self._row(sheet.phase, sheet.name).post(sheet, requests)
        if not is_hostile(sheet.name):
            self.proven += sheet.sent
            self.proven_bytes += sheet.sent_bytes
            self._second(sheet.second).post(sheet, requests)
        sheet.clear()

    def _row(self, phase: str, name: str) -> Row:
        # Not by setdefault: it would make a row, and its histograms, for every request.
        rows = self.phases.get(phase)
        if rows is None:
            rows = self.phases[phase] = {}
        row = rows.get(name)
        if row is None:
            row = rows[name] = Row()
        return row

    def _second(self, second: int) -> Second:
        books = self.seconds.get(second)
        if books is None:
            books = self.seconds[second] = Second()
        return books

    def encode(self) -> LedgerData:
        """The whole ledger as plain data, keys sorted."""
        self.post()
        return LedgerData(
            connections=self.connections,
            begun=self.begun,
            finished=self.finished,
            sent=self.sent,
            sent_bytes=self.sent_bytes,
            proven=self.proven,
            proven_bytes=self.proven_bytes,
            phases={
                phase: {name: row.encode() for name, row in sorted(rows.items())} for phase, rows in self.phases.items()
            },
            seconds={str(second): books.encode() for second, books in sorted(self.seconds.items())},
            example=self.example,
        )

    def take(self) -> LedgerData:
        """What was booked since the last `take`, and an empty ledger from here on."""
        data = self.encode()
        self._clear()
        return data

    def merge(self, data: LedgerData) -> None:
        """Add what another process took."""
        self.connections += data["connections"]
        self.begun += data["begun"]
        self.finished += data["finished"]
        self.sent += data["sent"]
        self.sent_bytes += data["sent_bytes"]
        self.proven += data["proven"]
        self.proven_bytes += data["proven_bytes"]
        self.example = self.example or data.get("example")  # a report of an older kit has none
        for phase, rows in data["phases"].items():
            for name, row in rows.items():
                self._row(phase, name).merge(Row.decode(row))
        for second, books in data["seconds"].items():
            self._second(int(second)).merge(Second.decode(books))

    def by_name(self, *phases: str) -> dict[str, Row]:
        """Rows by name over the given phases, or over all of them."""
        self.post()
        names: dict[str, Row] = {}
        for phase, rows in self.phases.items():
            if not phases or phase in phases:
                for name, row in rows.items():
                    names.setdefault(name, Row()).merge(row)
        return names

    def total(self, *phases: str) -> Row:
        """One row over all names of the given phases, or of all of them; attacks are left out."""
        return _sum(row for name, row in self.by_name(*phases).items() if not is_hostile(name))

    def undisturbed(self) -> Row:
        """One row over what no fault has touched."""
        self.post()
        phases = [phase for phase in self.phases if phase not in FAULT_PHASES]
        return self.total(*phases) if phases else Row()

    def attacks(self) -> Row:
        """One row over all attacks."""
        return _sum(row for name, row in self.by_name().items() if is_hostile(name))


def _sum(rows: Iterable[Row]) -> Row:
    total = Row()
    for row in rows:
        total.merge(row)
    return total
