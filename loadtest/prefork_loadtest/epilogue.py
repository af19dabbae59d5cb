"""The last words of Locust's own command line: a verdict on what it did, as Locust exits 0 after no request at all.

The one gate is that nothing failed. Interrupting is how such a run is ended by hand, so it does not make it invalid.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from locust.runners import WorkerRunner

from prefork_loadtest import machine, summary
from prefork_loadtest.collector import Collector
from prefork_loadtest.ledger import RAMP
from prefork_loadtest.record import Record, Span

if TYPE_CHECKING:
    from locust.env import Environment

GATE = "run.failed == 0"


def conclude(environment: Environment) -> None:
    """End the test, print the verdict and, without a web page, make it the exit code. Workers have nothing to say."""
    collector = Collector.of(environment)
    if isinstance(collector.runner, WorkerRunner):
        return
    # Locust tells its listeners before it ends the test: the samples must be complete first.
    collector.runner.quit()
    record = Record(
        scenario="locust",
        target=environment.host or "",
        started_at=collector.started_at,
        settings={},
        machine=machine.describe(),
        gates=[GATE],
        reached=collector.ledger.connections > 0 or not collector.ledger.begun,
        finished=True,
        troubles=collector.troubles(),
        spans=[Span(RAMP, 0.0, max(0.0, collector.ended_at - collector.started_at))],
        load=collector.describe(),
        ledger=collector.ledger.encode(),
    )
    verdict = record.verdict()
    sys.stdout.write("\n" + "\n".join(summary.lines(record, verdict)) + "\n")
    sys.stdout.flush()
    options = environment.parsed_options
    if options is not None and options.headless:
        environment.process_exit_code = int(verdict.code)
