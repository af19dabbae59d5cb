"""How the cost of a request grows: with open connections, workers, the size of a frame, requests on the way.

For C, a `@reply` and a `@conversation`; and what a handler that blocks does to the others in its process.
"""

from __future__ import annotations

import statistics
import threading
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from bench import load as loads
from bench import measure
from bench.cost import OVERHEAD_S, Sample, requests_for, sample
from bench.load import Load, LoadError, connect
from bench.measure import spread
from bench.running import Running
from bench.servers import CONVERSATION, LIMIT, REPLY, Server, limit, ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.plan import Plan, Run
    from bench.results import Blocking, Curve

GROWING: Final = (LIMIT, REPLY, CONVERSATION)
SPARE_FILES: Final = 500
SLEEPY: Final = ours("sleepy", "prefork_pong:sleepy", "--model", "threads", "--threads", "16")
BLOCKED_MS: Final = 100.0
BESIDE: Final = 4
"""Connections beside the one that blocks."""

Samples = dict[str, dict[float, list[Sample]]]


def _curve(samples: Samples) -> Curve:
    return {
        name: [
            {
                "x": x,
                "us": spread([one.us for one in found]),
                "per_second": statistics.median(one.answers.per_second for one in found),
            }
            for x, found in sorted(points.items())
        ]
        for name, points in samples.items()
    }


def _none() -> Samples:
    return defaultdict(lambda: defaultdict(list))


def by_connections(run: Run) -> Curve:
    """Return the cost with more and more open connections, 50 of which (or all, if fewer) are busy."""
    samples = _none()
    allowed = measure.files_at_most() - SPARE_FILES
    opened = [count for count in run.plan.opened if count <= allowed]
    if len(opened) < len(run.plan.opened):
        run.missing["growth, connections"] = (
            f"at most {opened[-1]} of {run.plan.opened[-1]}: a process may have {allowed + SPARE_FILES} open files; "
            "raise `ulimit -n`"
        )
    for number in range(run.plan.other_rounds):
        for server in GROWING:
            with Running(server, run.kit, connections=opened[-1]) as running, ExitStack() as stack:
                idle = 0
                for count in opened:
                    load = Load(min(count, 50))
                    more = count - load.connections - idle
                    stack.enter_context(loads.held(running.port, max(more, 0)))
                    idle += max(more, 0)
                    requests = requests_for(running, run.plan.seconds, load)
                    samples[server.name][count].append(sample(running, requests, load))
        run.say(f"growth: connections, round {number + 1} of {run.plan.other_rounds}")
    return _curve(samples)


def by_workers(run: Run) -> Curve:
    """Return the cost with more and more worker processes, on the servers' CPUs."""
    load = Load(threads=len(measure.sides()[1]))
    return _each_alone(run, "workers", run.plan.workers, lambda server, count: (server, count, load))


def by_frame(run: Run) -> Curve:
    """Return the cost with larger and larger frames, which come back."""

    def setting(server: Server, size: int) -> tuple[Server, int, Load]:
        made = {
            LIMIT.name: limit(str(size)),
            REPLY.name: _framed(REPLY, f"prefork_pong:pong_{size}", size),
            CONVERSATION.name: _framed(CONVERSATION, f"prefork_pong:talk_{size}", size),
        }
        return made[server.name], 1, Load(8, frame=size)

    return _each_alone(run, "frames", run.plan.frames, setting)


def _framed(server: Server, target: str, size: int) -> Server:
    # redis-benchmark asks for the CONFIG first, which is no frame; it takes an end of file for an answer, which comes
    # sooner by these; a dialogue that has never had a whole frame goes by the first.
    soon = ("--first-byte-timeout", "0.3", "--frame-timeout", "0.3")
    return ours(server.name, target, *soon, ask=b"x" * size, answer=b"x" * size)


def _each_alone(
    run: Run, name: str, values: tuple[int, ...], setting: Callable[[Server, int], tuple[Server, int, Load]]
) -> Curve:
    """Measure each server at each value; `setting` gives how it is started, with how many processes, and the load."""
    samples = _none()
    for value in values:
        with ExitStack() as stack:
            servers = []
            for server in GROWING:
                started, processes, load = setting(server, value)
                running = stack.enter_context(Running(started, run.kit, processes))
                servers.append((running, requests_for(running, run.plan.seconds, load), load))
            for _ in range(run.plan.other_rounds):
                for running, requests, load in servers:
                    samples[running.server.name][value].append(sample(running, requests, load))
        run.say(f"growth: {name}, {value}")
    return _curve(samples)


def by_pipelining(run: Run) -> Curve:
    """Return the cost with more and more requests on the way at once."""
    samples = _none()
    with ExitStack() as stack:
        servers = [stack.enter_context(Running(server, run.kit)) for server in GROWING]
        for depth in run.plan.pipelined:
            load = Load(pipeline=depth)
            requests = [requests_for(running, run.plan.seconds, load) for running in servers]
            for _ in range(run.plan.other_rounds):
                for running, count in zip(servers, requests, strict=True):
                    samples[running.server.name][depth].append(sample(running, count, load))
            run.say(f"growth: pipelining, {depth}")
    return _curve(samples)


def curves(run: Run) -> dict[str, Curve]:
    """Return all of them."""
    return {
        "connections": by_connections(run),
        "workers": by_workers(run),
        "frames": by_frame(run),
        "pipelining": by_pipelining(run),
    }


def blocking(run: Run) -> Blocking:
    """Return the p99 of connections beside one whose handler blocks again and again, in one threads worker."""
    load = Load(BESIDE)
    beside, alone = [], []
    with Running(SLEEPY, run.kit) as running:
        requests = requests_for(running, 2 * run.plan.seconds, load)
        for _ in range(run.plan.other_rounds):
            alone.append(sample(running, requests, load).answers.p99_ms)
            with _asleep(running.port):
                beside.append(sample(running, requests, load).answers.p99_ms)
    run.say(f"growth: p99 beside a handler that blocks {statistics.median(beside):.2f} ms")
    return {"blocked_ms": BLOCKED_MS, "p99_ms": spread(beside), "p99_alone_ms": spread(alone)}


@contextmanager
def _asleep(port: int) -> Iterator[None]:
    """Have one connection's handler block, again and again, and see that it was answered."""
    over, answered = threading.Event(), []

    def ask() -> None:
        with connect(port) as sock:
            while not over.is_set():
                sock.sendall(b"SLEEP\r\n")
                answered.append(sock.recv(64))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if not answered or set(answered) != {loads.PONG}:
        raise LoadError("the handler that blocks did not answer")


def expected_s(plan: Plan) -> float:
    """Return about how many seconds all of it takes."""
    each = (plan.seconds + OVERHEAD_S) * len(GROWING)
    points = len(plan.opened) + len(plan.workers) + len(plan.frames) + len(plan.pipelined)
    opening = plan.other_rounds * len(GROWING) * (plan.opened[-1] / 8_000 + 1)
    starting = (len(plan.workers) + len(plan.frames)) * 3.0
    two = plan.other_rounds * 2 * (2 * plan.seconds + OVERHEAD_S)
    return points * plan.other_rounds * each + points * each / 3 + opening + starting + two
