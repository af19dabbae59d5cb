"""The load users of the built-in services: one connection each time, one conversation, then the end.

The conversation as a whole is the request that is measured, connecting included.
"""

from __future__ import annotations

import secrets
import time
from abc import abstractmethod
from typing import TYPE_CHECKING

from locust import task

from prefork_loadtest import answers
from prefork_loadtest.failure import Failure, RequestFailed
from prefork_loadtest.measure import Measurement
from prefork_loadtest.users import TcpUser
from prefork_wire import Raw

if TYPE_CHECKING:
    from prefork_client import Client

PIECE_BYTES = 4096


def require(right: bool, *, otherwise: Failure = Failure.WRONG_ANSWER) -> None:  # noqa: FBT001 - reads as an assertion
    """Fail the request unless the answer is right."""
    if not right:
        raise RequestFailed(otherwise)


class ServiceUser(TcpUser):
    """A user that connects, holds one conversation and closes."""

    abstract = True
    row = ""
    """The row its conversations are booked to."""

    @abstractmethod
    def talk(self, client: Client, measurement: Measurement) -> None:
        """Hold the conversation and require the right answers."""

    @task
    def converse(self) -> None:
        """One connection from its beginning to its end."""
        with Measurement(self, self.row) as measurement:
            try:
                self.talk(self.connect(measurement), measurement)
            finally:
                self.disconnect()


def frame(client: Client, measurement: Measurement) -> bytes:
    """The next frame; none is a failure of the request."""
    received = client.receive()
    measurement.received += len(received)
    return received


def everything(client: Client, measurement: Measurement) -> bytes:
    """All bytes until the server closes."""
    received = b"".join(client)
    measurement.received += len(received)
    return received


class DiscardUser(ServiceUser):
    """RFC 863: what is sent is thrown away, and nothing ever comes back."""

    framing = Raw(max_length=PIECE_BYTES)
    row = "discard"

    def talk(self, client: Client, measurement: Measurement) -> None:
        """Send, end, and hear nothing but the end."""
        measurement.sends(1, PIECE_BYTES)
        client.send(bytes(PIECE_BYTES))
        client.send_eof()
        require(not everything(client, measurement))


class DaytimeUser(ServiceUser):
    """RFC 867: one readable line, then the end."""

    framing = Raw(max_length=PIECE_BYTES)
    row = "daytime"

    def talk(self, client: Client, measurement: Measurement) -> None:
        """Read the day and the time."""
        require(answers.is_daytime(everything(client, measurement), time.time()))


class TimeUser(ServiceUser):
    """RFC 868: four bytes, seconds since 1900, then the end."""

    framing = Raw(max_length=PIECE_BYTES)
    row = "time"

    def talk(self, client: Client, measurement: Measurement) -> None:
        """Read the time."""
        require(answers.is_time(everything(client, measurement), time.time()))


class QotdUser(ServiceUser):
    """RFC 865: a quote of less than 512 characters, then the end."""

    framing = Raw(max_length=PIECE_BYTES)
    row = "qotd"

    def talk(self, client: Client, measurement: Measurement) -> None:
        """Read the quote."""
        require(answers.is_quote(everything(client, measurement)))


class ChargenUser(ServiceUser):
    """RFC 864: lines of a rotating pattern, without end."""

    row = "chargen"

    def talk(self, client: Client, measurement: Measurement) -> None:
        """Read the pattern once around and leave."""
        require(answers.is_pattern([frame(client, measurement) for _ in range(answers.PATTERN_LINES)]))


class GreetUser(ServiceUser):
    """The chapter's dialogue: the server speaks first, greets a name, and says goodbye."""

    row = "greet"

    def talk(self, client: Client, measurement: Measurement) -> None:
        """Give a name that nobody else has, be greeted by it, and quit."""
        name = f"user-{secrets.token_hex(8)}".encode()
        require(frame(client, measurement) == answers.GREETING)
        measurement.sends(1, len(name) + self.overhead)
        client.send(name)
        reply = frame(client, measurement)
        mixed_up = answers.is_hello(reply)
        require(reply == answers.hello(name), otherwise=Failure.CROSS_TALK if mixed_up else Failure.WRONG_ANSWER)
        measurement.sends(1, len(b"quit") + self.overhead)
        client.send(b"quit")
        require(frame(client, measurement) == answers.GOODBYE)
        require(not everything(client, measurement))
