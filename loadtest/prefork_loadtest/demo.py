"""The whole project in one command: a server, the smoke load, a worker killed in the middle, a verdict.

It starts `prefork serve echo` as anyone would, on a free loopback port, and stops it with TERM when the run is over.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prefork_loadtest import control, engine
from prefork_loadtest.plan import Plan
from prefork_loadtest.scenarios import SMOKE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prefork_loadtest.record import Record

WORKERS = 2
START_S = 15.0
STOP_S = 40.0
"""Seconds for a graceful stop: longer than the server's own drain timeout, which it must keep."""


class DemoFailed(Exception):  # noqa: N818 - the text is the one line that a person reads
    """The server did not start, so that there is nothing to judge."""


def run(log: Path, say: Callable[[str], None]) -> Record:
    """Start the server, run the smoke scenario with a kill in the middle, stop the server.

    Args:
        log: where the server's log goes.
        say: takes one line of progress at a time.

    Raises:
        DemoFailed: the server did not come up, in one line.
    """
    with tempfile.TemporaryDirectory(prefix="prefork-demo-") as folder:
        path = Path(folder) / "control"
        with _server(path, log) as server:
            address = _ready(server, path, log)
            say(f"prefork serves echo on {address} with {WORKERS} workers (master pid {server.pid})")
            plan = Plan(
                scenario=SMOKE,
                host=f"tcp://{address}",
                users=SMOKE.users,
                rate=SMOKE.rate,
                duration_s=SMOKE.duration_s,
                control=path,
                kill_at_s=SMOKE.duration_s / 2,
            )
            plan.check()
            record = engine.run(plan, say)
        if server.returncode != 0:
            record.troubles.append(f"the server did not stop in order: exit code {server.returncode}, see {log}")
    return record


@contextmanager
def _server(path: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server process, stopped with TERM in the end, and with KILL if it does not obey."""
    command = [
        *(sys.executable, "-m", "prefork", "serve", "echo", "--bind", "127.0.0.1:0"),
        *("--workers", str(WORKERS), "--control", str(path)),
    ]
    with (
        log.open("wb") as output,
        # A group of its own: an interrupt from the keyboard ends the run first, and then the server in order.
        subprocess.Popen(command, stdout=output, stderr=output, process_group=0) as server,  # noqa: S603 - our own words
    ):
        try:
            yield server
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()


def _ready(server: subprocess.Popen[bytes], path: Path, log: Path) -> str:
    """The address of the server, once all of its workers serve."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            status = control.ask(path)
        except control.ControlError:
            pass  # not there yet
        else:
            if sum(worker.state == "serving" for worker in status.workers) == WORKERS and status.addresses:
                return status.addresses[0]
        time.sleep(0.05)
    ending = "did not get ready" if server.poll() is None else f"ended with exit code {server.returncode}"
    raise DemoFailed(f"the server {ending}; its log is {log}")
