"""The figures of a run that gates, verdicts and reports use: computed from the ledger in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefork_loadtest.failure import WRONG
from prefork_loadtest.gates import PERCENTILES, RUN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefork_loadtest.histogram import Histogram
    from prefork_loadtest.ledger import Ledger, Row

US_PER_MS = 1000.0


def of_row(row: Row, seconds: float) -> dict[str, float]:
    """Counts, rate and percentiles of one row that lasted `seconds`. Times exist only where something was recorded."""
    figures: dict[str, float] = {
        "requests": row.requests,
        "failed": row.failed,
        "wrong": sum(row.failures[failure.value] for failure in WRONG),
        "reopened": row.reopened,
        "failed_ratio": row.failed / row.requests if row.requests else 0.0,
    }
    if seconds > 0:
        figures["rate"] = row.requests / seconds
    figures |= _times(row.service, "")
    figures |= _times(row.intended, "_intended")
    return figures


def _times(histogram: Histogram, kind: str) -> dict[str, float]:
    if not histogram.count:
        return {}
    times = {name: histogram.percentile(percent) for name, percent in PERCENTILES.items()}
    return {f"{name}{kind}_us": float(value) for name, value in times.items()} | {
        f"{name}{kind}_ms": value / US_PER_MS for name, value in times.items()
    }


def of_run(
    ledger: Ledger, durations: Mapping[str, float], faults: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """`{phase: {figure: value}}` of every phase that took place, and of `run`, which is all of them.

    Args:
        ledger: all samples.
        durations: seconds of each phase that took place; one without a request still has its zeros.
        faults: figures that only the injection of a fault knows, by phase.
    """
    figures = {phase: of_row(ledger.total(phase), seconds) for phase, seconds in durations.items()}
    figures[RUN] = of_row(ledger.total(), sum(durations.values()))
    for phase, extra in faults.items():
        figures.setdefault(phase, {}).update(extra)
    return figures
