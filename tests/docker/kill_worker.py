"""Runs in the server's container: kills a worker, waits until its slot serves again, and prints what it saw as JSON."""

from __future__ import annotations

import json
import os
import signal
import time

from prefork.master.control import ask, find

DEADLINE_S = 10.0


def serving() -> dict[int, int]:
    """Return the process id of each slot whose worker serves."""
    rows = ask(find(), 5.0, command="status")["workers"]
    return {row["slot"]: row["pid"] for row in rows if row["state"] == "serving"}


before = serving()
slot, victim = next(iter(before.items()))
os.kill(victim, signal.SIGKILL)
start = time.monotonic()
while (after := serving()).get(slot, victim) == victim and time.monotonic() - start < DEADLINE_S:
    time.sleep(0.01)
print(  # noqa: T201 - the test reads it
    json.dumps({"slot": slot, "seconds": time.monotonic() - start, "before": before, "after": after})
)
