"""The classes of failure, and the one exception a failed request becomes.

Locust groups failures by the text of the exception, so each class has one fixed text: it never holds a port, an id or
a byte of payload. Nothing here imports Locust or opens a socket.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefork_loadtest.example import WrongAnswer


class Failure(StrEnum):
    """What went wrong with one request. The value is the name that reports, gates and verdicts use."""

    WRONG_ANSWER = "wrong answer"
    CROSS_TALK = "cross-talk"
    TRUNCATED = "truncated"
    UNEXPECTED_CLOSE = "unexpected close"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    BUSY = "busy"
    ABORTED = "aborted at the end"
    BROKEN_USER = "broken user"


EXPLANATIONS = {
    Failure.WRONG_ANSWER: "the reply is not the one this request asks for",
    Failure.CROSS_TALK: "the reply carries another request's nonce or sequence",
    Failure.TRUNCATED: "the connection ended inside a reply",
    Failure.UNEXPECTED_CLOSE: "the connection ended before a reply",
    Failure.TIMEOUT: "no reply, or no connection, within the time allowed",
    Failure.REFUSED: "the connection could not be made",
    Failure.BUSY: "the server said that it is full",
    Failure.ABORTED: "still in flight when the drain ended",
    Failure.BROKEN_USER: "the load user itself raised",
}

WRONG = frozenset({Failure.WRONG_ANSWER, Failure.CROSS_TALK})
"""Failures that prove the server wrong. All others are losses: a gate decides how many are allowed."""

UNREACHED = frozenset({Failure.REFUSED, Failure.TIMEOUT})
"""Failures that a run against nothing consists of."""


class RequestFailed(Exception):  # noqa: N818 - it says what happened to the request; the kit did not err
    """A request failed. `failure` is its class, and the text depends on that class alone.

    Attributes:
        answer: the wrong answer, where it is known.
    """

    def __init__(self, failure: Failure, answer: WrongAnswer | None = None) -> None:
        super().__init__(f"{failure.value}: {EXPLANATIONS[failure]}")
        self.failure = failure
        self.answer = answer
