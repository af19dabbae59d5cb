"""What load one processor makes with the kit, beside a bare Locust user with a raw socket: `python -m bench.generator`.

The bare user sends bytes of the same sizes and takes whatever comes for the answer: it checks nothing, and nothing bounds
its waiting. Each user runs in a process of its own, in turn, against one server. What is compared is requests per second
of the load process's own CPU time, so that the ratio does not depend on who else uses the machine.
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
from typing import TYPE_CHECKING, Any, Final

from locust.env import Environment

from bench import measure
from prefork_loadtest.collector import install
from prefork_loadtest.entry import USERS
from prefork_loadtest.oracle import RawEchoUser
from prefork_loadtest.options import UserOptions
from prefork_loadtest.proof import SIZES
from prefork_loadtest.server import OwnServer
from prefork_loadtest.users import EchoUser
from prefork_wire import parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS: Final = 5
SECONDS: Final = 3.0
USERS_AT_ONCE: Final = 20
LEAST: Final = 0.8
"""What is asked of the kit's users, in loads of the bare one."""


class BareUser(User):
    """What one writes first: a socket, a request, whatever comes back, an event."""

    def on_start(self) -> None:
        """Connect."""
        address = parse_address(self.host or "")
        self._requests = cycle([b"x" * (size - 1) + b"\n" for size in SIZES])
        self._sock = socket.create_connection((address.host, address.port))  # type: ignore[arg-type]
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


LOADS: Final[dict[str, type[User]]] = {"bare": BareUser, "client": EchoUser, "oracle": RawEchoUser}
"""What is compared, by the name that is printed."""


def load(kind: str, host: str, seconds: float) -> dict[str, float]:
    """Make load in this process, and return requests and CPU seconds of the time when all users were there."""
    from locust.argument_parser import get_parser

    parser = get_parser(default_config_files=[])
    options = parser.parse_args(["--headless", *UserOptions(think_s=0.0).arguments()], env_vars={})
    environment = Environment(user_classes=[LOADS[kind]], events=events, host=host, parsed_options=options)
    runner = environment.create_local_runner()
    collector = install(environment)
    ready: list[int] = []
    environment.events.spawning_complete.add_listener(lambda user_count, **_: ready.append(user_count))
    runner.start(USERS_AT_ONCE, USERS_AT_ONCE)
    while not ready:
        time.sleep(0.05)
    time.sleep(0.3)

    def count() -> int:
        return runner.stats.total.num_requests if kind == "bare" else collector.ledger.finished

    before, cpu = count(), time.process_time()
    time.sleep(seconds)
    found = {"requests": count() - before, "cpu_s": time.process_time() - cpu}
    runner.quit()
    failed = 0 if kind == "bare" else collector.ledger.total().failed
    return found | {"failed": failed}


if __name__ == "__main__":
    if sys.argv[1] == "--load":
        print(json.dumps(load(sys.argv[2], sys.argv[3], float(sys.argv[4]))))
        sys.exit()
    with tempfile.TemporaryDirectory() as folder, OwnServer(
        ("prefork_loadtest.targets:lines", "--workers", "1", "--bind", "127.0.0.1:0"), Path(folder) / "c", Path(folder) / "log"
    ) as server:
        rows: dict[str, list[float]] = {}
        for _ in range(int(sys.argv[1])):
            for kind in LOADS:
                out = subprocess.run([sys.executable, "-m", "bench.generator", "--load", kind, server.address, sys.argv[2]], capture_output=True, text=True)
                d = json.loads(out.stdout)
                assert not d["failed"], (kind, d, out.stderr)
                rows.setdefault(kind, []).append(1e6 * d["cpu_s"] / d["requests"])
        base = statistics.median(rows["bare"])
        for kind, values in rows.items():
            m = statistics.median(values)
            print(f"{kind:8} {m:6.1f} us CPU/request  {base/m:.2f}x")
