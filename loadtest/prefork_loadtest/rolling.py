"""Replicas behind a balancer, told to stop and started again in turn, while the load goes through the balancer.

It starts and ends what it needs; the load is the engine's. Each restart is a fault of its own in the books: what fails
from the order to stop until the replica is given requests again belongs to it.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gevent

from prefork_loadtest import control, engine
from prefork_loadtest.balancer import Balancer, free_port
from prefork_loadtest.gates import RUN
from prefork_loadtest.ledger import ROLLING, STEADY
from prefork_loadtest.server import OwnServer, StartFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gevent import Greenlet

    from prefork_loadtest.plan import Plan
    from prefork_loadtest.record import Record

LEAD_S = 1.0
"""Seconds of undisturbed load before the first restart, and between two."""
ALONE_S = 1.0
"""Seconds that the others carry the load, after one has ended."""
BACK_S = 30.0
"""Seconds from the start of a replica until the balancer must have given it a request."""
STOP_DELAY_S = 1.0
"""Seconds that a replica serves on after it has said that it is not ready any more: several checks of the balancer."""
POLL_S = 0.1


class Replica:
    """One server that keeps its address over its restarts, with a log for each life."""

    def __init__(self, name: str, serve: Sequence[str], folder: Path, log: Path) -> None:
        self.name = name
        self.exit_codes: list[int | None] = []
        self.errors: list[str] = []
        self._serve = serve
        self._control = folder / f"{name}.sock"
        self._log = log
        self._lives = 0
        self._server: OwnServer | None = None
        self.place = "127.0.0.1:0"
        self.ready_port = free_port()

    def start(self) -> None:
        """Start it, at the address that it had before.

        Raises:
            StartFailed: it did not get ready.
        """
        self._lives += 1
        log = self._log.with_name(f"{self._log.stem}-{self.name}-{self._lives}{self._log.suffix}")
        # Told to stop it says "not ready" first: what the balancer sends to a port that closes would be lost.
        ready = ("--metrics", f"127.0.0.1:{self.ready_port}", "--stop-delay", f"{STOP_DELAY_S:g}")
        server = OwnServer((*self._serve, *ready, "--bind", self.place), self._control, log)
        server.__enter__()
        self._server, self.place = server, server.address.removeprefix("tcp://")

    def stop(self) -> None:
        """Tell it to stop, wait until it has, and note how it ended."""
        server, self._server = self._server, None
        if server is None:
            return
        server.__exit__(None, None, None)
        self.exit_codes.append(server.exit_code)
        self.errors += server.errors(())

    def is_asked(self) -> bool:
        """Whether it has answered a request in this life."""
        try:
            totals = control.ask(self._control).totals
        except control.ControlError:
            return False
        return totals is not None and totals.requests > 0


class Restarts:
    """What the engine strikes in a rolling restart: an `engine.Striker`."""

    def __init__(self, replicas: Sequence[Replica], enter: Callable[[str], None], mark: Callable[[str], None]) -> None:
        self._left = list(replicas)
        self._enter = enter
        self._mark = mark
        self._active: Greenlet[[Replica], float] | None = None
        self._next_s = LEAD_S
        self._settled: list[float] = []
        self._broken = ""
        self.killed: frozenset[int] = frozenset()

    @property
    def is_active(self) -> bool:
        """Whether a replica is being restarted."""
        return self._active is not None

    @property
    def is_done(self) -> bool:
        """Whether all were, or one did not come back."""
        return self._active is None and (self.is_broken or not self._left)

    @property
    def is_broken(self) -> bool:
        """Whether one did not come back."""
        return bool(self._broken)

    def tick(self, into_s: float) -> None:
        """Restart the next one if it is time to, or see whether the last one is back."""
        if self._active is not None:
            if self._active.ready():
                self._over(self._active, into_s)
        elif not self.is_done and into_s >= self._next_s:
            self._enter(ROLLING)
            self._active = gevent.spawn(self._restart, self._left.pop(0))

    def _restart(self, replica: Replica) -> float:
        """Restart one, and return the seconds that it took.

        Raises:
            StartFailed: it did not come back.
        """
        began = time.monotonic()
        self._mark(f"TERM of {replica.name}")
        replica.stop()
        took = time.monotonic() - began
        self._mark(f"{replica.name} ended with exit code {replica.exit_codes[-1]} after {took:.2f} s")
        time.sleep(ALONE_S)
        replica.start()
        deadline = time.monotonic() + BACK_S
        while not replica.is_asked():
            if time.monotonic() >= deadline:
                raise StartFailed(f"{replica.name} was given no request within {BACK_S:g} s")
            time.sleep(POLL_S)
        self._mark(f"{replica.name} is given requests again")
        return time.monotonic() - began

    def _over(self, active: Greenlet[[Replica], float], into_s: float) -> None:
        self._active, self._next_s = None, into_s + LEAD_S
        try:
            self._settled.append(active.get())
        except StartFailed as error:
            self._broken = str(error)
            self._mark(self._broken)
        self._enter(STEADY)

    def end(self, *, look: bool) -> None:
        """Break off what is under way."""
        del look
        if self._active is not None:
            self._active.kill()

    def troubles(self) -> list[str]:
        """What was planned and did not take place, one line."""
        left = len(self._left) + (self._active is not None)
        return [f"{left} replicas were not restarted: the run ended before"] if left and not self._broken else []

    def figures(self) -> dict[str, dict[str, float]]:
        """What gates may ask of the restarts."""
        figures = {"struck": float(len(self._settled) + self.is_broken), "unsettled": float(self.is_broken)}
        if self._settled:
            figures["settled_s"] = max(self._settled)
        return {ROLLING: figures}


def run(plan: Plan, log: Path, say: Callable[[str], None]) -> Record:
    """Start the replicas and the balancer, carry out a plan, and stop them.

    Args:
        plan: what to do; `host` is filled in here.
        log: the name of the logs: each life of each replica, and the balancer, have their own beside it.
        say: takes one line of progress at a time.

    Raises:
        StartFailed: a replica or the balancer did not come up.
    """
    own = plan.scenario.own
    if own is None:
        raise StartFailed(f"scenario {plan.scenario.name}: it names no server to start")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prefork-loadtest-")))
        replicas = [Replica(f"replica{n}", own.arguments, folder, log) for n in range(1, own.replicas + 1)]
        for replica in replicas:
            stack.callback(replica.stop)
            replica.start()
        places = [(replica.place, replica.ready_port) for replica in replicas]
        balancer = stack.enter_context(Balancer(places, folder, log.with_name(f"haproxy{log.suffix}")))
        before = " and ".join(place for place, _ in places)
        say(f"HAProxy at {balancer.address} before {before}; their logs are beside {log}")
        whole = replace(plan, host=balancer.address)
        record = engine.run(whole, say, lambda enter, mark: Restarts(replicas, enter, mark))
    end = record.faults.setdefault(RUN, {})
    errors = [line for replica in replicas for line in replica.errors]
    for line in errors[:10]:
        say(f"a replica's log has an error: {line}")
    end["log_errors"] = float(len(errors))
    codes = [code for replica in replicas for code in replica.exit_codes]
    end["exit_code"] = float(max(1 if code is None else abs(code) for code in codes))
    return record
