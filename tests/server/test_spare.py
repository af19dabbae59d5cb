from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from prefork.master.spare import CALM, FASTEST, Load, Spare
from prefork.settings import Span

BUSY = Load(free=False, cpu=0.0, blocking=True)
FREE = Load(free=True, cpu=0.0, blocking=True)


def test_fixed_number_is_never_looked_at() -> None:
    assert not Spare(Span(3, 3), 0.0).due(100.0)


def test_blocking_pool_without_a_free_worker_grows_faster_the_longer_it_has_none() -> None:
    spare, target, sizes = Spare(Span(1, 40), 0.0), 1, []
    for second in range(7):
        target = spare.look(target, [BUSY] * target, second)
        sizes.append(target)
    assert sizes == [2, 4, 8, 16, 24, 32, 40]
    assert max(b - a for a, b in pairwise(sizes)) == FASTEST


def test_nothing_is_added_while_what_was_added_still_boots() -> None:
    spare = Spare(Span(1, 8), 0.0)
    assert spare.look(1, [BUSY], 1.0) == 2
    assert spare.look(2, [BUSY], 2.0) == 2


def test_blocking_pool_shrinks_one_at_a_time_after_a_calm() -> None:
    spare = Spare(Span(1, 8), 0.0)
    assert spare.look(4, [FREE] * 4, CALM - 1) == 4
    assert spare.look(4, [FREE] * 4, CALM) == 3
    assert spare.look(3, [FREE] * 3, CALM + 1) == 3
    assert spare.look(3, [FREE, FREE, BUSY], CALM * 3) == 3  # one spare worker is kept


def test_async_pool_follows_its_load() -> None:
    spare = Spare(Span(1, 4), 0.0)
    hot, cool = Load(free=True, cpu=0.95, blocking=False), Load(free=True, cpu=0.1, blocking=False)
    assert spare.look(1, [hot], 1.0) == 2
    assert spare.look(2, [cool] * 2, 2.0) == 2
    assert spare.look(2, [cool] * 2, 2.0 + CALM) == 1


@given(
    st.integers(1, 5), st.integers(0, 5),
    st.lists(st.lists(st.builds(Load, st.booleans(), st.floats(0, 1), st.just(True)), max_size=12), max_size=30),
)  # fmt: skip
def test_whatever_the_load_the_target_stays_within_the_span(low: int, more: int, looks: list[list[Load]]) -> None:
    spare, target = Spare(Span(low, low + more), 0.0), low
    for number, loads in enumerate(looks):
        target = spare.look(target, loads, number * 4.0)
        assert low <= target <= low + more
