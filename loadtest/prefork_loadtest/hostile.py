"""Load users that mean ill, or behave as if they did: what they must meet is a limit of the server.

Each attack is one sample, right if the server did what it must. They are booked apart: the gates of a scenario are on
the normal users beside them. An attack that the end of the run cuts short was withstood so far.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from locust import task

from prefork_loadtest.failure import Failure, RequestFailed
from prefork_loadtest.ledger import HOSTILE
from prefork_loadtest.measure import Measurement
from prefork_loadtest.oracle import MOST_LINE_BYTES, Plug, RawUser

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_S = 0.1
"""An attacker looks so often whether the run is over."""
PIECE_S = 0.4
"""Seconds between two bytes of a slow frame."""
MOST_UNREAD = 256 * 2**20
"""A server that has taken so many bytes, and had no answer read, does not stop reading; buffers hold some 20 MB."""
QUIET_S = 4.0
"""Seconds that an idle connection says nothing."""


class HostileUser(RawUser):
    """An attacker: one connection for each attack."""

    abstract = True
    row = ""

    @task
    def attack(self) -> None:
        """One attack, from its connection to its end."""
        with Measurement(self, f"{HOSTILE} {self.row}") as measurement:
            try:
                self.strike(self.plug(measurement), measurement)
            finally:
                self.unplug()

    def strike(self, plug: Plug, measurement: Measurement) -> None:
        """Attack, and fail the sample if the server does not defend itself."""
        raise NotImplementedError

    def until_closed(self, plug: Plug) -> Iterator[float]:
        """Yield, every `STEP_S`, the seconds that have passed, until the server closes or the run is over.

        An answer is a failure, and so is a server that has not closed within the reply timeout.
        """
        start = time.monotonic()
        while not self.collector.draining:
            passed = time.monotonic() - start
            if passed > self.options.reply_timeout_s:
                raise RequestFailed(Failure.TIMEOUT)
            yield passed
            plug.sock.settimeout(STEP_S)
            try:
                data = plug.sock.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            raise RequestFailed(Failure.WRONG_ANSWER)


class SlowlorisUser(HostileUser):
    """A frame that comes a byte at a time and never ends: the server must close at its deadline for a frame."""

    row = "slowloris"

    def strike(self, plug: Plug, measurement: Measurement) -> None:
        """Send a byte now and then."""
        due = 0.0
        for passed in self.until_closed(plug):
            if passed < due:
                continue
            due += PIECE_S
            measurement.sends(0, 1)
            try:
                plug.sock.send(b"s")
            except OSError:
                return


class HalfOpenUser(HostileUser):
    """Half a frame, and then nothing, or an end of file: it must not be answered, and be closed."""

    row = "half-open"
    _turn = 0

    def strike(self, plug: Plug, measurement: Measurement) -> None:
        """Send half a frame, and in turn nothing more, or the end."""
        half = self.prover.next()[:32]
        measurement.sends(0, len(half))
        plug.send(half)
        self._turn += 1
        if self._turn % 2:
            plug.sock.shutdown(socket.SHUT_WR)
        for _ in self.until_closed(plug):
            pass


class OversizeUser(HostileUser):
    """One byte more than the limit: refused, not answered."""

    row = "oversize"

    def strike(self, plug: Plug, measurement: Measurement) -> None:
        """Send a line that is one byte too long."""
        data = b"x" * (MOST_LINE_BYTES + 1) + b"\n"
        measurement.sends(1, len(data))
        plug.send(data)
        for _ in self.until_closed(plug):
            pass


class SlowReaderUser(HostileUser):
    """Requests without end whose answers nobody reads: the server must stop reading, and close at its deadline."""

    row = "slow reader"

    def dial(self) -> socket.socket:
        """A connection with little room for answers."""
        sock = super().dial()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return sock

    def strike(self, plug: Plug, measurement: Measurement) -> None:
        """Send as long as there is room, then wait for the end.

        The server counts its deadline from the last byte that went its way, and so must this: to fill what the kernels
        hold takes a busy machine seconds, and all that time the server makes progress.
        """
        line = b"r" * 4095 + b"\n"
        rest = b""
        progress = time.monotonic()
        while not self.collector.draining:
            if time.monotonic() - progress > self.options.reply_timeout_s or measurement.sent_bytes > MOST_UNREAD:
                raise RequestFailed(Failure.TIMEOUT)
            rest = rest or line
            plug.sock.settimeout(STEP_S)
            try:
                sent = plug.sock.send(rest)
            except TimeoutError:
                continue
            except OSError:
                return
            rest = rest[sent:]
            progress = time.monotonic()
            measurement.sends(not rest, sent)


class IdleUser(HostileUser):
    """A connection that says nothing for long, and asks then: it must have been kept, and be answered."""

    row = "idle"
    sizes = (64,)

    def strike(self, plug: Plug, measurement: Measurement) -> None:
        """Ask, say nothing, ask again."""
        self._ask(plug, measurement)
        end = time.monotonic() + QUIET_S
        while not self.collector.draining and time.monotonic() < end:
            time.sleep(STEP_S)
        self._ask(plug, measurement)

    def _ask(self, plug: Plug, measurement: Measurement) -> None:
        request = self.prover.next()
        measurement.sends(1, len(request) + 1)
        plug.send(request + b"\n")
        self.require(plug, request, plug.lines(1)[0])
