"""A worker's post: what it is given at its fork, and the few words it says to the master."""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from prefork.connection.edge import CLOSING
from prefork.scoreboard import Field, Phase

if TYPE_CHECKING:
    import socket

    from prefork.connection.admission import Admission
    from prefork.connection.terms import Terms
    from prefork.listener import Listener
    from prefork.log import LogHandler
    from prefork.scoreboard import Row, Scoreboard
    from prefork.service import Service
    from prefork.settings import Settings
    from prefork.sources import Tally

READY: Final = b"ready\n"
FAILED: Final = b"failed "
"""Followed by a JSON list of the reason and the traceback."""

SAID_AT_MOST: Final = 1 << 16
"""Bytes that a worker says in its life, and more than that."""

_MAX_REASON: Final = 1024
_MAX_TRACE: Final = 8192


@dataclass(frozen=True)
class Plan:
    """What a generation of workers runs. `service` is None when each worker is to import the target itself."""

    settings: Settings
    service: Service | None
    tls: Terms | None = None


@dataclass(frozen=True)
class Post:
    """One worker's place: which slot of which generation, and everything it inherits.

    `channel` is its end of a socket pair. It says "ready" or "failed REASON" there, and reads the end of file when the
    master is gone.
    """

    slot: int
    generation: int
    master: int  # its pid
    plan: Plan
    listeners: tuple[Listener, ...]
    board: Scoreboard
    row: Row
    tally: Tally | None  # with a limit per source
    channel: socket.socket
    log: LogHandler
    stacks: BinaryIO | None  # where it leaves its threads' stacks when it is killed for hanging
    trial_s: float  # for so long after "ready" it leaves the accept queue to the workers before it

    @property
    def settings(self) -> Settings:
        """The settings of this worker's generation."""
        return self.plan.settings

    def __str__(self) -> str:
        return f"worker {self.slot} gen {self.generation} pid {os.getpid()}"

    def say_ready(self, capacity: int = 0) -> None:
        """Tell the master, from inside the accept loop, that this worker serves; `capacity` see the scoreboard.

        One on trial does so, too, and begins to accept a moment later.
        """
        self.row.cells[Field.CAPACITY] = capacity
        self.row.beat()
        self.phase(Phase.PROVING if self.trial_s else Phase.ACCEPTING)
        with contextlib.suppress(OSError):  # a master that is gone is noticed by its end of file
            self.channel.send(READY)

    def say_failed(self, reason: str, cause: BaseException | None) -> None:
        """Tell the master why this worker will never be ready: one line, and the traceback for whoever asks for it."""
        trace = "".join(traceback.format_exception(cause)) if cause is not None else ""
        told = json.dumps([reason.replace("\n", " ")[:_MAX_REASON], trace[-_MAX_TRACE:]])
        with contextlib.suppress(OSError):
            self.channel.send(FAILED + told.encode("ascii") + b"\n")

    def phase(self, phase: Phase) -> None:
        """Write on the scoreboard what this worker does."""
        self.row.cells[Field.PHASE] = phase

    def admission(self) -> Admission | None:
        """Return what decides who may come in; None where everybody may, as they are."""
        if not self.settings.admission():
            return None
        from prefork.connection.admission import Admission  # noqa: PLC0415 - most servers do without

        return Admission(self.settings, self.row, self.tally)

    def drain_deadline(self) -> float:
        """Return when a drain that begins now must end, on the monotonic clock."""
        return time.monotonic() + self.settings.drain_timeout

    def closing_time(self, deadline: float) -> float:
        """Return when the last part of a drain with this deadline comes."""
        return deadline - self.settings.drain_timeout * CLOSING
