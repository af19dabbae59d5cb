"""The figures of a run that gates, verdicts and reports use: computed from the ledger in one place."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from prefork_loadtest.failure import WRONG, Failure
from prefork_loadtest.gates import PERCENTILES, RUN
from prefork_loadtest.ledger import HOSTILE, SPIKE, STEADY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prefork_loadtest.histogram import Histogram
    from prefork_loadtest.ledger import Ledger, Row, Second
    from prefork_loadtest.record import Span

US_PER_MS = 1000.0
RECOVERED_TIMES, RECOVERED_US = 2.0, 10_000.0
"""Recovered is a second whose p99 is at most so many times that of the usual second before the spike, and so much."""


def of_row(row: Row, seconds: float) -> dict[str, float]:
    """Counts, rates and percentiles of one row that lasted `seconds`. Times exist only where something was recorded."""
    figures: dict[str, float] = {
        "requests": row.requests,
        "failed": row.failed,
        "wrong": sum(row.failures[failure.value] for failure in WRONG),
        "busy": row.failures[Failure.BUSY.value],
        "reopened": row.reopened,
        "failed_ratio": row.failed / row.requests if row.requests else 0.0,
    }
    if seconds > 0:
        figures["rate"] = row.requests / seconds
        figures["goodput"] = (row.requests - row.failed) / seconds
    for kind, histogram in (("", row.service), ("_intended", row.intended), ("_busy", row.busy)):
        figures |= _times(histogram, kind)
    return figures


def _times(histogram: Histogram, kind: str) -> dict[str, float]:
    if not histogram.count:
        return {}
    times = {name: histogram.percentile(percent) for name, percent in PERCENTILES.items()}
    return {f"{name}{kind}_us": float(value) for name, value in times.items()} | {
        f"{name}{kind}_ms": value / US_PER_MS for name, value in times.items()
    }


def of_run(
    ledger: Ledger, spans: Iterable[Span], started_at: float, faults: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """`{phase: {figure: value}}` of every phase that took place, and of `run`, which is all of them.

    Args:
        ledger: all samples.
        spans: the phases that took place; one without a request still has its zeros.
        started_at: when the run began, in seconds since the epoch.
        faults: figures that only the injection of a fault knows, by phase.
    """
    spans = list(spans)
    seconds = durations(spans)
    figures = {phase: of_row(ledger.total(phase), lasted) for phase, lasted in seconds.items()}
    figures[RUN] = of_row(ledger.total(), sum(seconds.values()))
    attacks = ledger.attacks()
    if attacks.requests:
        figures[HOSTILE] = of_row(attacks, sum(seconds.values()))
    recovered = _recovery_s(ledger.seconds, spans, started_at)
    if recovered is not None:
        figures[SPIKE]["recovery_s"] = recovered
    for phase, extra in faults.items():
        figures.setdefault(phase, {}).update(extra)
    return figures


def durations(spans: Iterable[Span]) -> dict[str, float]:
    """Seconds of each phase that took place."""
    lasted: dict[str, float] = {}
    for span in spans:
        lasted[span.phase] = lasted.get(span.phase, 0.0) + span.end_s - span.start_s
    return lasted


def _recovery_s(seconds: Mapping[int, Second], spans: list[Span], started_at: float) -> float | None:
    """Seconds from the end of the spike to the end of the first second that is as fast as those before it.

    None without a spike, without a second before it, or if the run ended first. Times are from the intended start: a
    backlog that is still being worked off shows in them.
    """
    spike = next((span for span in spans if span.phase == SPIKE), None)
    if spike is None:
        return None
    before = [
        seconds[second].intended.percentile(99)
        for span in spans
        if span.phase == STEADY and span.end_s <= spike.start_s
        for second in range(int(started_at + span.start_s) + 1, int(started_at + span.end_s))
        if second in seconds and seconds[second].intended.count
    ]
    if not before:
        return None
    limit = RECOVERED_TIMES * median(before) + RECOVERED_US
    end = started_at + spike.end_s
    for second in sorted(second for second in seconds if second >= end):
        times = seconds[second].intended
        if times.count and times.percentile(99) <= limit:
            return second + 1 - end
    return None
