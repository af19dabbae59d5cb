"""Is a service in good health? One real request on a connection of its own.

It owns what counts as healthy. It never retries and never prints.
"""

import os
from dataclasses import dataclass
from time import perf_counter

from prefork_client.client import Client
from prefork_client.errors import WrongReply
from prefork_wire import Address, Framing, Lines

_LINES = Lines()
_NONCE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a healthy service took.

    Attributes:
        connect_us: Microseconds for connecting, names looked up.
        round_trip_us: Microseconds from sending to the whole reply; None when nothing was asked.
    """

    connect_us: float
    round_trip_us: float | None


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask a service, and what it must answer.

    Attributes:
        send: The payload; None sends a nonce, which no service can have ready.
        expect: The right answer; None accepts the nonce alone if one was sent, and any answer to `send`.
    """

    send: bytes | None = None
    expect: bytes | None = None


_ECHO = Question()


def ping(
    address: str | Address,
    framing: Framing = _LINES,
    *,
    question: Question | None = _ECHO,
    connect_timeout: float = 5.0,
    reply_timeout: float = 10.0,
) -> Timing:
    """Connect, ask once, check the answer, and return how long it took.

    Args:
        address: Where to connect, as `prefork_wire.parse_address` reads it.
        framing: How frames are told apart.
        question: What to ask; by default a nonce that must come back, as from an echo. None only connects.
        connect_timeout: Seconds for connecting.
        reply_timeout: Seconds for the answer.

    Raises:
        WrongReply: The answer is not the expected one.
        ClientError: Another subclass says why there was no answer.
    """
    client = Client(address, framing, connect_timeout=connect_timeout, reply_timeout=reply_timeout)
    started = perf_counter()
    with client:
        connected = perf_counter()
        if question is None:
            return Timing(_microseconds(started, connected), None)
        sent = os.urandom(_NONCE_BYTES).hex().encode() if question.send is None else question.send
        expected = sent if question.send is None and question.expect is None else question.expect
        reply = client.request(sent)
        answered = perf_counter()
    if expected is not None and reply != expected:
        raise WrongReply(f"{client.address}: answered something else than expected; is this the right service?")
    return Timing(_microseconds(started, connected), _microseconds(connected, answered))


def _microseconds(start: float, end: float) -> float:
    return round((end - start) * 1e6, 1)
