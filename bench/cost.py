"""What a request costs: CPU time of the server in microseconds, against a baseline that is measured beside it.

Each server is measured next to the baseline, before it in one round and after it in the next; its ratio is that of the
two neighbours. It owns the tables of costs, with throughput and latency, which come from the same runs.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench import load as loads
from bench import measure
from bench.load import FORMS, Answers, Load, LoadError
from bench.measure import spread
from bench.needs import MissingError
from bench.running import Running
from bench.servers import CONVERSATION, CREATE_SERVER, ECHO_LIMIT, ECHOES, LIMIT, REPLY, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.plan import Plan, Run
    from bench.results import Cost, Table

PREFORKED: Final = 4
CONNECTIONS: Final = FORMS[loads.KEEP_ALIVE].connections
OVERHEAD_S: Final = 0.08
"""What a measure takes beside its time under load."""

FORMS_PREFORKED: Final = {name: load.by(PREFORKED) if load.keep else load for name, load in FORMS.items()}
"""With as many connections as processes where they stay open: those that serve one at a time serve no more at once."""

FORMS_ACCEPT: Final = {"one after the other": Load(1, keep=False), "50 at once": Load(keep=False)}
FORMS_ECHO: Final = {name: Load(load.connections, load.pipeline, load.keep, echo=True) for name, load in FORMS.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """One measure: microseconds of CPU per request, and what the load saw."""

    us: float
    answers: Answers


def sample(running: Running, requests: int, load: Load) -> Sample:
    """Let a server answer so many requests.

    Raises:
        LoadError: it did not.
    """
    measure.wait_for_room(load.connections if load.keep else requests)
    if not load.keep:
        time.sleep(max(0.0, running.ports_free - time.monotonic()))
    before = running.cpu()
    answers = loads.run(running.port, requests, load)
    running.ports_free = time.monotonic() + measure.PORT_S
    return Sample((running.cpu() - before) / requests * 1e6, answers)


def requests_for(running: Running, seconds: float, load: Load) -> int:
    """Return how many requests take about so many seconds. This also warms the server up.

    Raises:
        LoadError: it does not answer.
    """
    few = 20 * load.pipeline * (load.connections if load.keep else 10)
    if load.frame:
        few = max(2 * load.connections, min(few, 2**25 // load.frame))
    rate = loads.run(running.port, few, load).per_second
    many = max(few, round(rate * seconds))
    return many if load.keep else min(many, measure.ports_at_once())


def shares(running: Running, requests: int, load: Load) -> list[int]:
    """Return how many of a load's connections each process has, the fewest first.

    Raises:
        LoadError: the server did not answer.
    """
    before = measure.sockets(running.session)
    most: dict[int, int] = {}
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(loads.run, running.port, requests, load)
        while not answering.done():
            now = {pid: max(0, held - before.get(pid, 0)) for pid, held in measure.sockets(running.session).items()}
            most = max(most, now, key=lambda held: sum(held.values()))
            wait([answering], timeout=0.05)
        answering.result()
    return sorted(most.values())[-running.processes :]


@dataclass
class Account:
    """What was measured of one server in one form, round by round."""

    samples: list[Sample] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def cost(self) -> Cost:
        """Return medians and spread."""
        answers = [one.answers for one in self.samples]
        return {
            "us": spread([one.us for one in self.samples]),
            "ratio": spread(self.ratios),
            "per_second": statistics.median(one.per_second for one in answers),
            "p50_ms": statistics.median(one.p50_ms for one in answers),
            "p99_ms": statistics.median(one.p99_ms for one in answers),
            "p999_ms": statistics.median(one.p999_ms for one in answers),
        }


def neighbours(servers: Sequence[Server], round_number: int) -> Iterator[tuple[Server, ...]]:
    """Yield the servers two by two: the baseline runs between the two. Every other round turns them about."""
    for at in range(0, len(servers), 2):
        pair = tuple(servers[at : at + 2])
        yield pair[::-1] if round_number % 2 else pair


class Comparison:
    """Servers that run beside a baseline, and are measured in several forms.

    A server that fails is noted and left out; without the baseline there is no comparison.
    """

    def __init__(self, run: Run, name: str, baseline: Server, servers: Sequence[Server]) -> None:
        self._run = run
        self._name = name
        self._baseline = baseline
        self._servers = list(servers)
        self._running: dict[str, Running] = {}
        self._requests: dict[tuple[str, str], int] = {}
        self._accounts: dict[str, dict[str, Account]] = defaultdict(lambda: defaultdict(Account))

    def table(self, forms: Mapping[str, Load], rounds: int, processes: int = 1) -> Table:
        """Start all of them, measure, and return the table.

        Args:
            forms: how to ask, by name.
            rounds: how often.
            processes: how many each has; those that serve one connection at a time have as many as there are
                connections if it is 1.

        Raises:
            MissingError: the baseline does not start.
            LoadError: the baseline does not answer.
        """
        with ExitStack() as stack:
            for server in (self._baseline, *self._servers):
                self._start(stack, server, processes)
            for number in range(rounds):
                for form, load in forms.items():
                    self._round(number, form, load)
                    self._run.say(f"{self._name}: round {number + 1} of {rounds}, {form}")
            table: Table = {
                server.name: {
                    "processes": self._running[server.name].processes,
                    "forms": {form: account.cost() for form, account in self._accounts[server.name].items()},
                }
                for server in (self._baseline, *self._servers)
            }
            if processes > 1:
                self._see_shares(table, forms)
        return table

    def _see_shares(self, table: Table, forms: Mapping[str, Load]) -> None:
        form, load = next((form, load) for form, load in forms.items() if load.keep)
        for name, row in table.items():
            a_second = round(self._requests[name, form] / self._run.plan.seconds)
            row["shares"] = shares(self._running[name], a_second, load)

    def _start(self, stack: ExitStack, server: Server, processes: int) -> None:
        many = CONNECTIONS if server.one_each and processes == 1 else processes
        try:
            self._running[server.name] = stack.enter_context(Running(server, self._run.kit, many))
        except MissingError as error:
            if server is self._baseline:
                raise
            self._leave_out(server, error)

    def _leave_out(self, server: Server, error: MissingError | LoadError) -> None:
        self._run.leave_out(server, self._name, error)
        self._servers.remove(server)
        self._accounts.pop(server.name, None)

    def _round(self, number: int, form: str, load: Load) -> None:
        for pair in list(neighbours(self._servers, number)):
            first = self._sample(pair[0], form, load)
            base = self._sample(self._baseline, form, load)
            last = self._sample(pair[1], form, load) if len(pair) > 1 else None
            if base is None:
                raise LoadError(f"{self._baseline.name} does not answer")
            for server, one in zip(pair, (first, last), strict=False):
                if one is not None:
                    account = self._accounts[server.name][form]
                    account.samples.append(one)
                    account.ratios.append(one.us / base.us)
            account = self._accounts[self._baseline.name][form]
            account.samples.append(base)
            account.ratios.append(1.0)

    def _sample(self, server: Server, form: str, load: Load) -> Sample | None:
        running, key = self._running[server.name], (server.name, form)
        try:
            if key not in self._requests:
                self._requests[key] = requests_for(running, self._run.plan.seconds, load)
            return sample(running, self._requests[key], load)
        except LoadError as error:
            if server is not self._baseline:
                self._leave_out(server, error)
            return None


def costs(run: Run) -> Table:
    """Return the table of everybody with one process, or with one for each connection where a process serves one."""
    servers = [REPLY, CONVERSATION, *run.peers]
    return Comparison(run, "cost", LIMIT, servers).table(FORMS, run.plan.rounds)


def preforked(run: Run) -> Table:
    """Return the table of those that can be preforked and serve many at once, with the same number of processes."""
    servers = [REPLY, CONVERSATION, *(one for one in run.peers if not one.not_preforked and not one.one_each)]
    return Comparison(run, "preforked", LIMIT, servers).table(FORMS, run.plan.other_rounds, PREFORKED)


def one_each(run: Run) -> Table:
    """Return the table of those that can be preforked and serve one connection in each process, beside ours."""
    servers = [REPLY, CONVERSATION, *(one for one in run.peers if not one.not_preforked and one.one_each)]
    return Comparison(run, "one each", LIMIT, servers).table(FORMS_PREFORKED, run.plan.other_rounds, PREFORKED)


def echoes(run: Run) -> Table:
    """Return the table of those that give back what they were sent."""
    servers = [server for server in ECHOES if server.name not in run.missing]
    return Comparison(run, "echo", ECHO_LIMIT, servers).table(FORMS_ECHO, run.plan.other_rounds)


def accepting(run: Run) -> Table:
    """Return what accepting by ourselves costs, against the event loop's own `create_server`."""
    return Comparison(run, "accept", CREATE_SERVER, [REPLY]).table(FORMS_ACCEPT, run.plan.rounds)


def expected_s(servers: int, forms: int, rounds: int, plan: Plan, each_s: float = 0.5) -> float:
    """Return about how many seconds a table takes: every two servers have the baseline between them."""
    measures = (servers + servers / 2) * forms * rounds + servers * forms * 0.5
    return measures * (plan.seconds + OVERHEAD_S) + servers * each_s
