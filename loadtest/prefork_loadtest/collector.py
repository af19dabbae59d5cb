"""Every sample of a Locust run in one ledger, wherever it was taken: in this process or in Locust's workers.

It listens to Locust's events and sends Locust's own messages. Three things are said between master and workers: the
phase (acknowledged, so that a fault is never struck before every worker books to its phase), the drain (users finish
what is in flight; Locust alone would wait half a second and drop the rest) and the final count of each worker, against
which the merged samples are checked.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from locust import runners
from locust.runners import MasterRunner, Runner, WorkerRunner

from prefork_loadtest import locust_stats
from prefork_loadtest.ledger import DRAIN, RAMP, Ledger, LedgerData, Sample
from prefork_loadtest.meter import Meter, MeterData, Readings
from prefork_loadtest.options import UserOptions
from prefork_loadtest.patience import Patience
from prefork_loadtest.sheet import Sheet
from prefork_loadtest.verdict import LOST_WORKER, USER_RAISED

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from gevent import Greenlet
    from locust.env import Environment
    from locust.rpc.protocol import Message

REPORT_INTERVAL_S = 1.0
"""Locust's workers report every 3 s; progress lines want it oftener."""
ACKNOWLEDGE_S = 5.0
DRAIN_S = 3.0
"""Seconds beyond the reply timeout that a user may take to finish its request before the drain aborts it."""
MARGIN_S = 5.0

_KEY = "prefork"
_PHASE, _PHASE_TAKEN, _FINISH, _FINAL = "prefork_phase", "prefork_phase_taken", "prefork_finish", "prefork_final"

_log = logging.getLogger(__name__)
_collectors: WeakKeyDictionary[Environment, Collector] = WeakKeyDictionary()


@dataclass
class LoadProcess:
    """What is known of one process that makes load.

    Attributes:
        merged: samples of it that arrived here.
        final: samples it booked, by its own last word; None until that came.
        phase: the phase it last said to have taken.
        readings: whether it kept up.
    """

    merged: int = 0
    final: int | None = None
    phase: str = ""
    readings: Readings = field(default_factory=Readings)


class Collector:
    """The samples of one Locust environment.

    In a worker process the ledger empties into every report. In a master, or without workers, it holds all.

    Attributes:
        ledger: samples booked here and not yet taken elsewhere.
        phase: what requests are booked to now.
        pace: open-rate users keep this many times their rate now.
        processes: every process that made load, by Locust's client id.
        draining: no request may begin any more.
        started_at: when the test began, in seconds since the epoch; `ended_at` likewise.
        user_errors: exceptions that users raised outside a measurement.
        patience: ends waits that last too long.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.ledger = Ledger(self._tell)
        self.phase = RAMP
        self.pace = 1.0
        self.processes: dict[str, LoadProcess] = {}
        self.user_errors = 0
        self.draining = False
        self.started_at = self.ended_at = time.time()
        self._taken = 0
        self._epoch = time.time() - time.perf_counter()
        self.patience = Patience()
        self._meter = Meter()
        self._beside: list[Greenlet[..., Any]] = []
        events = environment.events
        for event, listener in (
            (events.test_start, self._on_test_start),
            (events.test_stopping, self._on_test_stopping),
            (events.test_stop, self._on_test_stop),
            (events.user_error, self._on_user_error),
            (events.report_to_master, self._on_report_to_master),
            (events.worker_report, self._on_worker_report),
        ):
            event.add_listener(listener)  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, environment: Environment) -> Collector:
        """The collector of an environment: one each, made when first asked for."""
        if environment not in _collectors:
            _collectors[environment] = cls(environment)
        return _collectors[environment]

    @property
    def runner(self) -> Runner:
        """Locust's runner."""
        runner = self._environment.runner
        if runner is None:
            raise RuntimeError("the environment has no runner yet")
        return runner

    def attach(self) -> None:
        """Take part in the messages between master and workers. The runner exists from here on."""
        runner = self.runner
        if isinstance(runner, WorkerRunner):
            runner.register_message(_PHASE, self._take_phase)
            # Concurrent: finishing waits for users, and the worker must go on answering heartbeats meanwhile.
            runner.register_message(_FINISH, self._finish, concurrent=True)
        elif isinstance(runner, MasterRunner):
            runner.register_message(_PHASE_TAKEN, self._on_phase_taken)
            runner.register_message(_FINAL, self._on_final)
        else:
            self.processes["local"] = LoadProcess()

    def book(self, sample: Sample) -> None:
        """Book one finished request."""
        self.ledger.add(sample)

    def sheet(self, name: str, now: float) -> Sheet:
        """A new sheet for right answers of a row that end from now on, in seconds of `perf_counter`."""
        second = int(self.at(now))
        is_told = locust_stats.has_listeners(self._environment)
        sheet = Sheet(name, self.phase, second, second + 1 - self._epoch, is_told=is_told)
        self.ledger.open(sheet)
        return sheet

    def at(self, moment: float) -> float:
        """Seconds since the epoch of a moment of `perf_counter`."""
        return self._epoch + moment

    def _tell(self, sheet: Sheet) -> None:
        if not sheet.is_told:
            locust_stats.tell(self._environment, sheet)

    def late(self, seconds: float) -> None:
        """Note by how much a scheduled request began late though its user had nothing else to do."""
        self._meter.late(seconds)

    # In a master, or without workers.

    def enter(self, phase: str, pace: float = 1.0) -> bool:
        """Begin a phase everywhere. False if a worker did not say within `ACKNOWLEDGE_S` seconds that it follows.

        Args:
            phase: what requests are booked to from now on.
            pace: open-rate users keep this many times their rate in it.
        """
        self._begin_phase(phase, pace)
        runner = self.runner
        if not isinstance(runner, MasterRunner):
            return True
        for process in self.processes.values():
            process.phase = ""
        runner.send_message(_PHASE, {"phase": phase, "pace": pace})
        return _wait_until(lambda: all(process.phase == phase for process in self.processes.values()), ACKNOWLEDGE_S)

    def _begin_phase(self, phase: str, pace: float) -> None:
        self.ledger.close()
        self.phase, self.pace = phase, pace

    def drain(self) -> None:
        """Let what is in flight finish and begin nothing more, everywhere; then the last samples are here.

        A run calls it before it stops Locust, which looks at its own stack when it stops: that takes tens of
        milliseconds, in which no user runs, and would be the slowest request of many a run.
        """
        if self.draining:
            return
        self._begin_phase(DRAIN, self.pace)
        self.draining = True
        patience = self._environment.stop_timeout
        runner = self.runner
        if isinstance(runner, MasterRunner):
            runner.send_message(_FINISH)
            _wait_until(self._all_final, patience + MARGIN_S)
        else:
            _wait_until(lambda: self.ledger.begun == self.ledger.finished, patience)
        self.ledger.post()

    def troubles(self) -> list[str]:
        """What makes the samples incomplete or worthless, one line each. To be asked when the run is over."""
        troubles = []
        silent = sum(process.final is None for process in self.processes.values())
        if silent:
            troubles.append(f"{LOST_WORKER}: {silent} of {len(self.processes)} did not report its end")
        unlike = [process for process in self.processes.values() if process.final not in {None, process.merged}]
        if unlike:
            lost = sum((process.final or 0) - process.merged for process in unlike)
            troubles.append(f"samples lost: {lost} between load workers and master")
        troubles += sorted({line for process in self.processes.values() if (line := process.readings.trouble())})
        if self.user_errors:
            troubles.append(f"{USER_RAISED}: {self.user_errors} times; see the log")
        return troubles

    def describe(self) -> dict[str, str]:
        """How much room each load process had left, to print."""
        return {
            f"load process {number}": str(process.readings) for number, process in enumerate(self.processes.values(), 1)
        }

    def _on_test_start(self, **_: Any) -> None:  # noqa: ANN401 - Locust passes what it likes
        # A web page may start several tests in one process: each has its own books.
        self.ledger = Ledger(self._tell)
        self.started_at = self.ended_at = time.time()
        self._epoch = time.time() - time.perf_counter()
        self.phase, self.pace, self.draining = RAMP, 1.0, False
        self.user_errors = self._taken = 0
        runner = self.runner
        if isinstance(runner, MasterRunner):
            self.processes = {client: LoadProcess() for client in runner.clients}
            return
        self.processes = {client: LoadProcess() for client in self.processes}
        self.patience = Patience()
        self._meter = Meter()
        self._beside = [runner.greenlet.spawn(run) for run in (self._meter.run, self._keep_posting, self.patience.run)]

    def _on_test_stopping(self, **_: Any) -> None:  # noqa: ANN401 - as above
        if not isinstance(self.runner, WorkerRunner):
            self.drain()
        self.draining = True

    def _all_final(self) -> bool:
        runner = self.runner
        clients = runner.clients if isinstance(runner, MasterRunner) else {}
        present = {client for client, node in clients.items() if node.state != runners.STATE_MISSING}
        return all(process.final is not None for client, process in self.processes.items() if client in present)

    def _on_test_stop(self, **_: Any) -> None:  # noqa: ANN401 - as above
        self.ended_at = time.time()
        while self._beside:
            self._beside.pop().kill(block=False)
        local = self.processes.get("local")
        if local is not None:
            local.readings.merge(self._meter.take())
            local.merged = local.final = self.ledger.finished

    def _keep_posting(self) -> NoReturn:
        """Keep Locust's own statistics at most a second behind, whether anybody reads the books or not."""
        while True:
            time.sleep(REPORT_INTERVAL_S)
            self.ledger.post()

    def _on_user_error(self, **_: Any) -> None:  # noqa: ANN401 - as above
        self.user_errors += 1

    def _on_worker_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:  # noqa: ANN401 - as above
        report = data.get(_KEY)
        if report is None:
            return
        ledger: LedgerData = report["ledger"]
        meter: MeterData = report["meter"]
        process = self.processes.setdefault(client_id, LoadProcess())
        process.merged += ledger["finished"]
        process.readings.merge(meter)
        self.user_errors += int(report["user_errors"])
        self.ledger.merge(ledger)

    def _on_phase_taken(self, msg: Message, **_: Any) -> None:  # noqa: ANN401 - as above
        self.processes.setdefault(msg.node_id, LoadProcess()).phase = msg.data["phase"]

    def _on_final(self, msg: Message, **_: Any) -> None:  # noqa: ANN401 - as above
        self.processes.setdefault(msg.node_id, LoadProcess()).final = int(msg.data["finished"])

    # In a worker.

    def _take_phase(self, msg: Message, **_: Any) -> None:  # noqa: ANN401 - as above
        self._begin_phase(msg.data["phase"], float(msg.data["pace"]))
        self.runner.send_message(_PHASE_TAKEN, {"phase": self.phase})

    def _finish(self, **_: Any) -> None:  # noqa: ANN401 - as above
        runner = self.runner
        if not isinstance(runner, WorkerRunner):
            return
        self._begin_phase(DRAIN, self.pace)
        self.draining = True
        runner.stop_users(runner.user_classes_count)
        self.ledger.post()  # Locust's own statistics are told before they are sent
        runner._send_stats()  # noqa: SLF001 - the last samples; Locust itself sends them so when it quits
        runner.send_message(_FINAL, {"finished": self._taken})

    def _on_report_to_master(self, data: dict[str, Any], **_: Any) -> None:  # noqa: ANN401 - as above
        self._taken += self.ledger.finished
        data[_KEY] = {
            "ledger": self.ledger.take(),
            "meter": self._meter.take(),
            "user_errors": self.user_errors,
        }
        self.user_errors = 0


def _wait_until(predicate: Callable[[], bool], deadline_s: float) -> bool:
    deadline = time.monotonic() + deadline_s
    while not predicate():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def install(environment: Environment) -> Collector:
    """Collect every sample of `environment`, whose runner exists. Call it once, when Locust is initialised."""
    runners.WORKER_REPORT_INTERVAL = REPORT_INTERVAL_S
    # Locust's own default kills users in the middle of a request, and the request would count as aborted.
    if not environment.stop_timeout:
        environment.stop_timeout = UserOptions.of(environment).reply_timeout_s + DRAIN_S
    collector = Collector.of(environment)
    collector.attach()
    return collector
