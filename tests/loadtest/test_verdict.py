from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_loadtest import gates
from prefork_loadtest.failure import Failure
from prefork_loadtest.ledger import PHASES
from prefork_loadtest.verdict import Code, Evidence, judge

GATE = (gates.parse("run.failed == 0", PHASES),)
GOOD = Evidence(
    reached=True,
    finished=True,
    requests=100,
    answered=100,
    least_requests=50,
    begun=100,
    figures={"run": {"failed": 0.0}},
)


def test_a_good_run_passes() -> None:
    verdict = judge(GOOD, GATE)
    assert (verdict.code, verdict.reasons) == (Code.PASSED, ())


def test_no_evidence_is_no_pass() -> None:
    assert judge(Evidence(), GATE).code is Code.NEVER_REACHED
    assert judge(Evidence(reached=True), GATE).code is Code.INVALID


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"reached": False}, Code.NEVER_REACHED, ""),
        ({"failures": {"wrong answer": 1}}, Code.WRONG_ANSWERS, "1 of 100 requests: wrong answer"),
        ({"failures": {"cross-talk": 2}}, Code.WRONG_ANSWERS, "2 of 100 requests: cross-talk"),
        ({"failures": {"cross-talk": 2}, "interrupted": True}, Code.WRONG_ANSWERS, "interrupted"),
        ({"interrupted": True}, Code.INTERRUPTED, "interrupted"),
        ({"interrupted": True, "finished": False, "answered": 0}, Code.INTERRUPTED, "interrupted"),
        ({"troubles": ("generator saturated: so",), "answered": 49}, Code.SATURATED, "generator saturated"),
        ({"troubles": ("generator saturated: so",), "answered": 0}, Code.UNANSWERED, "generator saturated"),
        ({"troubles": ("the counts differ",), "answered": 49}, Code.INVALID, "the counts differ"),
        ({"finished": False}, Code.INVALID, "did not get to its end"),
        ({"requests": 0, "answered": 0, "begun": 0}, Code.TOO_FEW, "no request was made"),
        ({"answered": 0}, Code.UNANSWERED, "no request got an answer"),
        ({"answered": 0, "failures": {"wrong answer": 100}}, Code.WRONG_ANSWERS, "no right answer"),
        ({"answered": 49}, Code.TOO_FEW, "too few requests"),
        ({"begun": 101}, Code.INVALID, "samples lost"),
        ({"troubles": ("a load worker was lost",), "finished": False}, Code.WORKER_LOST, "a load worker was lost"),
        ({"failures": {"broken user": 1}}, Code.USER_RAISED, "a load user raised"),
        ({"troubles": ("a load user raised: 2 times",), "answered": 0}, Code.USER_RAISED, "a load user raised"),
        ({"closed": 2, "answered": 0}, Code.BROKEN_OFF, "2 of 100 requests: the connection was closed"),
        ({"closed": 1, "errors": 3, "figures": {"run": {"failed": 1.0}}}, Code.BROKEN_OFF, "counts 3 errors"),
        ({"figures": {"run": {"failed": 1.0}}}, Code.GATE_FAILED, "run.failed == 0"),
        ({"figures": {}}, Code.GATE_FAILED, "the run has no run.failed"),
    ],
)
def test_each_flaw_has_its_code_and_its_reason(change: dict[str, object], code: Code, reason: str) -> None:
    verdict = judge(replace(GOOD, **change), GATE)  # type: ignore[arg-type]
    assert verdict.code is code
    assert any(reason in line for line in verdict.reasons) or not reason


def test_a_close_that_the_gates_allow_is_not_why_another_gate_failed() -> None:
    slow = (*GATE, gates.parse("run.p99_ms < 5", PHASES))
    evidence = replace(GOOD, closed=1, figures={"run": {"failed": 0.0, "p99_ms": 6.0}})
    assert judge(evidence, slow).code is Code.GATE_FAILED


def test_without_a_gate_nothing_passes() -> None:
    assert judge(GOOD, ()).code is Code.INVALID


@given(
    st.builds(
        Evidence,
        reached=st.booleans(),
        finished=st.booleans(),
        interrupted=st.booleans(),
        requests=st.integers(0, 3),
        answered=st.integers(0, 3),
        least_requests=st.integers(1, 2),
        begun=st.integers(0, 3),
        failures=st.dictionaries(st.sampled_from([failure.value for failure in Failure]), st.integers(1, 2)),
        troubles=st.sampled_from([(), ("lost",)]),
        figures=st.sampled_from([{}, {"run": {"failed": 0.0}}, {"run": {"failed": 1.0}}]),
    )
)
def test_only_a_flawless_run_passes(evidence: Evidence) -> None:
    flawless = (
        evidence.reached
        and evidence.finished
        and not evidence.interrupted
        and evidence.answered >= evidence.least_requests
        and evidence.begun == evidence.requests
        and not evidence.troubles
        and not {"wrong answer", "cross-talk", "broken user"} & set(evidence.failures)
        and evidence.figures == {"run": {"failed": 0.0}}
    )
    assert (judge(evidence, GATE).code is Code.PASSED) == flawless


def test_exit_codes_are_those_of_the_documentation() -> None:
    assert {code.name: code.value for code in Code} == {
        "PASSED": 0,
        "GATE_FAILED": 1,
        "USAGE": 2,
        "WRONG_ANSWERS": 3,
        "INVALID": 4,
        "NEVER_REACHED": 5,
        "TOO_FEW": 6,
        "WORKER_LOST": 7,
        "INTERRUPTED": 8,
        "SATURATED": 9,
        "UNANSWERED": 10,
        "BROKEN_OFF": 11,
        "USER_RAISED": 12,
    }
