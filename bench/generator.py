"""How much load one processor makes with the kit, beside a bare Locust user: `python -m bench.generator`.

The bare user has a raw socket, sends bytes of the same sizes and takes whatever comes for the answer: it checks
nothing, and nothing bounds its waiting. Each user runs in a process of its own, in turn with the others, against one
server. What is compared is the load process's own CPU time per request: so the ratio depends little on who else uses
the machine.
"""

from __future__ import annotations

# Locust first: it patches the standard library for gevent.
from locust import User, events, task  # isort: skip

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

from locust.argument_parser import get_parser
from locust.env import Environment

from bench import measure
from prefork_loadtest.collector import install
from prefork_loadtest.entry import USERS
from prefork_loadtest.options import UserOptions
from prefork_loadtest.proof import SIZES
from prefork_loadtest.server import OwnServer, StartFailed
from prefork_wire import parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUNDS: Final = 5
SECONDS: Final = 2.0
CROWD: Final = 50
LEAST: Final = 0.8
"""What is asked of the kit's users: so much of the bare one's load per core."""
WARM_S: Final = 0.3
START_S: Final = 30.0
SERVE: Final = ("prefork_loadtest.targets:lines", "--workers", "1", "--bind", "127.0.0.1:0")
FAILED: Final = 1


class BareUser(User):
    """What one writes first: a socket, a request, whatever comes back, an event."""

    def on_start(self) -> None:
        """Connect."""
        address = parse_address(self.host or "")
        self._requests = cycle([b"x" * (size - 1) + b"\n" for size in SIZES])
        self._sock = socket.create_connection((address.host, int(address.port)))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @task
    def echo(self) -> None:
        """One request and its answer."""
        start = time.perf_counter()
        self._sock.sendall(next(self._requests))
        reply = self._sock.recv(65536)
        self.environment.events.request.fire(
            request_type="TCP",
            name="bare",
            response_time=(time.perf_counter() - start) * 1000,
            response_length=len(reply),
            exception=None,
            context={},
        )


BARE: Final = "bare"
LOADS: Final[dict[str, type[User]]] = {
    BARE: BareUser,
    "raw socket": USERS["RawEchoUser"],
    "client package": USERS["EchoUser"],
}
"""Who makes the load, by the name that is printed."""


def load(kind: str, host: str, seconds: float) -> dict[str, float]:
    """Make load in this process, and return its requests, its CPU seconds and its failures, once all users are there.

    Raises:
        RuntimeError: the users did not all start.
    """
    parser = get_parser(default_config_files=[])
    options = parser.parse_args(["--headless", *UserOptions(think_s=0.0).arguments()], env_vars={})
    environment = Environment(user_classes=[LOADS[kind]], events=events, host=host, parsed_options=options)
    runner = environment.create_local_runner()
    collector = install(environment)

    def count() -> int:
        return runner.stats.total.num_requests if kind == BARE else collector.ledger.finished

    runner.start(CROWD, CROWD)
    deadline = time.monotonic() + START_S
    while runner.user_count < CROWD or count() < CROWD:
        if time.monotonic() >= deadline:
            raise RuntimeError(f"{CROWD} users did not start within {START_S:g} s")
        time.sleep(0.05)
    time.sleep(WARM_S)
    requests, cpu_s = count(), time.process_time()
    time.sleep(seconds)
    found = {"requests": float(count() - requests), "cpu_s": time.process_time() - cpu_s}
    failed = runner.stats.total.num_failures if kind == BARE else collector.ledger.total().failed
    runner.quit()
    return found | {"failed": float(failed)}


def compare(host: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """CPU microseconds per request, of each kind of user in each round.

    Raises:
        subprocess.CalledProcessError: a load process broke.
    """
    costs: dict[str, list[float]] = {kind: [] for kind in LOADS}
    for _ in range(rounds):
        for kind, found in costs.items():
            command = [sys.executable, "-m", "bench.generator", "--load", kind, "--host", host]
            done = subprocess.run(  # noqa: S603 - ourselves
                [*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
            figures = json.loads(done.stdout)
            if figures["failed"]:
                raise subprocess.CalledProcessError(FAILED, command, f"{figures['failed']:g} requests failed")
            found.append(1e6 * figures["cpu_s"] / figures["requests"])
    return costs


def ratios(costs: Mapping[str, list[float]]) -> dict[str, float]:
    """Load per core of each kind, in loads of the bare user: the median over the rounds, each round by itself."""
    bare = costs[BARE]
    return {
        kind: statistics.median(b / cost for b, cost in zip(bare, found, strict=True)) for kind, found in costs.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a line for each, and return the exit code: 1 if it is less than what is asked, or nothing."""
    parser = argparse.ArgumentParser(prog="python -m bench.generator", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each kind of user (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measure (default: %(default)s)")
    parser.add_argument("--load", choices=[*LOADS], help=argparse.SUPPRESS)
    parser.add_argument("--host", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.load:
        sys.stdout.write(json.dumps(load(options.load, options.host, options.seconds)))
        return 0
    servers, loads = measure.sides()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            measure.on(servers),
            OwnServer(SERVE, Path(folder) / "control", Path(folder) / "log") as server,
            measure.on(loads),
        ):
            costs = compare(server.address, options.rounds, options.seconds)
    except (StartFailed, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return FAILED
    found = ratios(costs)
    for kind, each in costs.items():
        spread = f"{statistics.median(each):5.1f} us of CPU per request ({min(each):.1f} to {max(each):.1f})"
        sys.stdout.write(f"{kind:<16} {spread}   {found[kind]:.2f} of the bare user's load per core\n")
    return 0 if all(ratio >= LEAST for ratio in found.values()) else FAILED


if __name__ == "__main__":
    sys.exit(main())
