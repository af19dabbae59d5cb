"""The whole project in one command: a server, the smoke load, a worker killed in the middle, a verdict.

It starts `prefork serve echo` as anyone would, on a free loopback port, and stops it with TERM when the run is over.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from prefork_loadtest import engine
from prefork_loadtest.faultplan import Fault, Kind
from prefork_loadtest.plan import Plan
from prefork_loadtest.scenarios import SMOKE
from prefork_loadtest.server import OwnServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork_loadtest.record import Record

WORKERS = 2


def run(log: Path, say: Callable[[str], None]) -> Record:
    """Start the server, run the smoke scenario with a kill in the middle, stop the server.

    Args:
        log: where the server's log goes.
        say: takes one line of progress at a time.

    Raises:
        StartFailed: the server did not come up, in one line.
    """
    arguments = ("echo", "--bind", "127.0.0.1:0", "--workers", str(WORKERS))
    with tempfile.TemporaryDirectory(prefix="prefork-demo-") as folder:
        path = Path(folder) / "control"
        with OwnServer(arguments, path, log) as server:
            say(f"prefork serves echo on {server.address} with {WORKERS} workers (master pid {server.pid})")
            plan = Plan(
                scenario=SMOKE,
                host=server.address,
                users=SMOKE.users,
                rate=SMOKE.rate,
                duration_s=SMOKE.duration_s,
                control=path,
                faults=(Fault(SMOKE.duration_s / 2, Kind.KILL),),
            )
            plan.check()
            record = engine.run(plan, say)
    if server.exit_code != 0:
        record.troubles.append(f"the server did not stop in order: exit code {server.exit_code}, see {log}")
    return record
