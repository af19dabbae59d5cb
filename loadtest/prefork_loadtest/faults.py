"""Faults, struck from the host while the load runs: a signal to the server, and the watch until it has settled again.

A fault reads the server's status and signals its processes, both by a `Reach`; it never touches the load. What it knows
of its own damage (how many connections a victim held, how long the server took) becomes figures that gates can name. A
process that a fault has stopped is continued, whatever else happens: by the watch, or by `undo`.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefork_loadtest import control
from prefork_loadtest.faultplan import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork_loadtest.census import Census
    from prefork_loadtest.control import Status, Worker
    from prefork_loadtest.reach import Reach

SETTLE_S = 2.0
"""A fault's phase lasts this long at least: every kept connection it broke is used, and found broken, within it."""
GIVE_UP_S = 40.0
"""A fault's phase ends here, settled or not; what has not settled fails its gate. A server's drain timeout fits in."""


@dataclass
class Mark:
    """One thing that happened, `at_s` seconds into the run."""

    at_s: float
    text: str


@dataclass
class Subject:
    """The server that faults are struck at.

    Attributes:
        reach: how it is got at.
        census: its processes.
        front: the process that its starter knows; None: the one that the status names.
        see: is given every status.
        workers: how many there should be; None until the first look.
    """

    reach: Reach
    census: Census
    front: int | None = None
    see: Callable[[Status], None] = lambda _: None
    workers: int | None = None

    def look(self) -> Status:
        """The status.

        Raises:
            ControlError: it cannot be read.
        """
        status = self.reach.ask()
        self.census.see(status)
        self.see(status)
        if self.workers is None:
            self.reach.prove(status)
            self.workers = len(status.serving)
        return status

    def unsettled(self, status: Status) -> str:
        """Why the server is not what it should be, or "": it runs, as many serve as should, and nobody else is left."""
        if status.state != "running":
            return f"its state is {status.state!r}"
        if len(status.serving) != self.workers:
            return f"{len(status.serving)} workers serve instead of {self.workers}"
        others = [worker for worker in status.workers if worker not in status.serving]
        if others:
            return f"worker {others[0].slot} (pid {others[0].pid}) is {others[0].state}"
        return str(self.census.remains(status))


@dataclass
class Outcome:
    """What became of a fault.

    Attributes:
        settled_s: seconds until the server had settled; None if it did not.
        held: connections that were lost with a killed worker, at most.
        replaced_s: seconds until another process served in its slot.
        killed: the pid of that worker.
    """

    settled_s: float | None = None
    held: int = 0
    replaced_s: float | None = None
    killed: int | None = None


@dataclass
class Strike:
    """One fault, from the signal until the server has settled.

    Subclasses say what is done, and what must have come of it.

    Attributes:
        fault: what was planned.
        subject: whom it hits.
        give_up_s: seconds until it is given up as unsettled.
        outcome: what became of it, so far.
        unsettled: why the server has not settled yet.
    """

    fault: Fault
    subject: Subject
    give_up_s: float = GIVE_UP_S
    outcome: Outcome = field(default_factory=Outcome)
    unsettled: str = "it was not looked at"
    _struck: float = 0.0
    _stopped: int | None = None

    def begin(self) -> str:
        """Strike, and say in one line what was done.

        Raises:
            ControlError: the status cannot be read, or there is nobody whom we may signal.
        """
        before = self.subject.look()
        self._struck = time.monotonic()
        return self._strike(before)

    def watch(self) -> bool:
        """Look whether the server has settled. True when the fault is over: settled and waited for, or given up."""
        elapsed = time.monotonic() - self._struck
        if self._stopped is not None:
            if elapsed < self.fault.hold_s:
                return False
            self.undo()
        if self.outcome.settled_s is None:
            try:
                status = self.subject.look()
                self.unsettled = self._missing(status) or self.subject.unsettled(status)
            except control.ControlError as error:
                self.unsettled = str(error)
            if not self.unsettled:
                self.outcome.settled_s = time.monotonic() - self._struck
        if self.outcome.settled_s is None:
            return elapsed >= self.fault.hold_s + self.give_up_s
        return elapsed >= SETTLE_S

    def undo(self) -> None:
        """Continue the process that was stopped, if there is one."""
        pid, self._stopped = self._stopped, None
        if pid is not None:
            with suppress(control.ControlError):  # it is gone
                self.subject.reach.signal(pid, signal.SIGCONT)

    def _strike(self, before: Status) -> str:
        raise NotImplementedError

    def _missing(self, status: Status) -> str:
        """What this fault should have brought about and has not, or ""."""
        raise NotImplementedError

    def _tell(self, number: signal.Signals, before: Status) -> str:
        """Send a signal to the process that takes them."""
        pid = self.subject.front or before.pid
        self.subject.reach.signal(pid, number)
        return f"{number.name.removeprefix('SIG')} to the master (pid {pid})"

    def _stop(self, pid: int) -> None:
        """Stop a process until `undo`."""
        self.subject.reach.signal(pid, signal.SIGSTOP)
        self._stopped = pid


class Reload(Strike):
    """HUP: a new generation takes the place of the old one."""

    def _strike(self, before: Status) -> str:
        self._generation = before.generation
        return f"{self._tell(signal.SIGHUP, before)}: reload, generation {before.generation} served"

    def _missing(self, status: Status) -> str:
        return "" if status.generation > self._generation else f"generation {status.generation} still serves"


class Upgrade(Strike):
    """USR2: a new master and its workers take the place of the old ones, on the same sockets."""

    def _strike(self, before: Status) -> str:
        self._before = before
        return f"{self._tell(signal.SIGUSR2, before)}: upgrade, master pid {before.pid} served"

    def _missing(self, status: Status) -> str:
        before = self._before
        if status.pid == before.pid:
            return f"the master is still pid {status.pid}"
        kept = {worker.pid for worker in before.workers} & {worker.pid for worker in status.workers}
        if kept or status.addresses != before.addresses:
            return "the new master does not serve the same addresses with workers of its own"
        return ""


class Scale(Strike):
    """TTIN and TTOU: one worker more, one fewer."""

    def _strike(self, before: Status) -> str:
        more = self.fault.kind is Kind.TTIN
        self.subject.workers = max(1, (self.subject.workers or 0) + (1 if more else -1))
        told = self._tell(signal.SIGTTIN if more else signal.SIGTTOU, before)
        return f"{told}: one worker {'more' if more else 'fewer'}, {self.subject.workers} from now on"

    def _missing(self, status: Status) -> str:
        del status  # the count is looked at after every fault
        return ""


class StopWorker(Strike):
    """STOP of the worker that holds the most connections, CONT after a while: it must survive."""

    def _strike(self, before: Status) -> str:
        self._victim = _busiest(before)
        self._stop(self._victim.pid)
        held = f"it held {self._victim.connections} connections"
        return f"STOP of worker {self._victim.slot} (pid {self._victim.pid}) for {self.fault.hold_s:.1f} s: {held}"

    def _missing(self, status: Status) -> str:
        pid = self._victim.pid
        return "" if status.worker(pid) in status.serving else f"worker pid {pid} was stopped and serves no longer"


class StopMaster(Strike):
    """STOP of the serving master, CONT after a while: its workers serve on, and none is killed when it wakes."""

    def _strike(self, before: Status) -> str:
        self._before = before
        self._stop(before.pid)
        return f"STOP of the master (pid {before.pid}) for {self.fault.hold_s:.1f} s"

    def _missing(self, status: Status) -> str:
        same = status.pid == self._before.pid
        gone = {worker.pid for worker in self._before.serving} - {worker.pid for worker in status.serving}
        if same and not gone:
            return ""
        return f"worker pid {min(gone)} does not serve any more" if same else f"the master is pid {status.pid} now"


class KillWorker(Strike):
    """KILL of the worker that holds the most connections."""

    def _strike(self, before: Status) -> str:
        """Kill a worker and say what it held.

        The victim is stopped first, its figures are read while it can no longer change them, then it is killed: what it
        held is exact, and not what it held a moment before.
        """
        target = _busiest(before)
        try:
            self._stop(target.pid)
            frozen = self.subject.look()
        finally:
            self._struck = time.monotonic()
            self._stopped = None
            self.subject.reach.signal(target.pid, signal.SIGKILL)
        victim = self._victim = frozen.worker(target.pid) or target
        self.outcome.held, self.outcome.killed = victim.connections, victim.pid
        return f"kill -9 of worker {victim.slot} (pid {victim.pid}): it held {victim.connections} connections"

    def _missing(self, status: Status) -> str:
        successor = status.in_slot(self._victim.slot)
        if successor is None or successor.pid == self._victim.pid:
            return f"nobody serves in slot {self._victim.slot}"
        if self.outcome.replaced_s is None:
            self.outcome.replaced_s = time.monotonic() - self._struck
        return ""


STRIKES: dict[Kind, type[Strike]] = {
    Kind.HUP: Reload,
    Kind.USR2: Upgrade,
    Kind.TTIN: Scale,
    Kind.TTOU: Scale,
    Kind.STOP: StopWorker,
    Kind.MASTER_STOP: StopMaster,
    Kind.KILL: KillWorker,
}


def _busiest(status: Status) -> Worker:
    target = max(status.serving, key=lambda worker: worker.connections, default=None)
    if target is None:
        raise control.ControlError("no worker to signal: the status names none that serves")
    return target
