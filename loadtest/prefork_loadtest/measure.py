"""One request, timed and booked: the only place where a request becomes a sample.

Written here, and not taken from Locust: `events.request.measure` swallows exceptions and counts a gevent timeout as a
success. Times are microseconds of `perf_counter`, from `started` (the connection is there) to the end of the reply.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Self

from locust.exception import StopUser

from prefork_client import (
    BadFrame,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    ReplyTimeout,
    Truncated,
    UnexpectedData,
)
from prefork_loadtest.failure import Failure, RequestFailed
from prefork_loadtest.ledger import Sample
from prefork_loadtest.locust_stats import REQUEST_TYPE

if TYPE_CHECKING:
    from types import TracebackType

    from prefork_loadtest.users import KitUser

US = 1e6

CLASSES: tuple[tuple[type[BaseException], Failure], ...] = (
    (ConnectTimeout, Failure.TIMEOUT),
    (ReplyTimeout, Failure.TIMEOUT),
    (ConnectFailed, Failure.REFUSED),
    (Truncated, Failure.TRUNCATED),
    (ConnectionLost, Failure.UNEXPECTED_CLOSE),
    # What no request asked for, and what is no frame at all, are answers: wrong ones.
    (UnexpectedData, Failure.WRONG_ANSWER),
    (BadFrame, Failure.WRONG_ANSWER),
)
"""The client's exceptions by class of failure; the first that fits counts."""


def classify(error: BaseException) -> Failure:
    """The class of failure that an exception stands for."""
    if isinstance(error, RequestFailed):
        return error.failure
    for kind, failure in CLASSES:
        if isinstance(error, kind):
            return failure
    # Whatever is no Exception (a greenlet being killed, an interrupt) ends the user from outside.
    return Failure.BROKEN_USER if isinstance(error, Exception) else Failure.ABORTED


class Measurement:
    """A context manager around one request.

    A failure of the request is booked and swallowed, so that the user goes on to its next one. What is no failure of
    the request, a fault of the user's own code or its end from outside, is booked and goes on.

    Args:
        user: who asks.
        name: the row it is booked to.
        intended: when its schedule meant it to start, in seconds of `perf_counter`; None without a schedule.

    Attributes:
        received: bytes of the reply, set by the user.
        sent: frames that were sent, set by the user before it sends them, and `sent_bytes`, their bytes on the wire.
        fresh: the connection was made for this request.
        reopened: the kept connection had been closed while idle, and a new one was made; set by the user.
        failure: what became of it, once it is over; None for a right answer.
    """

    # Of the class until a request says otherwise: most do not, and there is one of these for each request.
    received = sent = sent_bytes = 0
    fresh = reopened = False
    failure: Failure | None = None

    def __init__(self, user: KitUser, name: str, intended: float | None = None) -> None:
        self._user = user
        self._name = name
        self._intended = intended

    def __enter__(self) -> Self:
        collector = self._user.collector
        # Locust ends a user that waits by killing it a moment later: one that wakes in between must not begin anew.
        if collector.draining:
            raise StopUser
        self._phase = collector.phase
        collector.ledger.begun += 1
        self._began = self._start = perf_counter()
        return self

    def connected(self) -> None:
        """Note that a connection was made for this request."""
        self.fresh = True
        self._user.collector.ledger.connect()

    def started(self) -> None:
        """Start the clock again: the request is about to be written. Time from the intended start is not touched."""
        self._start = perf_counter()

    def sends(self, frames: int, size: int) -> None:
        """Count what is about to be sent: so many frames of `size` bytes together, as they are on the wire."""
        self.sent += frames
        self.sent_bytes += size

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        end = perf_counter()
        collector = self._user.collector
        # A phase that is over may own the request all the same: what is not plain is booked as a sample of its own.
        if error is not None or collector.phase is not self._phase:
            return self._book(end, error)
        ledger = collector.ledger
        sheet = ledger.sheets.get(self._name)
        if sheet is None or end >= sheet.until:
            sheet = collector.sheet(self._name, end)
        ledger.finished += 1
        sheet.service[int((end - self._start) * US)] += 1
        if self._intended is not None:
            sheet.intended[int((end - self._intended) * US)] += 1
        sheet.received += self.received
        sheet.sent += self.sent
        sheet.sent_bytes += self.sent_bytes
        if self.reopened:
            sheet.reopened += 1
        if sheet.is_told:
            self._fire(end)
        return False

    def _book(self, end: float, error: BaseException | None) -> bool:
        """Book the request by itself, and say whether its failure is done with."""
        collector = self._user.collector
        self.failure = None if error is None else classify(error)
        sample = Sample(
            name=self._name,
            began_in=self._phase,
            ended_in=collector.phase,
            ended_at=collector.at(end),
            service_us=(end - self._start) * US,
            intended_us=None if self._intended is None else (end - self._intended) * US,
            reopened=self.reopened,
            failure=self.failure,
            sent=self.sent,
            sent_bytes=self.sent_bytes,
        )
        collector.book(sample)
        if isinstance(error, RequestFailed) and error.answer is not None:
            collector.ledger.exemplify(error.answer)
        self._fire(end)
        return self.failure is not None and self.failure not in {Failure.BROKEN_USER, Failure.ABORTED}

    def _fire(self, end: float) -> None:
        """Tell Locust, with every field: a missing one, or a length of None, raises in its listeners."""
        user = self._user
        intended_us = None if self._intended is None else (end - self._intended) * US
        user.environment.events.request.fire(
            request_type=REQUEST_TYPE,
            name=self._name,
            response_time=(end - self._start) * 1000,
            response_length=self.received,
            response=None,
            context={**user.context(), "intended_us": intended_us},
            exception=None if self.failure is None else RequestFailed(self.failure),
            start_time=user.collector.at(self._began),
            url=user.host or "",
        )
