from __future__ import annotations

import pytest

from prefork_loadtest.schedule import Schedule


def test_starts_are_intended_at_even_intervals_from_the_first() -> None:
    schedule = Schedule(rate=10.0, start=100.0)
    assert [schedule.take() for _ in range(4)] == pytest.approx([100.0, 100.1, 100.2, 100.3])


def test_a_late_user_does_not_move_what_comes_after() -> None:
    schedule = Schedule(rate=2.0, start=0.0)
    schedule.take()
    assert schedule.wait(now=0.2) == pytest.approx(0.3)
    # Two seconds late: no wait, and the intended starts are still those of the beginning.
    assert schedule.wait(now=2.5) == 0.0
    assert [schedule.take() for _ in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5])
    assert schedule.wait(now=2.5) == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Schedule(rate, 0.0)


def test_a_pace_makes_the_intervals_shorter_and_moves_no_start_that_was_taken() -> None:
    schedule = Schedule(rate=10.0, start=0.0)
    assert [schedule.take() for _ in range(2)] == pytest.approx([0.0, 0.1])
    assert [schedule.take(pace=5.0) for _ in range(4)] == pytest.approx([0.2, 0.22, 0.24, 0.26])
