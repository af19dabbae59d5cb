"""One run from its first look at the server to its record: ramp, steady load, faults, drain.

It owns the stages and their deadlines. What it sees goes into the record; it judges nothing. Whatever breaks off a run
leaves `finished` false in the record, and no verdict on such a record can be "passed".
"""

from __future__ import annotations

import logging
import signal
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import gevent
from locust import events
from locust.argument_parser import get_parser
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner

from prefork_client import Client, ClientError
from prefork_loadtest import control, machine
from prefork_loadtest.balance import Balance
from prefork_loadtest.census import Census
from prefork_loadtest.collector import DRAIN_S, Collector, install
from prefork_loadtest.entry import USERS
from prefork_loadtest.faults import Mark, Subject
from prefork_loadtest.gates import RUN
from prefork_loadtest.injector import Injector
from prefork_loadtest.ledger import DRAIN, RAMP, STEADY
from prefork_loadtest.options import UserOptions
from prefork_loadtest.plan import CONTROL_INTERVAL_S
from prefork_loadtest.progress import Progress
from prefork_loadtest.record import Record, Span
from prefork_loadtest.tally import Tally
from prefork_loadtest.verdict import LOST_WORKER
from prefork_loadtest.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prefork_loadtest.control import Status
    from prefork_loadtest.injector import Striker
    from prefork_loadtest.plan import Plan

    Strikes = Callable[[Callable[[str], None], Callable[[str], None]], Striker]

TICK_S = 0.05
COUNT_S = 3.0
"""Seconds that the server may take to count what it has answered."""
LEAST_LOOKS = 12
"""Fewer looks at the server's memory tell nothing of its growth."""
START_S = 60.0
"""Seconds in which the load workers must have come, and all users must run."""
SPAWN_RATE = 100.0
"""Users per second: Locust warns above this, for each of its processes."""

_log = logging.getLogger(__name__)


class RunBroken(Exception):  # noqa: N818 - a stage says so to end the run; the text is the reason in the verdict
    """The run cannot go on; what it has is kept."""


def run(plan: Plan, say: Callable[[str], None], strikes: Strikes | None = None) -> Record:
    """Carry out a plan and return the record of it.

    Args:
        plan: what to do, already checked.
        say: takes one line of progress at a time.
        strikes: makes what strikes, given what begins a phase and what notes a mark; else the plan's faults.
    """
    record = _record(plan)
    with _interruptions() as interrupted:
        try:
            Run(plan, record, say, interrupted, strikes).carry_out()
        except RunBroken as reason:
            record.troubles.append(str(reason))
        except Exception as error:  # noqa: BLE001 - whatever it was, the record says so and the verdict is not 0
            _log.exception("the load kit itself broke")
            record.troubles.append(f"the load kit itself broke: {type(error).__name__}")
        record.interrupted = bool(interrupted)
    return record


def unavailable(plan: Plan, reason: str) -> Record:
    """The record of a plan that cannot be carried out here, and why."""
    record = _record(plan)
    record.unavailable = reason
    return record


def _record(plan: Plan) -> Record:
    return Record(
        scenario=plan.scenario.name,
        target=plan.host,
        started_at=time.time(),
        settings=plan.settings(),
        machine=machine.describe(),
        gates=[gate.text for gate in plan.gates],
        least_requests=plan.least_requests,
    )


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Collect INT and TERM in a list instead of dying of them; a second one ends the process as it would have.

    A first one behind the run is let pass: Compose ends a verdict's container as soon as one of the load workers' is
    gone, and what the run has shown is still to be judged.
    """
    seen: list[int] = []
    handlers: list[Any] = []

    def note(number: int) -> None:
        seen.append(number)
        for handler in handlers:
            handler.cancel()
        _die_of_the_next()

    def let_pass(*_: object) -> None:
        _die_of_the_next()
        _log.warning("the run is over, and the verdict comes; the next signal ends this at once")

    handlers += [gevent.signal_handler(number, note, number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield seen
    finally:
        for handler in handlers:
            handler.cancel()
        if not seen:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, let_pass)


def _die_of_the_next() -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)


class Run:
    """The stages of one run. Each may raise `RunBroken`; the drain comes after all of them, whatever happened."""

    def __init__(
        self,
        plan: Plan,
        record: Record,
        say: Callable[[str], None],
        interrupted: list[int],
        strikes: Strikes | None = None,
    ) -> None:
        self._plan = plan
        self._strikes = strikes
        self._record = record
        self._say = say
        self._interrupted = interrupted
        self._balance = Balance()
        self._tally = Tally(plan.unit)
        self._memory: list[int] = []
        self._workers = Workers(0, 0)
        self._crew: frozenset[str] = frozenset()
        self._start = time.monotonic()
        self._now = plan.scenario.stages[0]
        self._looked_at = self._begin = 0.0
        self._injector: Striker | None = None

    def carry_out(self) -> None:
        """The whole run."""
        if not self._reach():
            return
        self._look(must=True)
        self._prove()
        with ExitStack() as stack:
            environment = self._environment()
            collector = self._prepare(environment, stack)
            try:
                self._ramp(environment, collector)
                self._load(collector)
            finally:
                self._drain(collector)
        self._record.finished = not self._interrupted

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def _mark(self, text: str) -> None:
        self._record.marks.append(Mark(self._elapsed, text))
        self._say(f"{self._elapsed:6.1f} s  {text}")

    def _reach(self) -> bool:
        """Wait for the server's first connection."""
        deadline = time.monotonic() + self._plan.wait_s
        while True:
            try:
                with Client(self._plan.host, connect_timeout=max(0.1, deadline - time.monotonic())):
                    self._record.reached = True
                    return True
            except ClientError as error:
                if time.monotonic() >= deadline or self._interrupted:
                    self._record.troubles.append(str(error))
                    return False
            time.sleep(0.1)

    def _environment(self) -> Environment:
        plan = self._plan
        crews = plan.scenario.crew_sizes(plan.users)
        for name, size in crews.items():
            USERS[name].fixed_count = size
        # No configuration file and no LOCUST_* variable has a say: the scenario and the command line are the settings.
        parser = get_parser(default_config_files=[])
        users = UserOptions(plan.user_rate, plan.scenario.think_s, plan.reply_timeout_s, plan.probe, plan.tls_ca)
        return Environment(
            user_classes=[USERS[name] for name in crews],
            events=events,
            host=plan.host,
            stop_timeout=plan.reply_timeout_s + DRAIN_S,
            parsed_options=parser.parse_args(["--headless", *users.arguments()], env_vars={}),
        )

    def _prepare(self, environment: Environment, stack: ExitStack) -> Collector:
        """Make the runner and have its workers connected."""
        plan = self._plan
        if not plan.workers and not plan.external_workers:
            environment.create_local_runner()
            return install(environment)
        host, port = plan.bind if plan.external_workers else ("127.0.0.1", 0)
        runner = environment.create_master_runner(host, port)
        collector = install(environment)
        self._workers = stack.enter_context(Workers(plan.workers, runner.server.port, plan.scenario.file))
        number = plan.workers or plan.external_workers
        self._await(lambda: len(runner.clients.ready) >= number, f"{number} load workers did not come")
        self._crew = frozenset(client.id for client in runner.clients.ready)
        self._say(f"{len(self._crew)} load workers connected")
        return collector

    def _await(self, predicate: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + START_S
        while not predicate():
            if self._interrupted:
                raise RunBroken("interrupted before the load was complete")
            if time.monotonic() >= deadline:
                raise RunBroken(f"{otherwise} within {START_S:g} s")
            time.sleep(TICK_S)

    def _enter(self, collector: Collector, phase: str, pace: float = 1.0) -> None:
        """Close the span of one phase and begin the next."""
        spans = self._record.spans
        if spans:
            spans[-1].end_s = self._elapsed
        if not collector.enter(phase, pace):
            raise RunBroken(f"{LOST_WORKER}: it did not follow into the next phase")
        spans.append(Span(phase, self._elapsed, self._elapsed))

    def _ramp(self, environment: Environment, collector: Collector) -> None:
        """Start all users."""
        plan = self._plan
        runner = collector.runner
        complete: list[int] = []
        spawned = environment.events.spawning_complete
        spawned.add_listener(lambda user_count, **_: complete.append(user_count))  # type: ignore[no-untyped-call]
        self._record.started_at, self._start = time.time(), time.monotonic()
        self._record.spans.append(Span(RAMP, 0.0, 0.0))
        self._say(f"{plan.users} users on {plan.host} for {plan.duration_s:g} s")
        fastest = min(SPAWN_RATE * max(1, plan.workers or plan.external_workers), plan.users)
        rate = plan.users / plan.scenario.ramp_s if plan.scenario.ramp_s else fastest
        runner.start(plan.users, min(rate, fastest))
        self._await(lambda: sum(complete[-1:]) >= plan.users, "the users did not all start")

    def _load(self, collector: Collector) -> None:
        """The load, complete, in its stages."""
        stages = self._plan.scenario.stages
        parts = sum(stage.part for stage in stages)
        self._injector = injector = self._faults(collector)
        self._begin = self._elapsed
        progress = Progress(collector.ledger, self._plan.users, self._say)
        end = 0.0
        for number, stage in enumerate(stages, 1):
            if len(stages) > 1:
                self._mark(f"{stage.phase}, at pace {stage.pace:g}")
            self._now = stage
            self._enter(collector, stage.phase, stage.pace)
            end += self._plan.duration_s * stage.part / parts
            self._stage(collector, progress, end, is_last=number == len(stages))
            if self._interrupted or (injector is not None and injector.is_broken):
                break

    def _stage(self, collector: Collector, progress: Progress, end_s: float, *, is_last: bool) -> None:
        """Look, strike and report until a stage is over, or somebody interrupts; in the last, until all is done."""
        injector = self._injector
        while not self._interrupted and not (injector is not None and injector.is_broken):
            into = self._elapsed - self._begin
            if into >= end_s and (not is_last or injector is None or injector.is_done):
                break
            time.sleep(TICK_S)
            self._check_load(collector)
            progress.tick(self._elapsed)
            if injector is None or not injector.is_active:  # a fault looks for itself, and the master may be stopped
                self._look()
            if injector is not None:
                self._strike(injector, into)

    def _check_load(self, collector: Collector) -> None:
        """Fail as soon as a load worker is gone: from then on the load is not what was asked for."""
        runner = collector.runner
        if not isinstance(runner, MasterRunner):
            return
        # by their ids: a new one in the place of one that is lost does not make up for what went with that
        present = {client.id for client in runner.clients.values() if client.state != STATE_MISSING}
        if self._workers.lost() or not self._crew <= present:
            raise RunBroken(f"{LOST_WORKER} in the middle of the run")

    def _look(self, *, must: bool = False) -> None:
        """Read the server's status, now and then."""
        reach = self._plan.reach
        if reach is None or (self._elapsed - self._looked_at < CONTROL_INTERVAL_S and not must):
            return
        self._looked_at = self._elapsed
        try:
            self._see(reach.ask())
        except control.ControlError as error:
            raise RunBroken(str(error)) from error

    def _prove(self) -> None:
        """Find out before the load whether a fault would reach the server that is loaded."""
        reach = self._plan.reach
        if not self._plan.faults or reach is None:
            return
        try:
            reach.prove(reach.ask())
        except control.ControlError as error:
            raise RunBroken(str(error)) from error

    def _see(self, status: Status) -> None:
        """Take in one status."""
        self._balance.see(status)
        self._tally.see(status)
        self._memory.append(status.rss_bytes)

    def _count(self, collector: Collector) -> None:
        """Compare the server's count with the load's; give it a moment, for it counts what it has answered already."""
        record, tally = self._record, self._tally
        deadline = time.monotonic() + COUNT_S
        while tally.served is not None and not tally.agrees(collector.ledger) and time.monotonic() < deadline:
            time.sleep(TICK_S)
            self._look(must=True)
        trouble = tally.trouble(collector.ledger)
        record.troubles += [trouble] if trouble else []
        record.load["counted by the server"] = tally.describe(collector.ledger)
        end = record.faults.setdefault(RUN, {})
        if tally.served is not None:
            end |= {"sent": tally.bounds(collector.ledger)[1], "served": tally.served}
        if len(self._memory) >= LEAST_LOOKS:
            # Workers grow into their size with their first requests: the first third is not held against them.
            third = len(self._memory) // 3
            parts = (self._memory[third : 2 * third], self._memory[2 * third :])
            start, last = (sum(part) / len(part) for part in parts)
            end |= {"rss_start": start, "rss_end": last, "rss_growth": last / start - 1 if start else 0.0}

    def _faults(self, collector: Collector) -> Striker | None:
        """What strikes the planned faults; None without any."""
        plan = self._plan

        def enter(phase: str) -> None:
            self._enter(collector, self._now.phase if phase == STEADY else phase, self._now.pace)

        if self._strikes is not None:
            return self._strikes(enter, self._mark)
        if not plan.faults or plan.reach is None:
            return None
        subject = Subject(plan.reach, Census(plan.reach, plan.front), plan.front, self._see)
        return Injector(
            plan.faults,
            subject,
            enter,
            self._mark,
            lambda phase: collector.ledger.total(phase).failed,
            plan.settle_s,
        )

    def _strike(self, injector: Striker, into_s: float) -> None:
        """Strike or watch, as it is time to."""
        try:
            injector.tick(into_s)
        except control.ControlError as error:
            raise RunBroken(f"the fault was not injected: {error}") from error

    def _end_faults(self, injector: Striker) -> None:
        """Let nothing last beyond the users, and write down what became of the faults."""
        try:
            injector.end(look=not self._interrupted)
        except control.ControlError as error:
            self._record.troubles.append(str(error))
        self._record.faults |= injector.figures()
        self._record.troubles += injector.troubles()
        self._record.killed = sorted(injector.killed)

    def _drain(self, collector: Collector) -> None:
        """Let every user finish its request, take the last samples, and write down what was seen."""
        record = self._record
        if self._injector is not None:
            self._end_faults(self._injector)
        if record.spans:
            record.spans[-1].end_s = self._elapsed
            record.spans.append(Span(DRAIN, self._elapsed, self._elapsed))
        try:
            collector.drain()
            collector.runner.quit()
            self._look(must=True)
            self._count(collector)
        finally:
            if record.spans:
                record.spans[-1].end_s = self._elapsed
            record.ledger = collector.ledger.encode()
            record.troubles += collector.troubles()
            record.shares = self._balance.shares()
            record.load = collector.describe() | record.load
