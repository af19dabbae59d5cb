"""Faults, struck from the host while the load runs, and the timeline that says when.

A fault reads the control socket and signals a process; it never touches the load. What it knows of its own damage
(how many connections the victim held, how long its replacement took) becomes figures that gates can name.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefork_loadtest import control

if TYPE_CHECKING:
    from pathlib import Path

SETTLE_S = 2.0
"""A fault's phase lasts this long at least: every kept connection it broke is used, and found broken, within it."""
GIVE_UP_S = 15.0
"""A fault's phase ends here, replaced or not; a missing `replaced_s` fails its gate."""


@dataclass
class Mark:
    """One thing that happened, `at_s` seconds into the run."""

    at_s: float
    text: str


@dataclass
class KillWorker:
    """SIGKILL of the server worker that holds the most connections.

    Attributes:
        control_path: the server's control socket.
        at_s: when, in seconds after the load is complete.
        victim: who it was, with its last figures; None until it was struck.
        replaced_s: seconds until another process served in its slot; None until then.
    """

    control_path: Path
    at_s: float
    victim: control.Worker | None = None
    replaced_s: float | None = None
    _struck: float = field(default=0.0, repr=False)

    def strike(self) -> control.Worker:
        """Kill a worker and say what it held.

        The victim is stopped first, its figures are read while it can no longer change them, then it is killed: what it
        held is exact, and not what it held a moment before.

        Raises:
            control.ControlError: the status cannot be read, no worker serves, or the process is not ours to kill.
        """
        before = control.ask(self.control_path)
        target = max(before.workers, key=lambda worker: worker.connections, default=None)
        if target is None:
            raise control.ControlError("no worker to kill: the status names none")
        try:
            os.kill(target.pid, signal.SIGSTOP)
            frozen = control.ask(self.control_path)
        except OSError as error:
            raise control.ControlError(f"worker process cannot be killed: {error.strerror}") from error
        finally:
            self._struck = time.monotonic()
            _kill(target.pid)
        self.victim = next((worker for worker in frozen.workers if worker.pid == target.pid), target)
        return self.victim

    def watch(self) -> bool:
        """Look for the replacement. True when the fault is over: replaced and settled, or given up.

        Raises:
            control.ControlError: the status cannot be read.
        """
        if self.victim is None:
            return False
        elapsed = time.monotonic() - self._struck
        if self.replaced_s is None:
            successor = control.ask(self.control_path).in_slot(self.victim.slot)
            if successor is not None and successor.pid != self.victim.pid:
                self.replaced_s = time.monotonic() - self._struck
        return elapsed >= (GIVE_UP_S if self.replaced_s is None else SETTLE_S)

    def figures(self) -> dict[str, float]:
        """What gates may ask: `in_flight`, connections the victim held; `replaced_s`, if it was replaced."""
        if self.victim is None:
            return {}
        figures = {"in_flight": float(self.victim.connections)}
        if self.replaced_s is not None:
            figures["replaced_s"] = self.replaced_s
        return figures


def _kill(pid: int) -> None:
    # Gone already: the status had named it, so its loss is what is measured.
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
