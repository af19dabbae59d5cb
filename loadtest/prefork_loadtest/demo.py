"""The whole project in one command: a server, the smoke load, a worker killed in the middle, a verdict.

It starts `prefork serve echo` as anyone would, on a free loopback port, and stops it with TERM when the run is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefork_loadtest import hosted
from prefork_loadtest.faultplan import Fault, Kind
from prefork_loadtest.plan import Plan
from prefork_loadtest.scenarios import SMOKE
from prefork_loadtest.tally import Unit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    plan = Plan(
        scenario=SMOKE,
        host="",
        users=SMOKE.users,
        rate=SMOKE.rate,
        duration_s=SMOKE.duration_s,
        faults=(Fault(SMOKE.duration_s / 2, Kind.KILL),),
        unit=Unit.BYTES,
    )
    return hosted.run(plan, ("echo", "--workers", str(WORKERS)), log, say)
