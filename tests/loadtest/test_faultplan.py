"""The plan of a chaos run: seeded, bounded, complete; and what must hold for each fault."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_loadtest import faultplan, gates
from prefork_loadtest.faultplan import HELD, LEAD_S, LEAST_GAP_S, Fault, Kind, kinds_of, plan
from prefork_loadtest.ledger import PHASES

ALL = tuple(Kind)
SEEDS = st.integers(0, 2**64)
DURATIONS = st.floats(LEAD_S + LEAST_GAP_S * len(ALL), 3600)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert plan(7, 60, ALL, 3.0) == plan(7, 60, ALL, 3.0)
    assert plan(7, 60, ALL, 3.0) != plan(8, 60, ALL, 3.0)


def test_the_plan_of_a_seed_never_changes() -> None:
    lines = [str(fault) for fault in plan(3, 50, ALL, 3.0)]
    assert lines == [
        "   2.7 s  HUP: reload",
        "   9.8 s  TTIN: one worker more",
        "  17.7 s  STOP and CONT of a worker, 1.9 s",
        "  23.7 s  KILL of a worker",
        "  29.6 s  STOP and CONT of the master, 2.4 s",
        "  37.6 s  TTOU: one worker fewer",
        "  44.6 s  USR2: upgrade",
    ]


@given(SEEDS, DURATIONS)
def test_every_kind_comes_equally_often(seed: int, duration_s: float) -> None:
    found = [fault.kind for fault in plan(seed, duration_s, ALL, 3.0)]
    counts = {found.count(kind) for kind in ALL}
    assert len(counts) == 1
    assert counts.pop() >= 1


@given(SEEDS, DURATIONS)
def test_faults_are_spaced_and_within_the_run(seed: int, duration_s: float) -> None:
    times = [fault.at_s for fault in plan(seed, duration_s, ALL, 3.0)]
    assert times[0] >= LEAD_S
    assert times[-1] <= duration_s - LEAST_GAP_S + 0.001
    assert all(later - earlier >= LEAST_GAP_S - 0.002 for earlier, later in pairwise(times))


@given(SEEDS, DURATIONS, st.floats(0.1, 60))
def test_only_what_is_stopped_lasts_and_never_longer_than_the_longest_hold(
    seed: int, duration_s: float, longest_s: float
) -> None:
    for fault in plan(seed, duration_s, ALL, longest_s):
        assert (fault.hold_s > 0) == (fault.kind in HELD)
        assert fault.hold_s <= longest_s + 0.001


@given(SEEDS, DURATIONS)
def test_the_worker_count_ends_where_it_began_and_no_upgrade_sees_it_changed(seed: int, duration_s: float) -> None:
    level = 0
    for fault in plan(seed, duration_s, ALL, 3.0):
        level += (fault.kind is Kind.TTIN) - (fault.kind is Kind.TTOU)
        assert level in {0, 1}
        assert level == 0 or fault.kind is not Kind.USR2
    assert level == 0


@given(SEEDS, st.sets(st.sampled_from([kind for kind in Kind if not kind.value.startswith("tt")]), min_size=1))
def test_only_what_was_asked_for_is_planned(seed: int, chosen: set[Kind]) -> None:
    assert {fault.kind for fault in plan(seed, 60, tuple(chosen), 3.0)} == chosen


def test_a_run_too_short_for_every_kind_is_refused() -> None:
    with pytest.raises(faultplan.FaultError, match="--duration 20: 7 kinds of faults need 29 s"):
        plan(1, 20, ALL, 3.0)


def test_kinds_are_read_in_any_order_and_once() -> None:
    assert kinds_of("kill, hup,kill") == (Kind.HUP, Kind.KILL)


@pytest.mark.parametrize(
    ("text", "complaint"), [("", "no fault ''"), ("hup,term", "'term'"), ("ttin", "both"), ("ttou,hup", "both")]
)
def test_kinds_that_cannot_be_planned_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(faultplan.FaultError, match=complaint):
        kinds_of(text)


def held(kinds: tuple[Kind, ...], **changed: float) -> list[str]:
    """The gates that fail in a run that is perfect but for what was `changed`, such as `hup_failed=1`."""
    perfect = {"requests": 100.0, "failed": 0.0, "unsettled": 0.0, "in_flight": 3.0, "excess": 0.0, "replaced_s": 0.1}
    figures = {kind.phase: dict(perfect) for kind in kinds}
    figures["run"] = {"workers": 4, "target": 4, "zombies": 0, "orphans": 0}
    for name, value in changed.items():
        phase, _, figure = name.partition("__")
        figures[phase][figure] = value
    results = [gates.judge(gates.parse(text, PHASES), figures) for text in faultplan.gates(kinds)]
    return [result.gate for result in results if not result.passed]


def test_a_run_without_loss_passes() -> None:
    assert held(ALL) == []


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.KILL])
def test_a_planned_event_may_lose_nothing(kind: Kind) -> None:
    assert held(ALL, **{f"{kind.phase}__failed": 1}) == [f"{kind.phase}.failed == 0"]


def test_a_kill_may_lose_what_the_worker_held_each_time() -> None:
    assert held(ALL, kill__failed=3) == []
    assert held(ALL, kill__failed=4) == ["kill.failed <= kill.in_flight"]
    assert held(ALL, kill__failed=3, kill__excess=1) == ["kill.excess == 0"]


@pytest.mark.parametrize("kind", Kind)
def test_a_fault_after_which_the_server_does_not_settle_is_named(kind: Kind) -> None:
    assert held(ALL, **{f"{kind.phase}__unsettled": 1}) == [f"{kind.phase}.unsettled == 0"]


@pytest.mark.parametrize(("figure", "value"), [("workers", 3), ("zombies", 1), ("orphans", 1)])
def test_the_server_must_end_as_it_was(figure: str, value: float) -> None:
    failed = held(ALL, **{f"run__{figure}": value})
    assert len(failed) == 1
    assert failed[0].startswith(f"run.{figure} == ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hup@5", Fault(5.0, Kind.HUP)),
        ("kill@0.5", Fault(0.5, Kind.KILL)),
        ("stop@1:3", Fault(1.0, Kind.STOP, 3.0)),
        ("master-stop@1", Fault(1.0, Kind.MASTER_STOP, faultplan.HOLD_S)),
    ],
)
def test_a_fault_is_written_with_its_moment(text: str, fault: Fault) -> None:
    assert faultplan.scripted(text) == fault


@pytest.mark.parametrize(
    "text", ["hup", "hup@", "term@5", "hup@-1", "hup@nan", "hup@inf", "hup@5:2", "stop@1:x", "@5", ""]
)
def test_a_fault_that_says_nothing_is_refused_with_the_cure(text: str) -> None:
    with pytest.raises(faultplan.FaultError, match="KIND@SECONDS"):
        faultplan.scripted(text)
