"""The verdict: one exit code, fail-closed. It starts as "the run is invalid" and becomes "passed" only at the end.

Pure: evidence in, verdict out. The order of the tests is the order of what a reader must know first: a server that was
never there, answers that are wrong (a fact, whatever else broke), a run that proves nothing, then the gates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from prefork_loadtest import gates
from prefork_loadtest.failure import WRONG, Failure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Code(IntEnum):
    """The exit codes of a verdict."""

    PASSED = 0
    GATE_FAILED = 1
    USAGE = 2
    WRONG_ANSWERS = 3
    INVALID = 4
    NEVER_REACHED = 5
    TOO_FEW = 6
    WORKER_LOST = 7
    INTERRUPTED = 8
    SATURATED = 9
    UNANSWERED = 10
    BROKEN_OFF = 11
    USER_RAISED = 12


HEADLINES = {
    Code.PASSED: "passed: every gate held",
    Code.GATE_FAILED: "failed: a gate did not hold",
    Code.USAGE: "usage",
    Code.WRONG_ANSWERS: "wrong answers",
    Code.INVALID: "invalid: the run proves nothing",
    Code.NEVER_REACHED: "the server was never reached",
    Code.TOO_FEW: "invalid: no requests, or too few",
    Code.WORKER_LOST: "invalid: a load worker was lost",
    Code.INTERRUPTED: "invalid: interrupted",
    Code.SATURATED: "invalid: the generator was saturated",
    Code.UNANSWERED: "no request was answered",
    Code.BROKEN_OFF: "failed: connections were closed instead of answers, as by a handler that raises",
    Code.USER_RAISED: "invalid: a load user raised",
}
WORST_FIRST = (
    *(Code.WRONG_ANSWERS, Code.NEVER_REACHED, Code.UNANSWERED, Code.WORKER_LOST, Code.INTERRUPTED, Code.USER_RAISED),
    *(Code.SATURATED, Code.TOO_FEW, Code.INVALID, Code.USAGE, Code.BROKEN_OFF, Code.GATE_FAILED, Code.PASSED),
)
"""Of several runs the first of these is the verdict on all."""
LOST_WORKER, SATURATED, USER_RAISED = "a load worker was lost", "generator saturated", "a load user raised"
"""What the lines of troubles with a code of their own begin with."""
UNAVAILABLE = "not available here: nothing was run"


def not_whole(folder: Path | None, error: OSError) -> str:
    """What is said of a report that cannot be written: a verdict without one is no pass."""
    return f"prefork-loadtest: report {str(folder)!r}: {error.strerror}; it is not whole"


@dataclass(frozen=True)
class Evidence:
    """What a run has to show. Every default is the worst case, so that a forgotten field cannot pass.

    Attributes:
        unavailable: why it could not be run here at all; "" if it could.
        reached: a connection to the server was made.
        finished: the run went through its last stage.
        interrupted: somebody stopped it.
        requests: requests that ended, right or wrong.
        answered: requests with a right answer.
        least_requests: fewer right answers than this prove nothing.
        begun: requests that were started, by the load workers' own count.
        failures: requests by class of failure.
        closed: those whose connection was closed before a reply, where no fault had been struck.
        errors: what the server has counted as its errors, among them handlers that raised; 0 if it was not asked.
        troubles: why the run is invalid, one line each: a load worker lost, the generator saturated, a fault undone.
        figures: `{phase: {figure: value}}` for the gates.
    """

    unavailable: str = ""
    reached: bool = False
    finished: bool = False
    interrupted: bool = False
    requests: int = 0
    answered: int = 0
    least_requests: int = 1
    begun: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    closed: int = 0
    errors: int = 0
    troubles: tuple[str, ...] = ()
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The judgement: a code, the reasons for it (one line each), and what became of every gate."""

    code: Code
    reasons: tuple[str, ...]
    results: tuple[gates.Result, ...]
    unavailable: bool = False

    @property
    def headline(self) -> str:
        """The judgement in a few words."""
        return UNAVAILABLE if self.unavailable else HEADLINES[self.code]


def judge(evidence: Evidence, required: tuple[gates.Gate, ...]) -> Verdict:
    """The verdict on a run. Without a gate nothing can pass."""
    if evidence.unavailable:
        return Verdict(Code.INVALID, (evidence.unavailable,), (), unavailable=True)
    results = tuple(gates.judge(gate, evidence.figures) for gate in required)
    wrong = _wrong(evidence)
    flaws = _flaws(evidence)
    if not required:
        flaws = (*flaws, "no gate was set")
    failed = tuple(f"gate {result.gate}: {result.detail}" for result in results if not result.passed)
    code, reasons = Code.INVALID, flaws
    if not evidence.reached:
        code, reasons = Code.NEVER_REACHED, (*wrong, *flaws)
    elif wrong:
        code, reasons = Code.WRONG_ANSWERS, (*wrong, *flaws, *failed)
    elif flaws:
        code, reasons = _flawed(evidence), (*flaws, *failed)
    elif evidence.closed and any(result.is_loss and not result.passed for result in results):
        code, reasons = Code.BROKEN_OFF, (_broken_off(evidence), *failed)
    elif failed:
        code, reasons = Code.GATE_FAILED, failed
    elif results and all(result.passed for result in results):
        code, reasons = Code.PASSED, ()
    return Verdict(code, reasons, results)


def _flawed(evidence: Evidence) -> Code:
    """The code of a run with flaws: of its cause, where what else is wrong with it may follow from that."""
    lost, saturated, raised = (
        any(line.startswith(text) for line in evidence.troubles) for text in (LOST_WORKER, SATURATED, USER_RAISED)
    )
    is_whole = evidence.finished and not evidence.troubles and evidence.begun == evidence.requests
    causes = (
        (evidence.interrupted, Code.INTERRUPTED),
        (lost, Code.WORKER_LOST),
        (raised or evidence.failures.get(Failure.BROKEN_USER), Code.USER_RAISED),
        (evidence.closed and not evidence.answered, Code.BROKEN_OFF),
        (evidence.requests and not evidence.answered, Code.UNANSWERED),
        (saturated, Code.SATURATED),
        (not is_whole, Code.INVALID),
        (evidence.answered < max(1, evidence.least_requests), Code.TOO_FEW),
    )
    return next((code for is_so, code in causes if is_so), Code.INVALID)


def _wrong(evidence: Evidence) -> tuple[str, ...]:
    """One line for each class of wrong answer that was seen."""
    return tuple(
        f"{evidence.failures[name]} of {evidence.requests} requests: {name}"
        for name in (failure.value for failure in Failure if failure in WRONG)
        if evidence.failures.get(name)
    )


def _flaws(evidence: Evidence) -> tuple[str, ...]:
    """Why the run proves nothing, one line each."""
    flaws = list(evidence.troubles)
    if evidence.interrupted:
        flaws.append("interrupted")
    elif not evidence.finished:
        flaws.append("the run did not get to its end")
    if evidence.answered == 0:
        flaws.append(_nothing_right(evidence))
        flaws += [_broken_off(evidence)] if evidence.closed else []
    elif evidence.answered < evidence.least_requests:
        flaws.append(f"too few requests: {evidence.answered} answered, at least {evidence.least_requests} needed")
    if evidence.begun != evidence.requests:
        flaws.append(f"samples lost: {evidence.begun} requests begun, {evidence.requests} accounted for")
    if evidence.failures.get(Failure.BROKEN_USER):
        flaws.append(f"{evidence.failures[Failure.BROKEN_USER]} requests: {USER_RAISED}; see the log")
    return tuple(flaws)


def _nothing_right(evidence: Evidence) -> str:
    if not evidence.requests:
        return "no request was made"
    return "no right answer" if _wrong(evidence) else "no request got an answer"


def _broken_off(evidence: Evidence) -> str:
    """That the server closed connections on its own account, and what it says of that itself."""
    said = f"; the server counts {evidence.errors} errors, see its log" if evidence.errors else ""
    return f"{evidence.closed} of {evidence.requests} requests: the connection was closed instead of an answer{said}"
