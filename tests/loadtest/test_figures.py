from __future__ import annotations

from prefork_loadtest.failure import Failure
from prefork_loadtest.figures import of_run
from prefork_loadtest.ledger import RECOVERY, SPIKE, STEADY, Ledger, Sample
from prefork_loadtest.record import Span

START = 1000.0
SPANS = [Span(STEADY, 0.0, 4.0), Span(SPIKE, 4.0, 6.0), Span(RECOVERY, 6.0, 12.0)]


def recovery(*slow_until: float) -> float | None:
    """`recovery_s` of a run whose requests wait for half a second from the spike on until then."""
    ledger = Ledger()
    for tick in range(120):
        at = tick / 10
        phase = next(span.phase for span in SPANS if at < span.end_s)
        waited = 500_000.0 if slow_until and 4.0 <= at < slow_until[0] else 1000.0
        ledger.begin()
        ledger.add(Sample("echo open", phase, phase, START + at, 900.0, waited))
    return of_run(ledger, SPANS, START, {})[SPIKE].get("recovery_s")


def test_a_spike_that_was_no_trouble_is_forgotten_in_the_first_second() -> None:
    assert recovery() == 1.0
    assert recovery(6.0) == 1.0


def test_a_backlog_counts_until_it_is_worked_off() -> None:
    assert recovery(8.5) == 4.0


def test_a_run_that_does_not_recover_has_no_such_figure() -> None:
    assert recovery(12.0) is None


def test_goodput_counts_right_answers_alone() -> None:
    ledger = Ledger()
    for number in range(40):
        ledger.begin()
        failure = Failure.BUSY if number % 4 == 0 else None
        ledger.add(Sample("echo", STEADY, STEADY, START, 100.0, failure=failure))
    figures = of_run(ledger, [Span(STEADY, 0.0, 2.0)], START, {})[STEADY]
    assert (figures["rate"], figures["goodput"], figures["busy"]) == (20.0, 15.0, 10.0)
