"""The workers as records, and the table of their lives.

It owns what is known of every worker and every slot. It performs nothing: no process, no clock, no log; time is always
given. A pair of state and event that is not in the table is a fault of the master's own and raises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator

    from prefork.settings import Settings

GRACE: Final = 1.0
"""Seconds above its own drain timeout that a worker gets to leave by itself."""

QUIT_PATIENCE: Final = 2.0
"""Seconds a worker gets to leave when it is to leave now."""

KILL_PATIENCE: Final = 1.0
"""Seconds from ABRT, which dumps its stacks, to KILL."""

PROVEN: Final = 0.5
"""Seconds that all workers of a new generation, or of a new master, must have served before the old ones leave."""

TRIAL: Final = 0.4
"""Seconds of those in which they accept nothing: one that ends right behind its "ready" then takes nobody along."""

STABLE: Final = 2.0
"""Seconds a worker must have served for its end not to count as a failure of its slot."""

MAX_BACKOFF: Final = 30.0
"""Seconds between two tries of a slot whose workers do not stay, at most."""


class State(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    KILLING = "killing"
    GONE = "gone"


class Event(Enum):
    """What can happen to a worker."""

    READY = "ready"  # it says so, from inside its accept loop
    TOLD = "told"  # it was told to leave
    OVERDUE = "overdue"  # its deadline has passed, or its loop does not move
    EXITED = "exited"  # it was reaped


TRANSITIONS: Final = {
    (State.STARTING, Event.READY): State.SERVING,
    (State.STARTING, Event.TOLD): State.DRAINING,
    (State.STARTING, Event.OVERDUE): State.KILLING,
    (State.STARTING, Event.EXITED): State.GONE,
    (State.SERVING, Event.TOLD): State.DRAINING,
    (State.SERVING, Event.OVERDUE): State.KILLING,
    (State.SERVING, Event.EXITED): State.GONE,
    (State.DRAINING, Event.READY): State.DRAINING,  # it was told while its word was on the way
    (State.DRAINING, Event.TOLD): State.DRAINING,  # more strongly
    (State.DRAINING, Event.OVERDUE): State.KILLING,
    (State.DRAINING, Event.EXITED): State.GONE,
    (State.KILLING, Event.READY): State.KILLING,
    (State.KILLING, Event.TOLD): State.KILLING,
    (State.KILLING, Event.OVERDUE): State.KILLING,  # ABRT was not enough
    (State.KILLING, Event.EXITED): State.GONE,
}


@dataclass
class Worker:
    """One worker. Times are seconds of the monotonic clock."""

    slot: int
    generation: int
    pid: int
    row: int
    settings: Settings
    started: float
    deadline: float
    state: State = State.STARTING
    ready_at: float | None = None
    beat: float = 0.0  # the later of its last heartbeat and the last moment at which it was given time
    told: signal.Signals | None = None
    doomed: str = ""  # why it is being killed
    worn: str = ""  # why it is to be replaced
    allowance: int = 0  # requests after which it is, its share of the jitter included; 0: any number
    log_is_old: bool = False  # it was forked before the log was reopened, and has not been told yet

    def __str__(self) -> str:
        return f"worker {self.slot} gen {self.generation} pid {self.pid}"

    def step(self, event: Event) -> None:
        """Go on in the table of transitions."""
        self.state = TRANSITIONS[self.state, event]


@dataclass
class Slot:
    """A seat in the pool, and how its last occupants fared."""

    failures: int = 0
    not_before: float = 0.0


@dataclass(frozen=True)
class Stop:
    """The pool is to end: workers get `signal` from `at` on, and the program exits with `code`."""

    signal: signal.Signals
    at: float
    code: int


@dataclass
class Pool:
    """Everything the policy looks at. `jitter` gives a factor around 1 for back-off."""

    target: int
    jitter: Callable[[], float]
    generation: int = 1
    candidate: int | None = None  # the generation a reload tries
    ever_ready: bool = False
    stop: Stop | None = None
    workers: dict[int, Worker] = field(default_factory=dict)
    slots: dict[int, Slot] = field(default_factory=dict)
    failure: str = ""  # why the newest worker that never became ready did not
    hopeless: bool = False  # that reason will not go away by trying again

    def __iter__(self) -> Iterator[Worker]:
        return iter(tuple(self.workers.values()))

    def of(self, generation: int) -> list[Worker]:
        """Return the workers of one generation that start or serve."""
        return [w for w in self if w.generation == generation and w.state in {State.STARTING, State.SERVING}]

    def serving(self) -> int:
        """Return how many workers of any generation serve."""
        return sum(w.state is State.SERVING for w in self)

    def proven_at(self, generation: int) -> float | None:
        """Return when all of a generation will have served for long enough; None while not all of it serves."""
        members = self.of(generation)
        if len(members) < self.target or any(w.ready_at is None for w in members):
            return None
        return max((w.ready_at or 0.0 for w in members), default=0.0) + PROVEN

    def slot(self, index: int) -> Slot:
        """Return a slot's record, made on first use."""
        return self.slots.setdefault(index, Slot())

    def free_row(self) -> int:
        """Return the lowest row of the scoreboard that no living worker has."""
        taken = {w.row for w in self}
        return next(row for row in range(len(taken) + 1) if row not in taken)

    def ready(self, worker: Worker, now: float) -> None:
        """Note that a worker serves."""
        worker.step(Event.READY)
        worker.ready_at = worker.beat = now
        if worker.state is State.SERVING:
            self.ever_ready = True

    def tell(self, worker: Worker, number: signal.Signals, patience: float, now: float) -> None:
        """Note that a worker was told to leave by `number`, and has `patience` seconds."""
        worker.step(Event.TOLD)
        worker.told = number
        if worker.state is not State.KILLING:
            worker.deadline = now + patience

    def doom(self, worker: Worker, why: str, now: float) -> None:
        """Note that a worker is being killed."""
        worker.step(Event.OVERDUE)
        worker.doomed = worker.doomed or why
        worker.deadline = now + KILL_PATIENCE

    def exited(self, worker: Worker, now: float) -> bool:
        """Note that a worker was reaped; return whether that was its slot's failure."""
        expected = worker.state is State.DRAINING
        worker.step(Event.EXITED)
        del self.workers[worker.pid]
        if expected:
            return False
        slot = self.slot(worker.slot)
        stayed = worker.ready_at is not None and now - worker.ready_at >= STABLE
        slot.failures = 1 if stayed else slot.failures + 1
        slot.not_before = now + self._delay(slot.failures)
        return True

    def never_ready(self, worker: Worker, why: str, *, hopeless: bool) -> bool:
        """Note why a worker that has never been ready will not be, if its generation is the one that matters now.

        A generation that is being tried is not believed at once: the end of any worker of it counts. Say whether this
        is news.
        """
        if self.candidate is not None:
            matters = worker.generation == self.candidate
        else:
            matters = worker.ready_at is None and worker.generation == self.generation
        news = matters and not self.hopeless  # its own word for it is better than how it ended afterwards
        if news:
            self.failure, self.hopeless = why, hopeless
        return news

    def try_generation(self) -> int:
        """Begin a reload: return the number of the generation that is to be tried."""
        newest = max([self.generation, *(w.generation for w in self)])
        self.candidate = newest + 1
        self.failure, self.hopeless = "", False
        for slot in self.slots.values():  # a new target deserves a new start
            slot.failures, slot.not_before = 0, 0.0
        return self.candidate

    def settle(self, generation: int) -> None:
        """End a reload: `generation` is the pool's own from now on."""
        self.generation, self.candidate = generation, None
        self.failure, self.hopeless = "", False

    def fork_failed(self, slot: int, generation: int, why: str, now: float) -> bool:
        """Note that there was no room for a worker of this slot; return whether that is the end of a reload."""
        self.slot(slot).not_before = now + self.jitter()
        if generation != self.candidate:
            return False
        self.failure = self.failure or why  # as long as it cannot be forked, no reload would ever end
        return True

    def _delay(self, failures: int) -> float:
        """Return the back-off: none after a first failure, then 1, 2, 4 … seconds, with jitter."""
        if failures <= 1:
            return 0.0
        return min(MAX_BACKOFF, 2.0 ** min(failures - 2, 10)) * self.jitter()

    def forgive(self, seconds: float, now: float) -> None:
        """Give every worker the time that the master has overslept: nobody is judged by a clock that stood still."""
        for worker in self:
            worker.deadline += seconds
            worker.beat = now
