"""The processes of a server, counted from outside: who is there that should not be.

It reads what proc(5) says and signals nobody. Where there is no /proc nothing is found, and `is_possible` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prefork_loadtest import agent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefork_loadtest.control import Status


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `pid` and `started` together never mean another one."""

    pid: int
    parent: int
    session: int
    state: str
    started: int

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended and nobody has asked how."""
        return self.state in {"Z", "X"}


@dataclass(frozen=True, slots=True)
class Remains:
    """Processes that should not be there, by pid."""

    zombies: tuple[int, ...] = ()
    orphans: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.zombies or self.orphans)

    def __str__(self) -> str:
        found = [("zombie", self.zombies), ("left over", self.orphans)]
        return ", ".join(f"{name}: pid {' '.join(map(str, pids))}" for name, pids in found if pids)


class Processes(Protocol):
    """The processes of one process namespace."""

    def stat(self, pid: int) -> str | None:
        """What proc(5) says of a process in `stat`; None if there is none, or nobody to say it."""
        ...

    def pids(self) -> list[int]:
        """The ids of all that can be seen."""
        ...


class Local:
    """Those of this machine, as this process sees them. Where there is no /proc there are none."""

    def stat(self, pid: int) -> str | None:
        """What proc(5) says of a process; see `Processes`."""
        return agent.stat(pid)

    def pids(self) -> list[int]:
        """The ids of all that can be seen."""
        return agent.pids()


def look(processes: Processes, pid: int) -> Process | None:
    """The process of a pid, None if there is none."""
    text = processes.stat(pid)
    if text is None:
        return None
    # The name stands in parentheses and may hold some itself: fields are counted from the last one on.
    fields = text.rpartition(")")[2].split()
    return Process(pid, parent=int(fields[1]), session=int(fields[3]), state=fields[0], started=int(fields[19]))


class Census:
    """The processes of one server over a run: all that its status ever named, and all of its session.

    Args:
        processes: where they are.
        front: the process that was started first, if it was started here, as the leader of a session.
    """

    def __init__(self, processes: Processes, front: int | None = None) -> None:
        self._processes = processes
        self._front = front
        self._known: dict[int, int] = {}

    @property
    def is_possible(self) -> bool:
        """Whether processes can be counted at all."""
        return self._look(1) is not None

    def _look(self, pid: int) -> Process | None:
        return look(self._processes, pid)

    def see(self, status: Status) -> None:
        """Remember everybody that a status names."""
        for pid in (status.pid, *(worker.pid for worker in status.workers)):
            process = self._look(pid)
            if process is not None:
                self._known[pid] = process.started

    def remains(self, status: Status | None) -> Remains:
        """Who is there and not in the status: what has been there before, or is a child of a master, or of nobody here.

        Processes that the service itself has started are children of workers, and its own affair.

        Args:
            status: the server's, settled; None when it has ended and nobody of it may be left.
        """
        masters: set[int] = set()
        family: set[int] = set()
        if status is not None:
            masters = {status.pid} | self._fronts(status.pid)
            family = masters | {worker.pid for worker in status.workers}
        zombies, orphans = [], []
        for process in self._suspects():
            if process.is_zombie:
                zombies.append(process.pid)
            elif process.pid not in family and (
                self._known.get(process.pid) == process.started
                or process.parent in masters
                or process.parent not in family
            ):
                orphans.append(process.pid)
        return Remains(tuple(sorted(zombies)), tuple(sorted(orphans)))

    def _fronts(self, master: int) -> set[int]:
        """Who may stand in front of the serving master after an upgrade: the first process, or its parent if seen."""
        if self._front is not None:
            return {self._front}
        serving = self._look(master)
        return {serving.parent} & self._known.keys() if serving else set()

    def _suspects(self) -> Iterator[Process]:
        """All of the session, where it is known, and all that were seen and are still there."""
        if self._front is not None:
            everybody = map(self._look, self._processes.pids())
            yield from (process for process in everybody if process is not None and process.session == self._front)
            return
        for pid, started in self._known.items():
            process = self._look(pid)
            if process is not None and process.started == started:
                yield process
