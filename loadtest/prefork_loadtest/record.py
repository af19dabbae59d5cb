"""The record of a run: all that was seen, as plain data that a file can hold and a verdict can be drawn from again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from prefork_loadtest import figures, ledger
from prefork_loadtest import gates as gating
from prefork_loadtest.balance import Share
from prefork_loadtest.failure import Failure
from prefork_loadtest.faults import Mark
from prefork_loadtest.ledger import Ledger, LedgerData
from prefork_loadtest.verdict import Evidence, Verdict, judge

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 2


@dataclass
class Span:
    """A stretch of the run in one phase; a phase may have several. Seconds into the run."""

    phase: str
    start_s: float
    end_s: float


@dataclass
class Record:
    """One run.

    Attributes:
        scenario: its name.
        target: the server's address as it was given.
        started_at: seconds since the epoch.
        settings: users, rate, duration and so on, by name, as printed.
        machine: processor, memory, versions, by name, as printed.
        gates: the gates it has to pass.
        reached: a connection was made.
        finished: it went through its last stage.
        interrupted: somebody stopped it.
        least_requests: fewer right answers prove nothing.
        unavailable: why it could not be run here at all; "" if it could.
        troubles: why it is invalid, one line each.
        spans: its phases.
        marks: what happened when, for the timeline.
        faults: figures that only the faults know, by phase.
        killed: workers of the server that were killed, by pid.
        shares: the server's workers; empty when nobody could be asked.
        load: the load processes' processor share and lag, by name, as printed.
        ledger: every sample.
    """

    scenario: str
    target: str
    started_at: float
    settings: dict[str, str]
    machine: dict[str, str]
    gates: list[str]
    reached: bool = False
    finished: bool = False
    interrupted: bool = False
    least_requests: int = 1
    unavailable: str = ""
    troubles: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    faults: dict[str, dict[str, float]] = field(default_factory=dict)
    killed: list[int] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    load: dict[str, str] = field(default_factory=dict)
    ledger: LedgerData = field(default_factory=lambda: Ledger().encode())

    @property
    def durations(self) -> dict[str, float]:
        """Seconds of each phase that took place."""
        return figures.durations(self.spans)

    def books(self) -> Ledger:
        """The ledger, to be computed with."""
        books = Ledger()
        books.merge(self.ledger)
        return books

    def figures(self) -> dict[str, dict[str, float]]:
        """`{phase: {figure: value}}`, which the gates are held against."""
        return figures.of_run(self.books(), self.spans, self.started_at, self.faults)

    def verdict(self, required: tuple[gating.Gate, ...] | None = None) -> Verdict:
        """The verdict by the run's own gates, or by others.

        Raises:
            gating.GateError: the run's own gates cannot be read.
        """
        if required is None:
            required = tuple(gating.parse(gate, ledger.PHASES) for gate in self.gates)
        books = self.books()
        total, attacks = books.total(), books.attacks()
        evidence = Evidence(
            unavailable=self.unavailable,
            reached=self.reached,
            finished=self.finished,
            interrupted=self.interrupted,
            requests=total.requests + attacks.requests,
            answered=total.requests - total.failed,
            least_requests=self.least_requests,
            begun=self.ledger["begun"],
            failures=dict(total.failures + attacks.failures),
            closed=books.undisturbed().failures[Failure.UNEXPECTED_CLOSE],
            errors=sum(share.errors for share in self.shares),
            troubles=tuple(self.troubles),
            figures=self.figures(),
        )
        return judge(evidence, required)

    def encode(self) -> dict[str, Any]:
        """This record as plain data."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def decode(cls, data: dict[str, Any]) -> Record:
        """The record that `encode` described.

        Raises:
            ValueError: the data is of another format, or no record.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"not a record of format {FORMAT}")
        fields = {name: value for name, value in data.items() if name != "format"}
        try:
            record = cls(**fields)
            record.spans = [Span(**span) for span in fields["spans"]]
            record.marks = [Mark(**mark) for mark in fields["marks"]]
            record.shares = [Share(**share) for share in fields["shares"]]
            record.books()
        except (TypeError, KeyError) as error:
            raise ValueError("not a whole record") from error
        return record


def load(path: Path) -> Record:
    """The record in a report's `report.json`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no record.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or not isinstance(data.get("record"), dict):
        raise ValueError("no record in it")  # noqa: TRY004 - bad data of a file, not a bad call
    return Record.decode(data["record"])
