"""What a worker is told: a table from signal to order, and the end of file that says the master is dead.

Orders only ever grow stronger. Nothing is done in a signal handler; a blocking worker reads its orders when its wait
ends, an async one hears them from its event loop.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self

from prefork.log import LOGGER
from prefork.scoreboard import Phase
from prefork.signals import SignalWatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from prefork.worker.post import Post


class Order(IntEnum):
    """How a worker is to leave, from not at all to at once."""

    SERVE = 0
    RETIRE = 1  # leave the accept queue to the others, finish what is open
    STOP = 2  # serve the accept queue until it has stayed empty, finish what is open
    QUIT = 3  # now, in order: drop what is open


SIGNALS: Final = {
    signal.SIGUSR2: Order.RETIRE,
    signal.SIGTERM: Order.STOP,
    signal.SIGQUIT: Order.QUIT,
}
"""From signal to order. USR1 reopens the log; HUP and INT are ignored: they go to whole groups and mean the master."""

MASTER_DIED: Final = Order.STOP


def reopen_log(post: Post) -> None:
    """Reopen the log file; keep the old one and say so when that fails."""
    try:
        post.log.reopen()
    except OSError as error:
        LOGGER.error("%s: cannot reopen the log: %s", post, error.strerror)


class Orders:
    """The orders of a blocking worker; `Wakes` for the connections that it serves itself."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._watch = SignalWatch([*SIGNALS, signal.SIGUSR1])
        self.order = Order.SERVE
        self._closing_at = math.inf

    def __enter__(self) -> Self:
        """Begin to hear signals."""
        self._watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop hearing them."""
        self._watch.__exit__(kind, error, trace)

    @property
    def draining(self) -> bool:
        """Whether the worker is to leave."""
        return self.order is not Order.SERVE

    @property
    def closing(self) -> bool:
        """Whether the last part of the drain has come."""
        return time.monotonic() >= self._closing_at

    @property
    def fds(self) -> tuple[int, int]:
        """Descriptors that become readable when an order has come."""
        return self._watch.fileno(), self._post.channel.fileno()

    @property
    def wake_fds(self) -> Sequence[int]:
        """The same for a connection's wait; none once the worker leaves, when only deadlines matter."""
        return () if self.draining else self.fds

    def hear(self, order: Order) -> None:
        """Take an order; a weightier one stays."""
        self.order = max(self.order, order)

    def woken(self) -> None:
        """Read what came, and beat: this runs only between the steps of the serving loop."""
        self._post.row.beat()
        for number in self._watch.read():
            if number == signal.SIGUSR1:
                reopen_log(self._post)
            else:
                self.hear(SIGNALS[number])
        if self.order is Order.SERVE and is_orphan(self._post):
            LOGGER.warning("%s: the master is gone; draining", self._post)
            self.order = MASTER_DIED
        if self.draining and self._closing_at == math.inf:
            self._closing_at = self._post.closing_time(self._post.drain_deadline())

    def pass_trial(self) -> None:
        """Leave the accept queue alone for as long as a new generation is tried, or until an order comes."""
        until = time.monotonic() + self._post.trial_s
        poll = select.poll()
        for fd in self.fds:
            poll.register(fd, select.POLLIN)
        while not self.draining and (left := until - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.woken()
        self._post.phase(Phase.ACCEPTING)


def is_orphan(post: Post) -> bool:
    """Say whether the master has died: its end of the channel reads as end of file."""
    try:
        return post.channel.recv(64) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class Bell:
    """`Wakes` for connections in pool threads: rung once by the serving loop, readable from then on for good."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.draining = False
        self._closing_at = math.inf

    @property
    def closing(self) -> bool:
        """Whether the last part of the drain has come."""
        return time.monotonic() >= self._closing_at

    @property
    def wake_fds(self) -> Sequence[int]:
        """The reading end; none once rung."""
        return () if self.draining else (self._reader,)

    def woken(self) -> None:
        """Do nothing: only the serving loop reads orders."""

    def ring(self, closing_at: float) -> None:
        """Tell every waiting connection, and when the last part of the drain will come; once."""
        if not self.draining:
            self.draining = True
            self._closing_at = closing_at
            os.close(self._writer)
