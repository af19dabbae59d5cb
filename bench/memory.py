"""What a server takes: memory alone, for each idle connection, for each further process; and how soon it answers.

Memory is the proportional set size of all its processes (proc(5), smaps_rollup): shared pages are counted once.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from bench import load as loads
from bench import measure
from bench.load import EACH, FORMS, LoadError
from bench.needs import MissingError
from bench.running import Running, environment
from bench.servers import CONVERSATION, LIMIT, REPLY, Server

if TYPE_CHECKING:
    from bench.plan import Plan, Run
    from bench.results import Memory, Spread

FURTHER: Final = 4
"""Processes beyond the first."""

WARM_UP: Final = 1_000
"""Connections before anything is measured: what is made once, and shared until it is written to, is not counted."""

PROGRAMS: Final = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "prefork --version": (sys.executable, "-m", "prefork", "--version"),
}


def everybody(run: Run) -> dict[str, Memory]:
    """Return what each server takes, by its name."""
    found = {}
    for server in (LIMIT, REPLY, CONVERSATION, *run.peers):
        try:
            found[server.name] = _of(server, run)
        except (MissingError, LoadError, OSError, TimeoutError) as error:
            run.leave_out(server, "memory", error)
        else:
            run.say(f"memory: {server.name}")
    return found


def _of(server: Server, run: Run) -> Memory:
    held = run.plan.held_processes if server.forks_each else run.plan.held
    _compile(server, run)
    with Running(server, run.kit, connections=held) as running:
        alone = _at_rest(running)
        connection = None if server.one_each else _of_a_connection(running, held)
    worker = None
    if not server.not_preforked:
        with Running(server, run.kit, 1 + FURTHER) as running:
            worker = (_at_rest(running) - alone) / FURTHER
    return {
        "alone_kib": alone,
        "connection_kib": worker if server.one_each else connection,
        "connections": 1 + FURTHER if server.one_each else held,
        "worker_kib": worker,
    }


def _compile(server: Server, run: Run) -> None:
    """Start a server for nothing, so that what it compiles is kept before anything is measured."""
    with Running(server, run.kit):
        pass


def _at_rest(running: Running) -> float:
    """Return the memory of a server that has worked and is idle."""
    loads.run(running.port, WARM_UP * running.processes, FORMS[EACH].by(2 * running.processes))
    measure.settle(running.session)
    return running.pss_kib()


def _of_a_connection(running: Running, held: int) -> float:
    before = running.pss_kib()
    with loads.held(running.port, held):
        measure.settle(running.session)
        return (running.pss_kib() - before) / held


def starts(run: Run) -> dict[str, Spread]:
    """Return the seconds until a server has answered for the first time, and until two programs have ended."""
    found: dict[str, Spread] = {}
    with measure.on(measure.sides()[0]):
        for name, command in PROGRAMS.items():
            _seconds_of(command, run)
            found[name] = measure.spread([_seconds_of(command, run) for _ in range(run.plan.rounds)])
    for server in (LIMIT, REPLY, CONVERSATION, *run.peers):
        seconds = []
        try:
            _compile(server, run)
            for _ in range(run.plan.other_rounds):
                with Running(server, run.kit) as running:
                    seconds.append(running.start_s)
        except MissingError as error:
            run.leave_out(server, "start", error)
        else:
            found[server.name] = measure.spread(seconds)
            run.say(f"start: {server.name} {statistics.median(seconds):.3f} s")
    return found


def _seconds_of(command: tuple[str, ...], run: Run) -> float:
    begin = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, env=environment(run.kit))  # noqa: S603 - the table above
    return time.perf_counter() - begin


def expected_s(plan: Plan, servers: int) -> float:
    """Return about how many seconds both measures take."""
    return servers * (3.0 + plan.held / 2_000 + plan.other_rounds * 0.6)
