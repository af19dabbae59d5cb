"""Faults one after another, against a server that is only a script of statuses and a list of signals."""

from __future__ import annotations

import signal
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from prefork_loadtest import faults, injector
from prefork_loadtest.census import Census
from prefork_loadtest.control import ControlError, Status, Worker
from prefork_loadtest.faultplan import Fault, Kind
from prefork_loadtest.faults import SETTLE_S, Subject
from prefork_loadtest.injector import REST_S, Injector

if TYPE_CHECKING:
    from collections.abc import Callable

MASTER, FRONT = 2**22 + 1, 2**22 + 2  # above what a kernel gives away
ERRORS = {Kind.KILL: 3}


def worker(slot: int, pid: int, connections: int = 1) -> Worker:
    return Worker(slot, pid, 1, "serving", connections, 0, 0, 0)


RUNNING = Status("running", "0", MASTER, 1, ("127.0.0.1:7",), (worker(0, MASTER + 10), worker(1, MASTER + 11, 5)))


class Scene:
    """A server by script: time stands still until it is told to pass, signals are only noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.status: Status | None = RUNNING
        self.sent: list[tuple[int, signal.Signals]] = []
        self.phases: list[str] = []
        self.marks: list[str] = []
        self.failed: dict[str, int] = {}
        self.on_signal: Callable[[], None] = lambda: None
        for module in (faults, injector):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))

    # As of `reach.Reach`: without processes.

    def ask(self) -> Status:
        if self.status is None:
            raise ControlError("no answer")
        return self.status

    def prove(self, status: Status) -> None:
        pass

    def stat(self, pid: int) -> str | None:
        del pid
        return None

    def pids(self) -> list[int]:
        return []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def signal(self, pid: int, number: signal.Signals) -> None:
        self.sent.append((pid, number))
        self.on_signal()

    def injector(self, *planned: Fault, front: int | None = None) -> Injector:
        subject = Subject(self, Census(self), front)
        return Injector(planned, subject, self.phases.append, self.marks.append, lambda p: self.failed.get(p, 0), 10.0)

    def run(self, faults: Injector, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end and not faults.is_done:
            faults.tick(self.now - 100.0)
            self.now += 0.25


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_a_fault_waits_for_its_time_and_ends_when_the_server_has_settled(scene: Scene) -> None:
    struck = scene.injector(Fault(2.0, Kind.HUP))
    scene.run(struck, 1.75)
    assert scene.sent == []
    scene.run(struck, 3.0)
    assert scene.sent == [(MASTER, signal.SIGHUP)]
    assert struck.is_active
    scene.status = replace(RUNNING, generation=2)
    scene.run(struck, 5.0)
    assert struck.is_done
    assert scene.phases == ["reload", "steady"]
    assert "hup settled after" in scene.marks[1]
    assert struck.figures()["reload"]["unsettled"] == 0
    assert struck.troubles() == []


def test_the_front_is_signalled_where_it_is_known(scene: Scene) -> None:
    scene.run(scene.injector(Fault(0.0, Kind.USR2), front=FRONT), 1.0)
    assert scene.sent == [(FRONT, signal.SIGUSR2)]


@pytest.mark.parametrize("kind", [Kind.HUP, Kind.USR2, Kind.TTIN, Kind.KILL])
def test_a_server_that_does_not_settle_is_given_up_and_named_and_nothing_more_is_done(scene: Scene, kind: Kind) -> None:
    struck = scene.injector(Fault(0.0, kind), Fault(4.0, Kind.HUP))
    scene.run(struck, 60.0)
    assert struck.is_broken
    assert struck.figures()[kind.phase]["unsettled"] == 1
    assert f"{kind.value} NOT settled within 10 s: " in scene.marks[-1]
    assert signal.SIGHUP not in {number for _, number in scene.sent} - {signal.SIGHUP if kind is Kind.HUP else None}
    assert "reload" not in struck.figures() or kind is Kind.HUP


def test_a_late_fault_leaves_the_next_one_a_rest(scene: Scene) -> None:
    struck = scene.injector(Fault(0.0, Kind.HUP), Fault(1.0, Kind.HUP))
    scene.run(struck, 0.5)
    scene.status = replace(RUNNING, generation=2)
    times: list[float] = []
    scene.on_signal = lambda: times.append(scene.now)
    scene.run(struck, SETTLE_S + REST_S + 1.0)
    assert times
    assert times[0] >= 100.0 + SETTLE_S + REST_S


def test_a_fault_that_is_due_says_once_what_it_waits_for(scene: Scene) -> None:
    struck = scene.injector(Fault(0.0, Kind.HUP), Fault(2.0, Kind.KILL), Fault(30.0, Kind.HUP))
    scene.run(struck, 1.75)
    assert len(scene.marks) == 1  # not before its time
    scene.run(struck, 5.0)
    assert scene.marks[1:] == ["kill is due, and waits until hup is over"]
    scene.status = replace(RUNNING, generation=2)
    scene.run(struck, 10.0)
    assert sum("waits" in mark for mark in scene.marks) == 1
    assert signal.SIGKILL in {number for _, number in scene.sent}


def test_a_stopped_worker_is_the_busiest_and_is_continued_in_time(scene: Scene) -> None:
    struck = scene.injector(Fault(0.0, Kind.STOP, 2.0))
    scene.run(struck, 1.0)
    assert scene.sent == [(MASTER + 11, signal.SIGSTOP)]
    scene.run(struck, 9.0)
    assert scene.sent[1:] == [(MASTER + 11, signal.SIGCONT)]
    assert struck.figures()["stop"]["unsettled"] == 0


def test_a_stopped_worker_that_was_replaced_has_not_survived(scene: Scene) -> None:
    struck = scene.injector(Fault(0.0, Kind.STOP, 1.0))
    scene.run(struck, 0.5)
    scene.status = replace(RUNNING, workers=(RUNNING.workers[0], worker(1, MASTER + 12)))
    scene.run(struck, 60.0)
    assert struck.is_broken
    assert "serves no longer" in scene.marks[-1]


def test_a_stopped_master_may_not_answer_and_is_continued_when_the_run_breaks_off(scene: Scene) -> None:
    struck = scene.injector(Fault(0.0, Kind.MASTER_STOP, 5.0))
    scene.run(struck, 0.5)
    scene.status = None
    scene.run(struck, 2.0)
    assert scene.sent == [(MASTER, signal.SIGSTOP)]
    struck.end(look=False)
    assert scene.sent[1:] == [(MASTER, signal.SIGCONT)]
    assert "1 planned faults were not injected" in struck.troubles()[0]


def test_scaling_moves_the_target_and_both_ways_end_where_it_began(scene: Scene) -> None:
    struck = scene.injector(Fault(0.0, Kind.TTIN), Fault(4.0, Kind.TTOU))
    scene.run(struck, 1.0)
    scene.status = replace(RUNNING, workers=(*RUNNING.workers, worker(2, MASTER + 12)))
    scene.run(struck, 3.5)
    assert struck.figures()["ttin"]["unsettled"] == 0
    scene.status = RUNNING
    scene.run(struck, 30.0)
    struck.end(look=True)
    assert struck.figures()["ttou"]["unsettled"] == 0
    assert struck.figures()["run"]["workers"] == struck.figures()["run"]["target"] == 2


def test_each_kill_answers_for_its_own_losses(scene: Scene) -> None:
    struck = scene.injector(Fault(0.0, Kind.KILL), Fault(6.0, Kind.KILL))
    scene.run(struck, 0.5)
    assert scene.sent == [(MASTER + 11, signal.SIGSTOP), (MASTER + 11, signal.SIGKILL)]
    scene.failed["kill"] = 1
    scene.status = replace(RUNNING, workers=(RUNNING.workers[0], worker(1, MASTER + 12, 2)))
    scene.run(struck, 6.0)
    scene.failed["kill"] = 4  # three more, where the second worker held two
    scene.status = replace(RUNNING, workers=(RUNNING.workers[0], worker(1, MASTER + 13)))
    scene.run(struck, 30.0)
    figures = struck.figures()["kill"]
    assert (figures["struck"], figures["in_flight"], figures["excess"]) == (2, 7, 1)
    assert struck.killed == {MASTER + 11, MASTER + 12}


def test_a_process_that_cannot_be_signalled_breaks_the_run_off(scene: Scene) -> None:
    def refuse() -> None:
        raise ControlError("SIGHUP cannot be sent")

    scene.on_signal = refuse
    with pytest.raises(ControlError, match="cannot be sent"):
        scene.run(scene.injector(Fault(0.0, Kind.HUP)), 1.0)
