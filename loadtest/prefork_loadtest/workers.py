"""The Locust worker processes that a run starts itself: found when they die, and gone when the run is over."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from prefork_loadtest import entry

if TYPE_CHECKING:
    from types import TracebackType

LEAVE_S = 10.0
"""Seconds that a worker may take to end once its master has told it to."""


class Workers:
    """A context manager around `number` processes, each `locust --worker` of the master at `port` on loopback.

    Args:
        number: how many.
        port: where their master listens.
        file: the Locust file with their users; None for the kit's own.
    """

    def __init__(self, number: int, port: int, file: Path | None = None) -> None:
        self._command = [
            *(sys.executable, "-m", "locust", "-f", str((file or Path(entry.__file__)).resolve()), "--worker"),
            *("--master-host", "127.0.0.1", "--master-port", str(port), "--loglevel", "ERROR"),
        ]
        self._number = number
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        # A group of their own: an interrupt from the keyboard is for the master, which then ends them in order.
        self._processes = [
            subprocess.Popen(self._command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - our own words
            for _ in range(self._number)
        ]
        return self

    def lost(self) -> int:
        """How many have ended, whatever the reason."""
        return sum(process.poll() is not None for process in self._processes)

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        deadline = time.monotonic() + LEAVE_S
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
