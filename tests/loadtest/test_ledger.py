from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from prefork_loadtest.failure import Failure
from prefork_loadtest.histogram import Histogram
from prefork_loadtest.ledger import KILL, PHASES, STEADY, Ledger, Sample
from prefork_loadtest.sheet import Sheet

if TYPE_CHECKING:
    import pytest

SAMPLES = st.builds(
    Sample,
    name=st.sampled_from(["echo", "echo open", "hostile slowloris"]),
    began_in=st.sampled_from(PHASES),
    ended_in=st.sampled_from(PHASES),
    ended_at=st.floats(1000, 1005),
    service_us=st.floats(1, 1e6),
    intended_us=st.none() | st.floats(1, 1e6),
    reopened=st.booleans(),
    failure=st.none() | st.sampled_from(Failure),
    sent=st.integers(0, 3),
    sent_bytes=st.integers(0, 200),
)


def book(ledger: Ledger, sample: Sample) -> None:
    ledger.begin()
    ledger.add(sample)


@given(st.lists(st.lists(SAMPLES, max_size=20), max_size=4))
def test_what_workers_take_and_a_master_merges_equals_one_ledger(reports: list[list[Sample]]) -> None:
    one, master, worker = Ledger(), Ledger(), Ledger()
    for report in reports:
        for sample in report:
            book(one, sample)
            book(worker, sample)
        master.merge(json.loads(json.dumps(worker.take())))
    merged, direct = master.encode(), one.encode()
    assert {phase: rows for phase, rows in merged["phases"].items() if rows} == direct["phases"]
    assert merged["seconds"] == direct["seconds"]
    for name in ("sent", "sent_bytes", "proven", "proven_bytes", "connections"):
        assert getattr(master, name) == getattr(one, name)
    assert (master.begun, master.finished) == (one.begun, one.finished) == (sum(map(len, reports)),) * 2


def test_a_fault_owns_what_was_in_flight_when_it_struck() -> None:
    def booked(began: str, ended: str) -> str:
        return Sample("echo", began, ended, 0.0, 1.0).phase

    assert booked(STEADY, STEADY) == STEADY
    assert booked(STEADY, KILL) == KILL
    assert booked(KILL, STEADY) == KILL


def test_failures_are_counted_by_class_and_leave_the_times_alone() -> None:
    ledger = Ledger()
    book(ledger, Sample("echo", STEADY, STEADY, 0.0, 100.0))
    book(ledger, Sample("echo", STEADY, STEADY, 0.0, 5e6, failure=Failure.TIMEOUT))
    total = ledger.total()
    assert (total.requests, total.failed, dict(total.failures)) == (2, 1, {"timeout": 1})
    assert (total.service.count, total.service.max_us) == (1, 100)


def test_attacks_have_no_part_in_the_figures_of_requests() -> None:
    ledger = Ledger()
    book(ledger, Sample("echo", STEADY, STEADY, 0.0, 100.0, sent=1, sent_bytes=65))
    book(ledger, Sample("hostile slowloris", STEADY, STEADY, 0.0, 9e6, sent_bytes=5))
    book(ledger, Sample("hostile slowloris", STEADY, STEADY, 0.0, 9e6, failure=Failure.TIMEOUT))
    assert (ledger.total().requests, ledger.total(STEADY).service.max_us) == (1, 100)
    assert (ledger.attacks().requests, ledger.attacks().failed) == (2, 1)
    assert ledger.seconds[0].requests == 1
    assert (ledger.finished, ledger.sent_bytes, ledger.proven_bytes) == (3, 70, 65)


def test_how_soon_a_server_says_that_it_is_full_is_a_time_of_its_own() -> None:
    ledger = Ledger()
    book(ledger, Sample("echo", STEADY, STEADY, 0.0, 300.0, failure=Failure.BUSY))
    total = ledger.total()
    assert (total.busy.max_us, total.service.count, total.failed) == (300, 0, 1)


def test_only_the_first_request_of_a_row_and_of_a_second_makes_histograms(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Histogram] = []
    begin = Histogram.__init__

    def count(histogram: Histogram, figures: int = 3) -> None:
        made.append(histogram)
        begin(histogram, figures)

    monkeypatch.setattr(Histogram, "__init__", count)
    ledger = Ledger()
    book(ledger, Sample("echo", STEADY, STEADY, 0.0, 1.0))
    before = len(made)
    for _ in range(100):
        book(ledger, Sample("echo", STEADY, STEADY, 0.5, 1.0))
    assert len(made) == before


def test_a_request_that_never_ended_is_missing() -> None:
    ledger = Ledger()
    ledger.begin()
    assert ledger.begun != ledger.finished


def sheet(times: list[tuple[int, int]], phase: str = STEADY, name: str = "echo") -> Sheet:
    found = Sheet(name, phase, 1000, 1.0, is_told=True)
    for service, intended in times:
        found.service[service] += 1
        found.intended[intended] += 1
        found.sent, found.sent_bytes = found.sent + 1, found.sent_bytes + 65
    return found


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=50), st.integers(0, 49))
def test_answers_that_are_counted_on_sheets_are_booked_as_if_one_by_one(times: list[tuple[int, int]], at: int) -> None:
    sheets, one = Ledger(), Ledger()
    for part in (times[:at], times[at:]):
        sheets.open(sheet(part))
        sheets.begun, sheets.finished = sheets.begun + len(part), sheets.finished + len(part)
        sheets.total()  # who reads in between leaves the sheet open, and what is counted later is not lost
        for service, intended in part:
            book(one, Sample("echo", STEADY, STEADY, 1000.5, service, intended, sent=1, sent_bytes=65))
    assert sheets.encode() == one.encode()


def test_what_was_counted_before_a_phase_ended_stays_in_it() -> None:
    ledger = Ledger()
    ledger.open(sheet([(5, 5)]))
    ledger.close()
    assert ledger.sheets == {}
    ledger.open(sheet([(7, 7)], KILL))
    assert (ledger.total(STEADY).service.max_us, ledger.total(KILL).service.max_us) == (5, 7)


def test_an_attack_on_a_sheet_is_no_request_either() -> None:
    ledger = Ledger()
    ledger.open(sheet([(5, 5)], name="hostile idle"))
    assert (ledger.total().requests, ledger.attacks().requests) == (0, 1)
    assert (ledger.sent, ledger.proven, ledger.seconds) == (1, 0, {})


def test_what_a_fault_breaks_is_not_among_the_undisturbed() -> None:
    ledger = Ledger()
    assert ledger.undisturbed().requests == 0
    book(ledger, Sample("echo", KILL, KILL, 1000.0, 1.0, failure=Failure.UNEXPECTED_CLOSE))
    assert ledger.undisturbed().requests == 0  # there is no other phase yet
    book(ledger, Sample("echo", STEADY, STEADY, 1000.0, 1.0, failure=Failure.UNEXPECTED_CLOSE))
    assert ledger.undisturbed().failures == {Failure.UNEXPECTED_CLOSE: 1}
