"""What the master decides, and nothing it does: pool and clock in, actions out. Pure.

The loop asks after every event and at least once a second, performs the actions, and tells the pool. Each rule below is
one function; together they say how the pool gets from what it is to what it should be, a step at a time.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prefork.master.pool import GRACE, QUIT_PATIENCE, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefork.master.pool import Pool, Worker

COLD_TRIES: Final = 3
"""Silent deaths per slot, with no worker ever ready, after which the program gives up."""


@dataclass(frozen=True)
class Spawn:
    """Fork a worker for a slot."""

    slot: int
    generation: int


@dataclass(frozen=True)
class Tell:
    """Tell a worker to leave, and give it `patience` seconds."""

    worker: Worker
    signal: signal.Signals
    patience: float


@dataclass(frozen=True)
class Kill:
    """Send ABRT or KILL to a worker that has run out of time."""

    worker: Worker
    signal: signal.Signals
    why: str


@dataclass(frozen=True)
class Promote:
    """The generation that was tried is ready: it is the pool's own from now on."""

    generation: int


@dataclass(frozen=True)
class Abandon:
    """The generation that was tried has failed: the old one was never touched."""

    generation: int
    why: str


@dataclass(frozen=True)
class GiveUp:
    """No worker has ever been ready, and none will be."""

    why: str


@dataclass(frozen=True)
class Finish:
    """The last worker is gone: leave with `code`."""

    code: int


Action = Spawn | Tell | Kill | Promote | Abandon | GiveUp | Finish


def decide(pool: Pool, now: float) -> list[Action]:
    """Return what to do now, in order."""
    actions: list[Action] = [*_overdue(pool, now)]
    if pool.stop is not None:
        return [*actions, *_stop(pool, now)]
    if pool.candidate is not None:
        tried = [*_try_candidate(pool, pool.candidate, now)]
        if Promote(pool.candidate) in tried:  # the old generation is about to leave
            return [*actions, *tried]
        return [*actions, *tried, *_fill(pool, pool.generation, now)]
    if given_up := [*_give_up(pool)]:
        return [*actions, *given_up]
    return [*actions, *_fill(pool, pool.generation, now), *_replace(pool, now), *_retire(pool)]


def next_deadline(pool: Pool, now: float) -> float:
    """Return how many seconds the loop may sleep at most before it must ask again: 0 to 1."""
    times = [now + 1.0]
    times += [w.deadline for w in pool if w.state is not State.SERVING]
    times += [s.not_before for i, s in pool.slots.items() if s.not_before > now and i < pool.target]
    if (proven_at := pool.proven_at(pool.candidate or pool.generation)) is not None and proven_at > now:
        times.append(proven_at)
    if pool.stop is not None and pool.stop.at > now:
        times.append(pool.stop.at)
    return max(0.0, min(times) - now)


def _overdue(pool: Pool, now: float) -> Iterator[Kill]:
    """Kill what has run out of time: first by ABRT, which leaves its stacks in the log."""
    for worker in pool:
        settings = worker.settings
        if worker.state is State.SERVING:
            if now - worker.beat > settings.hang_timeout:
                yield Kill(
                    worker, signal.SIGABRT, f"its loop has not moved for --hang-timeout {settings.hang_timeout:g} s"
                )
        elif now >= worker.deadline:
            if worker.state is State.KILLING:
                yield Kill(worker, signal.SIGKILL, worker.doomed)
            elif worker.state is State.STARTING:
                yield Kill(
                    worker, signal.SIGABRT, f"it was not ready within --boot-timeout {settings.boot_timeout:g} s"
                )
            else:
                yield Kill(worker, signal.SIGABRT, "it did not leave in time")


def _stop(pool: Pool, now: float) -> Iterator[Action]:
    """Tell every worker to leave as the pool does, and finish after the last."""
    stop = pool.stop
    if stop is None:
        return
    if not pool.workers:
        yield Finish(stop.code)
    if now < stop.at:
        return
    for worker in pool:
        if worker.state is State.KILLING or worker.told in {stop.signal, signal.SIGQUIT}:
            continue
        quick = stop.signal is signal.SIGQUIT
        if worker.state is State.STARTING:
            yield Tell(worker, signal.SIGKILL, QUIT_PATIENCE)  # it holds nothing yet
        elif worker.state is State.SERVING or quick:
            yield Tell(worker, stop.signal, QUIT_PATIENCE if quick else worker.settings.drain_timeout + GRACE)


def _give_up(pool: Pool) -> Iterator[GiveUp]:
    """Stop from cold: when a worker says that it will never be ready, or every slot has failed often enough."""
    if pool.ever_ready or not pool.failure:
        return
    tries = [pool.slot(index).failures for index in range(pool.target)]
    if pool.hopeless or (tries and min(tries) >= COLD_TRIES):
        yield GiveUp(pool.failure)


def _try_candidate(pool: Pool, candidate: int, now: float) -> Iterator[Action]:
    """Bring the new generation up beside the old one, all of it or none."""
    if pool.failure:
        yield Abandon(candidate, pool.failure)
        for worker in pool.of(candidate):
            yield Tell(worker, signal.SIGKILL if worker.state is State.STARTING else signal.SIGUSR2, QUIT_PATIENCE)
        return
    proven_at = pool.proven_at(candidate)
    if proven_at is None:
        yield from _fill(pool, candidate, now)
    elif now >= proven_at:
        yield Promote(candidate)


def _fill(pool: Pool, generation: int, now: float) -> Iterator[Spawn]:
    """Fork what is missing of a generation, slot by slot, where the back-off allows it."""
    taken = {w.slot for w in pool.of(generation)}
    for index in range(pool.target):
        if index not in taken and now >= pool.slot(index).not_before:
            yield Spawn(index, generation)


def _replace(pool: Pool, now: float) -> Iterator[Spawn]:
    """Fork a second worker into the slot of a worn one, one at a time: the old serves until the new one does."""
    members = [w for w in pool.of(pool.generation) if w.slot < pool.target]
    if any(w.state is State.STARTING for w in members) or len(members) > pool.target:
        return
    for worker in members:
        if worker.worn and now >= pool.slot(worker.slot).not_before:
            yield Spawn(worker.slot, pool.generation)
            return


def _retire(pool: Pool) -> Iterator[Tell]:
    """Send home what is too many.

    That is: older generations once every slot is served by the current one, slots beyond the target, and in each slot
    all but the youngest that serves.
    """
    youngest: dict[int, Worker] = {}
    for worker in pool.of(pool.generation):
        if worker.slot < pool.target and worker.state is State.SERVING:
            best = youngest.setdefault(worker.slot, worker)
            if worker.started >= best.started:
                youngest[worker.slot] = worker
    for worker in pool:
        if worker.state not in {State.STARTING, State.SERVING}:
            continue
        if worker.generation != pool.generation:
            leave = len(youngest) >= pool.target
        else:
            replaced = worker.state is State.SERVING and youngest.get(worker.slot) is not worker
            leave = worker.slot >= pool.target or replaced
        if leave:
            yield Tell(worker, signal.SIGUSR2, worker.settings.drain_timeout + GRACE)
