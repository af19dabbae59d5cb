"""The workers as children of this process: each from its fork to its burial, and what is held of it here meanwhile.

It forks them, hears what they say, reads how their hearts beat, sees who is worn, and takes down how they ended. Whom
to fork, tell or kill is `policy`'s to decide; what is known of them is `pool`'s; the fork itself is in `process`.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from prefork.log import LOGGER, MAX_TRACEBACK
from prefork.master import process
from prefork.master.pool import TRIAL, State, Worker
from prefork.master.spare import Load
from prefork.scoreboard import ROWS, Phase, Scoreboard
from prefork.sources import Sources
from prefork.worker import boot
from prefork.worker.post import FAILED, READY, SAID_AT_MOST, Post

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prefork.listener import Listener
    from prefork.log import LogHandler
    from prefork.master.events import Events
    from prefork.master.pool import Pool
    from prefork.master.status import Totals
    from prefork.scoreboard import Reading
    from prefork.worker.post import Plan

_FREE: Final = frozenset({Phase.ACCEPTING, Phase.YIELDING})
"""What an async worker says of itself that has room for more."""


@dataclass(frozen=True)
class Legacy:
    """What every worker inherits, of whatever generation; fixed at the start."""

    listeners: Sequence[Listener]
    log: LogHandler
    connections: int  # what a worker may hold then: the table of sources has room for so many


class Children:
    """All workers that live.

    Args:
        pool: the records of them.
        legacy: what each inherits.
        totals: where what the dead have counted goes.
        events: what waits for what they say.
        not_a_childs: returns everything else that is open here and that no child may keep.
    """

    def __init__(
        self,
        pool: Pool,
        legacy: Legacy,
        totals: Totals,
        events: Events,
        not_a_childs: Callable[[], list[process.Closeable]],
    ) -> None:
        self.board = Scoreboard()
        self._pool = pool
        self._legacy = legacy
        self._sources = Sources(legacy.connections, self.board.used)
        self._totals = totals
        self._events = events
        self._not_a_childs = not_a_childs
        self._channels: dict[int, socket.socket] = {}  # by the pid of the worker at the other end
        self._stacks: dict[int, BinaryIO | None] = {}  # by pid: what a killed worker leaves of its threads
        self._cpu: dict[int, tuple[float, float]] = {}  # by pid: CPU seconds used, and when that was read

    def spawn(self, slot: int, generation: int, plan: Plan, now: float, *, on_trial: bool) -> None:
        """Fork a worker into a slot; where the kernel has no room for it, the slot waits a moment."""
        row = self._pool.free_row()
        if row >= ROWS:
            self._cannot_fork(slot, generation, f"{ROWS} workers live already", now)
            return
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._cannot_fork(slot, generation, str(error.strerror), now)
            return
        ours.setblocking(False)
        theirs.setblocking(False)
        self.board.row(row).clear()
        self.board.set_used(max(row + 1, *(w.row + 1 for w in self._pool), 0))
        post = Post(
            slot=slot,
            generation=generation,
            master=os.getpid(),
            plan=plan,
            listeners=tuple(self._legacy.listeners),
            board=self.board,
            row=self.board.row(row),
            tally=self._sources.tally(row) if plan.settings.max_connections_per_source else None,
            channel=theirs,
            log=self._legacy.log,
            stacks=process.scratch(),
            trial_s=TRIAL if on_trial else 0.0,
        )
        try:
            pid = process.fork(lambda: boot.run(post), [ours, *self._not_a_childs()])
        except OSError as error:
            self._cannot_fork(slot, generation, str(error.strerror), now)
            ours.close()
            if post.stacks is not None:
                post.stacks.close()
            return
        finally:
            theirs.close()
        # the deadline counts from before the fork: a child that never runs is overdue too
        deadline = now + plan.settings.boot_timeout
        worker = Worker(slot, generation, pid, row, plan.settings, started=now, deadline=deadline, beat=now)
        if plan.settings.max_requests:
            jitter = random.randint(0, plan.settings.max_requests_jitter)  # noqa: S311 - spreads the replacements
            worker.allowance = plan.settings.max_requests + jitter
        self._totals.started += 1
        self._pool.workers[pid] = worker
        self._channels[pid] = ours
        self._stacks[pid] = post.stacks
        self._events.on(ours, lambda: self._on_channel(worker))
        LOGGER.debug("%s forked", worker)

    def look(self, now: float) -> None:
        """Read the heartbeats, and note who is worn."""
        for worker in self._pool:
            reading = self.board.row(worker.row).read()
            worker.beat = max(worker.beat, min(now, reading.beat_s))
            if worker.state is State.SERVING and not worker.worn:
                _look_for_wear(worker, reading.requests, now)

    def loads(self, generation: int, now: float) -> list[Load]:
        """Return what each worker of a generation that serves has carried since this was last asked."""
        loads = []
        seen: dict[int, tuple[float, float]] = {}
        for worker in self._pool.of(generation):
            if worker.state is not State.SERVING:
                continue
            reading = self.board.row(worker.row).read()
            used = process.cpu_seconds(worker.pid)
            before, since = self._cpu.get(worker.pid, (used, now - 1.0))
            seen[worker.pid] = (used, now)
            free = reading.connections < reading.capacity if reading.capacity else reading.phase in _FREE
            loads.append(Load(free, (used - before) / (now - since), blocking=reading.capacity > 0))
        self._cpu = seen
        return loads

    def readings(self) -> Iterator[Reading]:
        """Yield what each has counted."""
        return (self.board.row(worker.row).read() for worker in self._pool)

    def ended(self, pid: int, wait_status: int) -> None:
        """Bury a worker that was reaped: read its last words, keep its counters, say how it ended."""
        worker = self._pool.workers.get(pid)
        if worker is None:
            LOGGER.debug("reaped pid %d, which is no worker", pid)
            return
        how = process.how_it_ended(wait_status)
        self._on_channel(worker)  # its last words
        self._events.drop(self._channels.pop(pid))
        row = self.board.row(worker.row)
        self._totals.add(row.read())
        row.clear()
        if worker.settings.max_connections_per_source:
            self._sources.clear(worker.row)
        trace = {"trace": self._take_stacks(worker)}
        when = "before it was ready" if worker.ready_at is None else "as soon as it was ready"
        self._pool.never_ready(worker, f"{worker} {how} {when}", hopeless=False)
        if not self._pool.exited(worker, time.monotonic()):
            LOGGER.log(logging.DEBUG if worker.ready_at is None else logging.INFO, "%s %s", worker, how)
            return
        self._totals.lost += 1
        if worker.ready_at is not None or worker.doomed:
            LOGGER.error("%s %s%s", worker, how, f": {worker.doomed}" if worker.doomed else "", extra=trace)

    def open_things(self) -> list[process.Closeable]:
        """Return everything open here that no child may keep; its own is not among it yet."""
        return [*self._channels.values(), *(file for file in self._stacks.values() if file is not None)]

    def close(self) -> None:
        """Hear nothing more of them."""
        for channel in self._channels.values():
            self._events.drop(channel)

    # Inside. ---------------------------------------------------------------------------------------------------------

    def _cannot_fork(self, slot: int, generation: int, why: str, now: float) -> None:
        if not self._pool.fork_failed(slot, generation, f"cannot fork: {why}", now):
            LOGGER.error("cannot fork: %s; trying again in a moment", why)

    def _take_stacks(self, worker: Worker) -> str:
        """Return what a worker has left of its threads' stacks; one at a time, so that those of two do not mix."""
        stacks = self._stacks.pop(worker.pid, None)
        if stacks is None:
            return ""
        with stacks:
            stacks.seek(0)
            return stacks.read(MAX_TRACEBACK).decode("utf-8", "replace")

    def _on_channel(self, worker: Worker) -> None:
        channel = self._channels[worker.pid]
        try:
            said = channel.recv(SAID_AT_MOST)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._events.off(channel)  # it is ending; its SIGCHLD comes
        for line in said.splitlines(keepends=True):
            if line == READY and worker.ready_at is None:
                self._pool.ready(worker, time.monotonic())
                LOGGER.info("%s is ready", worker)
                if worker.log_is_old:
                    process.send(worker.pid, signal.SIGUSR1)
            elif line.startswith(FAILED):
                self._on_failed(worker, line.removeprefix(FAILED))
            else:
                LOGGER.warning("%s said something unknown", worker)  # it is all gossip: never trusted, never fatal

    def _on_failed(self, worker: Worker, told: bytes) -> None:
        try:
            why, trace = map(str, json.loads(told))
        except (ValueError, TypeError, RecursionError):
            why, trace = "the worker said something unknown", ""
        if self._pool.never_ready(worker, why, hopeless=True):  # once, for the target's author
            LOGGER.debug("%s could not be made ready", worker, extra={"trace": trace})


def _look_for_wear(worker: Worker, requests: int, now: float) -> None:
    settings = worker.settings
    if worker.allowance and requests >= worker.allowance:
        worker.worn = f"it has served {requests} requests (--max-requests)"
    elif settings.max_lifetime and now - worker.started >= settings.max_lifetime:
        worker.worn = f"it has lived for {now - worker.started:.0f} s (--max-lifetime)"
    elif settings.max_rss and (rss := process.rss_bytes(worker.pid)) > settings.max_rss:
        worker.worn = f"it holds {rss >> 20} MiB (--max-rss)"
    if worker.worn:
        LOGGER.info("%s is to be replaced: %s", worker, worker.worn)
