from __future__ import annotations

import pytest

from prefork_loadtest.control import Status, Totals
from prefork_loadtest.failure import Failure
from prefork_loadtest.ledger import STEADY, Ledger, Sample
from prefork_loadtest.tally import Tally, Unit


def books(*failures: Failure | None) -> Ledger:
    ledger = Ledger()
    for failure in failures:
        ledger.begin()
        ledger.add(Sample("echo", STEADY, STEADY, 0.0, 1.0, failure=failure, sent=1, sent_bytes=65))
    return ledger


def tally(unit: Unit, requests: int, *, pid: int = 1) -> Tally:
    counted = Tally(unit)
    for number, who in ((1000, 1), (1000 + requests, pid)):
        counted.see(Status("running", "0", who, 1, (), (), Totals(number, 65 * number, 0)))
    return counted


@pytest.mark.parametrize("unit", [Unit.FRAMES, Unit.BYTES])
def test_without_a_failure_the_server_must_have_counted_exactly_what_was_sent(unit: Unit) -> None:
    assert tally(unit, 3).trouble(books(None, None, None)) is None
    for other in (2, 4):
        assert "the counts differ" in str(tally(unit, other).trouble(books(None, None, None)))


def test_what_failed_may_have_been_counted_or_not() -> None:
    lost = books(None, None, Failure.TIMEOUT)
    assert [tally(Unit.FRAMES, number).agrees(lost) for number in (1, 2, 3, 4)] == [False, True, True, False]


def test_a_new_master_cannot_be_compared_and_says_so() -> None:
    counted = tally(Unit.FRAMES, 3, pid=2)
    assert counted.served is None
    assert counted.trouble(books(None)) is None
    assert "not comparable" in counted.describe(books(None))
