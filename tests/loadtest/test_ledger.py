from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from prefork_loadtest.failure import Failure
from prefork_loadtest.ledger import KILL, PHASES, STEADY, Ledger, Sample

SAMPLES = st.builds(
    Sample,
    name=st.sampled_from(["echo", "echo open"]),
    began_in=st.sampled_from(PHASES),
    ended_in=st.sampled_from(PHASES),
    ended_at=st.floats(1000, 1005),
    service_us=st.floats(1, 1e6),
    intended_us=st.none() | st.floats(1, 1e6),
    reopened=st.booleans(),
    failure=st.none() | st.sampled_from(Failure),
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


def test_a_request_that_never_ended_is_missing() -> None:
    ledger = Ledger()
    ledger.begin()
    assert ledger.begun != ledger.finished
