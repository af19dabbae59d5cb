"""The load users of an echo, or of what a probe asks: one Locust class per behaviour, each proving what it is answered.

No user connects in `on_start` (Locust does not respawn a user whose `on_start` raises), none keeps a connection that
failed, and each request asks first whether the run drains, so that the drain waits for one request of a user at most.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from locust import User, task

from prefork_client import Client, ClientClosed, PeerClosedIdle
from prefork_loadtest.collector import Collector
from prefork_loadtest.example import WrongAnswer
from prefork_loadtest.failure import Failure, RequestFailed
from prefork_loadtest.measure import Measurement
from prefork_loadtest.options import UserOptions
from prefork_loadtest.proof import Probe, Proof, Prover
from prefork_loadtest.schedule import Schedule
from prefork_wire import Lines, parse_address

if TYPE_CHECKING:
    from locust.env import Environment

    from prefork_wire import Framing

DEFAULT_HOST = "tcp://127.0.0.1:7"
MOST_LINE_BYTES = 8192
TURN = 16
"""Requests of one task where nobody thinks: few enough that Locust's own wishes are heard within milliseconds."""


class KitUser(User):
    """What all load users have: their options, the books, and how long they think.

    Attributes:
        options: how it behaves.
        collector: the books.
        turn: requests that one task makes. Locust's own work between two tasks is worth a third of a request, so that
            a user without thought makes several; where it thinks, each is a task.
    """

    abstract = True
    host = DEFAULT_HOST

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = UserOptions.of(environment)
        self.collector = Collector.of(environment)
        self.turn = 1 if self.options.think_s else TURN

    def wait_time(self) -> float:
        """Seconds to think before the next request."""
        return self.options.think_s


class TcpUser(KitUser):
    """A user with at most one connection, made when a request needs it and dropped when a request fails."""

    abstract = True
    framing: Framing = Lines(max_length=MOST_LINE_BYTES)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.overhead = len(self.framing.encode(b"0")) - 1
        self.reply_timeout_s: float | None = self.options.reply_timeout_s
        self._client: Client | None = None

    def on_stop(self) -> None:
        """Close the connection when Locust ends the user."""
        self.disconnect()

    def connect(self, measurement: Measurement) -> Client:
        """The connection: the one that is open, or a new one."""
        if self._client is None:
            client = Client(
                parse_address(self.host or DEFAULT_HOST),
                self.framing,
                connect_timeout=self.options.reply_timeout_s,
                reply_timeout=self.reply_timeout_s,
            )
            client.connect()
            self._client = client
            measurement.connected()
        return self._client

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


class ProvingUser(TcpUser):
    """A user of an echo, or with a probe of any service: sends proofs and checks what comes back."""

    abstract = True
    row = "echo"
    """The row its requests are booked to, and what the rows of other behaviours begin with."""
    busy_reply: bytes | None = None
    """The frame by which a service says that it is full, if it has one."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.since, self.patience_s = 0.0, self.options.reply_timeout_s
        self.reply_timeout_s = None  # `patience` keeps the time
        self._has_expired = False
        nonce = secrets.randbits(64)
        self.prover: Proof = Probe(self.options.probe, nonce) if self.options.probe else Prover(nonce)

    def ask(self, name: str, intended: float | None = None, *, keep: bool = True) -> None:
        """One request: prove that its answer is right.

        The connection stays open if `keep` and all was well; connecting counts to the time of a request only if not.
        """
        request = self.prover.next()
        with Measurement(self, name, intended) as measurement:
            try:
                client = self._client or self.connect(measurement)
                if keep:
                    measurement.started()
                answer = self._answer(client, request, measurement)
                measurement.received = len(answer)
                self._require(request, answer)
            except BaseException:
                self.disconnect()
                raise
        if not keep:
            self.disconnect()

    def _require(self, request: bytes, answer: bytes) -> None:
        """Fail the request unless the answer is the one it asks for."""
        failure = Failure.BUSY if answer == self.busy_reply else self.prover.check(request, answer)
        if failure is Failure.BUSY:
            raise RequestFailed(failure)
        if failure is not None:
            raise RequestFailed(failure, WrongAnswer(request, self.prover.expected(request), answer))

    def _answer(self, client: Client, request: bytes, measurement: Measurement) -> bytes:
        """The answer to a request, asked again on a new connection if the kept one was closed before it was sent.

        A server may close what is idle, when it reloads or when its worker dies; nothing was lost by that. It is
        counted, so that a server that keeps no connection at all cannot pass for one that does.
        """
        measurement.sends(1, len(request) + self.overhead)
        try:
            return self._wait_for(client, request)
        except PeerClosedIdle:
            if measurement.fresh:
                raise
            self.disconnect()
            measurement.reopened = True
            return self._wait_for(self.connect(measurement), request)

    def _wait_for(self, client: Client, request: bytes) -> bytes:
        self.since = time.perf_counter()
        try:
            return client.request(request)
        except ClientClosed as error:
            if self._has_expired:
                raise RequestFailed(Failure.TIMEOUT) from error
            raise
        finally:
            self.since = 0.0

    def connect(self, measurement: Measurement) -> Client:
        """The connection: the one that is open, or a new one."""
        if self._client is None:
            self._has_expired = False
            self.collector.patience.watched.add(self)
        return super().connect(measurement)

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        self.collector.patience.watched.discard(self)
        super().disconnect()

    def expire(self) -> None:
        """Close the connection under the request: its answer has not come in time."""
        self._has_expired = True
        if self._client is not None:
            self._client.close()


class EchoUser(ProvingUser):
    """Closed loop: one kept connection, the next request after the answer and a moment of thought."""

    @task
    def echo(self) -> None:
        """Some requests and their answers."""
        for _ in range(self.turn):
            self.ask(self.row)


class OpenUser(ProvingUser):
    """Open rate: requests are due on a schedule that no answer can move."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._schedule: Schedule | None = None
        self._free = 0.0

    def wait_time(self) -> float:
        """Seconds until the next request is due."""
        return self._schedule.wait(time.perf_counter()) if self._schedule else 0.0

    def on_start(self) -> None:
        """Start the schedule, somewhere within its first interval so that users do not march in step."""
        rate = self.options.user_rate
        first = secrets.SystemRandom().uniform(0.0, min(1.0, 1.0 / rate))
        self._free = time.perf_counter() + first
        self._schedule = Schedule(rate, self._free)
        time.sleep(first)

    def keep_to(self, name: str) -> None:
        """Make the request that is due, and note how late the user itself was."""
        if self._schedule is None:
            return
        collector = self.collector
        due = self._schedule.take(collector.pace)
        collector.late(max(0.0, time.perf_counter() - max(due, self._free)))
        self.ask(name, due)
        self._free = time.perf_counter()


class OpenEchoUser(OpenUser):
    """Open rate, of an echo."""

    @task
    def echo(self) -> None:
        """The request that is due."""
        self.keep_to(f"{self.row} open")


class CrowdUser(OpenUser):
    """Open rate, at a service that says so when it is full."""

    busy_reply = b"BUSY"

    @task
    def echo(self) -> None:
        """The request that is due."""
        self.keep_to(f"{self.row} crowd")


class ChurnUser(ProvingUser):
    """Connect, one request, close: the time is that of the connection and the answer."""

    @task
    def echo(self) -> None:
        """One connection with one request."""
        self.ask(f"{self.row} churn", keep=False)
