from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_loadtest.faultplan import Fault, Kind
from prefork_loadtest.plan import Plan, PlanError
from prefork_loadtest.reach import Here
from prefork_loadtest.scenarios import SMOKE

PLAN = Plan(SMOKE, "tcp://127.0.0.1:7", users=16, rate=200.0, duration_s=20.0)


@given(st.integers(1, 1000))
def test_the_crews_have_all_users_and_every_behaviour_comes_before_proportion(users: int) -> None:
    sizes = SMOKE.crew_sizes(users)
    assert sum(sizes.values()) == users
    assert len(sizes) == min(users, len(SMOKE.crews))


def test_the_rate_is_divided_among_the_users_who_keep_it() -> None:
    assert SMOKE.open_users(16) == 4
    assert PLAN.user_rate == 50.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"faults": (Fault(3.0, Kind.KILL),)}, "--control"),
        ({"faults": (Fault(20.0, Kind.KILL),), "reach": Here(Path("c"))}, "before --duration"),
        ({"faults": (Fault(3.0, Kind.STOP, 5.0),), "reach": Here(Path("c"))}, "--hold"),
        ({"workers": 1, "external_workers": 1}, "choose one"),
        ({"workers": 17}, "--users 16"),
    ],
)
def test_options_that_contradict_are_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(PlanError, match=complaint):
        replace(PLAN, **change).check()  # type: ignore[arg-type]


def test_a_kill_brings_its_own_gates() -> None:
    texts = [gate.text for gate in replace(PLAN, faults=(Fault(3.0, Kind.KILL),), reach=Here(Path("c"))).gates]
    assert "kill.failed <= kill.in_flight" in texts
    assert not any("kill" in gate.text for gate in PLAN.gates)
