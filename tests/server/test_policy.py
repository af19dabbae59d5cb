"""The policy by values alone: a pool and a clock in, actions out. No process is needed."""

from __future__ import annotations

import signal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.master import policy
from prefork.master.policy import Abandon, Finish, GiveUp, Kill, Promote, Spawn, Tell
from prefork.master.pool import MAX_BACKOFF, STABLE, TRANSITIONS, Event, Pool, State, Stop, Worker
from prefork.settings import Settings, Span

SETTINGS = Settings(target="echo", workers=Span(2, 2))


def make_pool(target: int = 2) -> Pool:
    return Pool(target, jitter=lambda: 1.0)


def add(pool: Pool, slot: int, state: State = State.SERVING, generation: int = 1, now: float = 0.0) -> Worker:
    pid = 100 + len(pool.workers)
    worker = Worker(slot, generation, pid, pool.free_row(), SETTINGS, started=now, deadline=now + 30, beat=now)
    pool.workers[pid] = worker
    if state is not State.STARTING:
        pool.ready(worker, now)
    if state in {State.DRAINING, State.KILLING}:
        pool.tell(worker, signal.SIGUSR2, 31.0, now)
    if state is State.KILLING:
        pool.doom(worker, "for the test", now)
    assert worker.state is state
    return worker


def test_empty_pool_is_filled() -> None:
    assert policy.decide(make_pool(), 0.0) == [Spawn(0, 1), Spawn(1, 1)]


def test_full_pool_is_left_alone() -> None:
    pool = make_pool()
    add(pool, 0)
    add(pool, 1, State.STARTING)
    assert policy.decide(pool, 1.0) == []


def test_slot_beyond_the_target_is_retired() -> None:
    pool = make_pool(1)
    add(pool, 0)
    extra = add(pool, 1)
    assert policy.decide(pool, 1.0) == [Tell(extra, signal.SIGUSR2, 31.0)]


def test_draining_worker_does_not_keep_its_slot_from_being_filled() -> None:
    pool = make_pool(1)
    add(pool, 0, State.DRAINING)
    assert policy.decide(pool, 1.0) == [Spawn(0, 1)]


def test_generation_that_leaves_in_this_turn_is_filled_no_more() -> None:
    pool = make_pool(2)
    add(pool, 0)
    candidate = pool.try_generation()
    for slot in range(2):
        add(pool, slot, generation=candidate)
    assert policy.decide(pool, 0.1) == [Spawn(1, 1)]
    assert policy.decide(pool, 1.0) == [Promote(candidate)]


def test_nobody_is_forked_behind_the_giving_up() -> None:
    pool = make_pool(2)
    pool.never_ready(add(pool, 0, State.STARTING), "it says so", hopeless=True)
    assert policy.decide(pool, 0.0) == [GiveUp("it says so")]


def test_silent_loop_is_killed_by_abort_and_then_by_kill() -> None:
    pool = make_pool(1)
    worker = add(pool, 0)
    assert policy.decide(pool, 30.0) == []
    (kill,) = policy.decide(pool, 30.1)
    assert isinstance(kill, Kill)
    assert kill.signal == signal.SIGABRT
    pool.doom(worker, kill.why, 30.1)
    assert [a for a in policy.decide(pool, 31.0) if isinstance(a, Kill)] == []
    second = policy.decide(pool, 31.2)[0]
    assert isinstance(second, Kill)
    assert (second.signal, second.why) == (signal.SIGKILL, kill.why)


def test_overslept_master_forgives() -> None:
    pool = make_pool(2)
    add(pool, 0)
    add(pool, 1, State.STARTING)
    pool.forgive(100.0, 100.0)
    assert policy.decide(pool, 100.0) == []


def test_stop_tells_everybody_once_and_finishes_after_the_last() -> None:
    pool = make_pool()
    serving, starting = add(pool, 0), add(pool, 1, State.STARTING)
    pool.stop = Stop(signal.SIGTERM, at=5.0, code=0)
    assert policy.decide(pool, 4.0) == []
    first = policy.decide(pool, 5.0)
    assert first == [Tell(serving, signal.SIGTERM, 31.0), Tell(starting, signal.SIGKILL, 2.0)]
    for action in first:
        assert isinstance(action, Tell)
        pool.tell(action.worker, action.signal, action.patience, 5.0)
    assert policy.decide(pool, 5.1) == []
    for worker in pool:
        pool.exited(worker, 6.0)
    assert policy.decide(pool, 6.0) == [Finish(0)]


def test_quick_stop_overtakes_a_graceful_one() -> None:
    pool = make_pool(1)
    worker = add(pool, 0, State.DRAINING)
    pool.stop = Stop(signal.SIGQUIT, at=1.0, code=0)
    assert policy.decide(pool, 1.0) == [Tell(worker, signal.SIGQUIT, 2.0)]


def test_candidate_is_filled_beside_the_old_and_promoted_when_all_of_it_serves() -> None:
    pool = make_pool()
    old = [add(pool, 0), add(pool, 1)]
    assert pool.try_generation() == 2
    assert policy.decide(pool, 1.0) == [Spawn(0, 2), Spawn(1, 2)]
    first, second = add(pool, 0, State.STARTING, 2), add(pool, 1, State.STARTING, 2)
    pool.ready(first, 1.0)
    assert policy.decide(pool, 1.0) == []
    pool.ready(second, 1.0)
    assert policy.decide(pool, 1.4) == []  # it must serve for a while to be believed
    assert policy.next_deadline(pool, 1.4) == pytest.approx(0.1)
    assert policy.decide(pool, 1.5) == [Promote(2)]
    pool.settle(2)
    assert policy.decide(pool, 1.5) == [Tell(worker, signal.SIGUSR2, 31.0) for worker in old]


def test_old_worker_that_dies_while_a_candidate_is_tried_is_replaced_by_its_own_generation() -> None:
    pool = make_pool(1)
    old = add(pool, 0)
    pool.try_generation()
    add(pool, 0, State.STARTING, 2)
    pool.exited(old, 10.0)
    assert policy.decide(pool, 10.0) == [Spawn(0, 1)]


def test_candidate_that_fails_is_abandoned_and_the_old_is_never_touched() -> None:
    pool = make_pool(1)
    add(pool, 0)
    pool.try_generation()
    new = add(pool, 0, State.STARTING, 2)
    pool.never_ready(new, "SyntaxError", hopeless=True)
    assert policy.decide(pool, 1.0) == [Abandon(2, "SyntaxError"), Tell(new, signal.SIGKILL, 2.0)]


def test_worn_workers_are_replaced_one_at_a_time_and_leave_only_when_their_replacement_serves() -> None:
    pool = make_pool(2)
    first, second = add(pool, 0), add(pool, 1)
    first.worn = second.worn = "for the test"
    assert policy.decide(pool, 1.0) == [Spawn(0, 1)]
    replacement = add(pool, 0, State.STARTING, now=1.0)
    assert policy.decide(pool, 2.0) == []
    pool.ready(replacement, 2.0)
    assert policy.decide(pool, 2.0) == [Tell(first, signal.SIGUSR2, 31.0)]
    pool.tell(first, signal.SIGUSR2, 31.0, 2.0)
    assert policy.decide(pool, 2.0) == [Spawn(1, 1)]


def test_replacement_that_fails_in_boot_leaves_the_worn_worker_serving() -> None:
    pool = make_pool(1)
    add(pool, 0).worn = "for the test"
    for _ in range(3):
        pool.exited(add(pool, 0, State.STARTING, now=1.0), 1.0)
    assert policy.decide(pool, 1.0) == []
    assert policy.decide(pool, pool.slot(0).not_before) == [Spawn(0, 1)]


def test_candidate_whose_worker_ends_as_soon_as_it_was_ready_is_abandoned() -> None:
    pool = make_pool(1)
    add(pool, 0)
    pool.try_generation()
    new = add(pool, 0, State.SERVING, 2)
    pool.never_ready(new, "it exited", hopeless=False)
    pool.exited(new, 0.1)
    assert policy.decide(pool, 0.1) == [Abandon(2, "it exited")]


def test_cold_server_gives_up_at_once_when_told_why() -> None:
    pool = make_pool(2)
    worker = add(pool, 0, State.STARTING)
    pool.never_ready(worker, "no module", hopeless=True)
    assert GiveUp("no module") in policy.decide(pool, 0.0)


def test_server_that_was_ever_ready_never_gives_up() -> None:
    pool = make_pool(1)
    pool.exited(add(pool, 0), 0.1)
    now = 0.1
    for _ in range(50):
        worker = add(pool, 0, State.STARTING, now=now)
        pool.never_ready(worker, "exited", hopeless=False)
        pool.exited(worker, now)
        actions = policy.decide(pool, now)
        assert not any(isinstance(action, GiveUp) for action in actions)
        now += MAX_BACKOFF


def test_back_off_doubles_and_is_forgotten_after_a_stable_life() -> None:
    pool = make_pool(1)
    delays, now = [], 0.0
    for _ in range(8):
        pool.exited(add(pool, 0, State.STARTING, now=now), now)
        delays.append(pool.slot(0).not_before - now)
        now = max(now, pool.slot(0).not_before)
    assert delays == [0, 1, 2, 4, 8, 16, 30, 30]
    pool.exited(add(pool, 0, now=now), now + STABLE)
    assert pool.slot(0).not_before == now + STABLE


def test_sixty_seconds_of_dying_at_once_are_at_most_ten_forks() -> None:
    pool = make_pool(1)
    pool.ever_ready = True
    now, forks = 0.0, 0
    while now < 60:
        for action in policy.decide(pool, now):
            assert isinstance(action, Spawn)
            forks += 1
            pool.exited(add(pool, 0, State.STARTING, now=now), now)
        now += max(0.01, policy.next_deadline(pool, now))
    assert 5 <= forks <= 10


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_pair_of_state_and_event_is_in_the_table_or_raises(state: State, event: Event) -> None:
    worker = Worker(0, 1, 1, 0, SETTINGS, started=0, deadline=0, state=state)
    if (state, event) in TRANSITIONS:
        worker.step(event)
    else:
        assert state is State.GONE or (state, event) == (State.SERVING, Event.READY)
        with pytest.raises(KeyError):
            worker.step(event)


@given(
    st.lists(
        st.tuples(st.sampled_from(["ready", "exit", "scale", "reload", "wear", "wait"]), st.integers(0, 5)), max_size=60
    )
)
def test_whatever_happens_the_pool_comes_back_to_its_target(  # noqa: C901 - one step per kind of event
    events: list[tuple[str, int]],
) -> None:
    pool, now = make_pool(3), 0.0
    pool.ever_ready = True
    for kind, number in events:
        workers = list(pool)
        chosen = workers[number % len(workers)] if workers else None
        if kind == "ready" and chosen and chosen.state is State.STARTING:
            pool.ready(chosen, now)
        elif kind == "exit" and chosen:
            pool.never_ready(chosen, "it died", hopeless=False)
            pool.exited(chosen, now)
        elif kind == "scale":
            pool.target = number + 1
        elif kind == "wear" and chosen:
            chosen.worn = "for the test"
        elif kind == "reload" and pool.candidate is None:
            pool.try_generation()
        else:
            now += number
        now = _perform(pool, now)
    for _ in range(400):  # and now nothing happens any more but what should
        for worker in list(pool):
            if worker.state is State.STARTING:
                pool.ready(worker, now)
            elif worker.state in {State.DRAINING, State.KILLING}:
                pool.exited(worker, now)
            worker.beat = now
        now = _perform(pool, now + 1)
    assert pool.candidate is None
    assert sorted(w.slot for w in pool.of(pool.generation)) == list(range(pool.target))
    assert len(pool.workers) == pool.target


def _perform(pool: Pool, now: float) -> float:
    actions = policy.decide(pool, now)
    leaving = [action.worker for action in actions if isinstance(action, Tell)]
    stays = {w.slot for w in pool.of(pool.generation) if w.state is State.SERVING and w not in leaving}
    for worker in leaving:  # whoever leaves a slot of the pool's own leaves it served
        if worker.generation == pool.generation and worker.slot < pool.target:
            assert worker.slot in stays
    for action in actions:
        match action:
            case Spawn(slot, generation):
                assert generation in {pool.generation, pool.candidate}  # of others there are no plans
                worker = Worker(slot, generation, _free_pid(pool), pool.free_row(), SETTINGS, now, now + 30, beat=now)
                pool.workers[worker.pid] = worker
            case Tell(worker, number, patience):
                pool.tell(worker, number, patience, now)
            case Kill(worker, _, why):
                pool.doom(worker, why, now)
            case Promote(generation):
                pool.settle(generation)
            case Abandon():
                pool.settle(pool.generation)
            case _:
                raise AssertionError(action)
    return now


def _free_pid(pool: Pool) -> int:
    return max([100, *pool.workers]) + 1
