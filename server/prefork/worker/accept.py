"""Step 5, accept: what each failure of accept(2) means, and which worker's turn it is.

All workers accept on the same socket. Left alone the kernel gives nearly all to the worker that slept last, so an async
worker that holds more connections than the least loaded one steps back for a few milliseconds: long enough for
another to wake, short enough that no client notices. This file only accepts; it never reads a client's byte.
"""

from __future__ import annotations

import errno
import time
from enum import Enum
from typing import TYPE_CHECKING, Final

from prefork.log import LOGGER
from prefork.scoreboard import WIDTH, Field, Phase
from prefork.throttle import Throttle

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from prefork.worker.post import Post

# accept(2): the connection went away between the handshake and us, or there was none: the next one may be fine.
AGAIN: Final = frozenset({
    errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENOPROTOOPT,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.ETIMEDOUT,
})  # fmt: skip
# No descriptor or no memory is left: trying at once would spin; the kernel's queue waits meanwhile.
CAPACITY: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Everything else means that the listener is not what we think it is: fatal.

PAUSE: Final = 0.1
"""Seconds without accepting after a capacity error."""

BATCH: Final = 8
"""Connections taken per wake-up in a burst: few, so that the others get theirs."""

PROBE: Final = 16
"""Wake-ups with one connection each, after which a second is tried for: an accept that finds nothing is dear."""

STEP_BACK: Final = 0.002
"""Seconds a worker that holds more than its share leaves the queue to the others."""

SLACK: Final = 1
"""Connections above the least loaded worker's that are still a fair share."""

CHURN: Final = 32
"""Connections that a worker has taken by which it judges whether they are short."""

CHURN_S: Final = 0.25
"""Seconds within which these must have come, and half as many gone, to be short."""

STALE: Final = 2.0
"""Seconds after which a worker without a heartbeat is not waited for."""


_PHASE: Final = int(Field.PHASE)
_CONNECTIONS: Final = int(Field.CONNECTIONS)
_ACCEPTED: Final = int(Field.ACCEPTED)
_AWAY: Final = frozenset({Phase.YIELDING, Phase.FULL, Phase.PROVING})
"""What a worker says of itself while it leaves the queue alone."""
_LEAD: Final = {int(Phase.ACCEPTING): 0, int(Phase.YIELDING): BATCH}
"""By how many connections more than the slack another worker must hold less before the queue is left to it, by what it
says of itself; one that says anything else is not waited for."""


class Then(Enum):
    """What to do after a failed accept."""

    GO_ON = "go on"
    PAUSE = "pause"
    LEAVE = "leave"


class Failures:
    """Judges the failed accepts of one worker, of whatever model, by the three sets."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._throttle = Throttle()

    def judge(self, error: OSError) -> Then:
        """Return what to do now; what somebody must act on is in the log, a shortage not more often than needed."""
        if error.errno in AGAIN:
            return Then.GO_ON
        if error.errno not in CAPACITY:
            LOGGER.error("%s: cannot accept any more: %s; leaving", self._post, error.strerror)
            return Then.LEAVE
        if (left_out := self._throttle.left_out("shortage")) is not None:
            more = f" ({left_out} tries since the last line)" if left_out else ""
            LOGGER.warning("%s: cannot accept: %s; trying again every %g s%s", self._post, error.strerror, PAUSE, more)
        return Then.PAUSE


class Share:
    """Compares this worker's connections with those of the others on the scoreboard."""

    def __init__(self, post: Post) -> None:
        self._board = post.board.cells
        self._row = post.row.cells
        self._used = post.board.used
        self._rows = 0

    def room(self, slack: int = SLACK) -> int:
        """Return how many more connections this worker may take before it holds clearly more than another that accepts.

        Below 1 the queue is another's. One that steps back itself is left it only where it holds less by a batch: two
        that step back for each other let everybody wait.
        """
        rows = self._used()
        if rows != self._rows:
            self._look_at(rows)
        own = self._row[_CONNECTIONS]
        held = self._connections.tolist()
        held.remove(own)  # its own row: the master counted it as used before it forked this worker
        if not held:
            return BATCH
        room: int = min(held) + slack + 1 - own
        if room > 0:  # by far the most frequent answer, so it comes first
            return room
        fresh = time.monotonic_ns() - int(STALE * 1e9)
        rows_held = zip(self._connections.tolist(), self._phases.tolist(), self._beats.tolist(), strict=True)
        waited_for = [count + _LEAD[phase] for count, phase, beat in rows_held if phase in _LEAD and beat > fresh]
        if own in waited_for:
            waited_for.remove(own)
        return min(waited_for, default=own + BATCH) + slack + 1 - own

    def _look_at(self, rows: int) -> None:
        end = rows * WIDTH
        self._rows = rows
        self._phases = self._board[Field.PHASE : end : WIDTH]
        self._beats = self._board[Field.BEAT : end : WIDTH]
        self._connections = self._board[_CONNECTIONS:end:WIDTH]


class Churn:
    """Judges whether this worker's connections are short: they come fast, and most are gone again.

    How many of such are open at one moment says little of who has more to do. Who steps back for each of them has
    batches of one or two, and nothing to do in between: so they have a batch of slack.
    """

    def __init__(self) -> None:
        self.slack = SLACK
        self._came = 0
        self._gone = 0
        self._since = 0.0

    def came(self, count: int, now: float) -> None:
        """Count in so many more; judge by the last ones."""
        if now - self._since > CHURN_S:
            self._begin(SLACK, now)
        self._came += count
        if self._came >= CHURN:
            self._begin(BATCH if 2 * self._gone >= self._came else SLACK, now)

    def _begin(self, slack: int, now: float) -> None:
        self.slack = slack
        self._came = self._gone = 0
        self._since = now

    def gone(self) -> None:
        """Count out one."""
        self._gone += 1


class Acceptor:
    """Accepts for one async worker, a few connections per wake-up, as long as it is this worker's turn.

    The event loop itself watches the listeners, so a connection may wake more than one idle worker; all but the first
    find nothing. An epoll of its own with EPOLLEXCLUSIVE, nested in the loop's, wakes hardly fewer (exclusiveness does
    not carry through the nesting) and costs two more system calls for every connection.
    """

    def __init__(
        self,
        post: Post,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[int, socket.socket, object], None],
        settle: Callable[[], None],
    ) -> None:
        self._post = post
        self._loop = loop
        self.take = take  # what is done with each
        self._settle = settle  # and behind all of a wake-up
        self.broken: Callable[[], None] = _nothing  # called when the listener is not what we think it is
        self._share = Share(post)
        self._churn = Churn()
        self._own = post.row.cells
        self._limit = post.settings.max_connections
        self._sockets = [listener.socket for listener in post.listeners]
        self._batch = BATCH
        self._singles = 0
        self._watching = False
        self._back: asyncio.TimerHandle | None = None  # to the queue, which it leaves alone for a while
        self._takes_one = False  # even of more than its share
        self._failures = Failures(post)
        self.last = 0.0  # when a connection was last taken, or it began to look for some, on the monotonic clock
        self.closed = False

    @property
    def full(self) -> bool:
        """Whether this worker holds as many connections as it may."""
        return self._own[_CONNECTIONS] >= self._limit

    @property
    def away(self) -> bool:
        """Whether there may be connections in the queue at which this worker does not look just now."""
        return self._back is not None or self.full

    def open(self) -> None:
        """Begin to accept."""
        self._watch()

    def close(self) -> None:
        """Accept no more, and close this worker's copies of the listeners."""
        if self.closed:
            return
        self._unwatch()
        self.closed = True
        if self._back is not None:
            self._back.cancel()
        for listener in self._post.listeners:
            listener.close()

    def released(self, _address: object) -> None:
        """Accept again, a connection being gone, if this worker was full, or holds no longer more than its share."""
        self._churn.gone()
        if self._watching or self.closed or self.full:
            return
        if self._back is not None:
            if self._share.room(self._churn.slack) < 1:
                return
            self._back.cancel()
        self._watch()

    def _watch(self) -> None:
        self._back = None
        if self.closed or self._watching:
            return
        self._watching = True
        self.last = time.monotonic()
        if self._own[_PHASE] in _AWAY:
            self._post.phase(Phase.ACCEPTING)
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _unwatch(self) -> None:
        """Leave the queue alone."""
        if self._watching:
            self._watching = False
            for sock in self._sockets:
                self._loop.remove_reader(sock.fileno())

    def _step_back(self) -> None:
        """Leave the queue to whoever holds less, for a moment."""
        if self._own[_PHASE] == Phase.ACCEPTING:
            self._post.phase(Phase.YIELDING)
        self._unwatch()
        self._back = self._loop.call_later(STEP_BACK, self._come_back)

    def _come_back(self) -> None:
        """Accept again, and take one at least if there is one: whoever holds less did not come for it."""
        self._watch()
        for sock in self._sockets:
            self._takes_one = True
            self._readable(sock)
        self._takes_one = False

    def _readable(self, listener: socket.socket) -> None:
        """Take one connection, or a batch while they come in a burst, unless others hold less."""
        cells = self._own
        room = self._room()
        taken = 0
        while taken < room:
            try:
                # what socket.accept() is made of, without the socket object: its making costs more than the accept
                fd, address = listener._accept()  # type: ignore[attr-defined] # noqa: SLF001
            except OSError as error:
                self._failed(error)
                break
            taken += 1
            cells[_CONNECTIONS] += 1
            self.take(fd, listener, address)
        if taken:
            cells[_ACCEPTED] += taken
            self.last = time.monotonic()
            self._churn.came(taken, self.last)
            self._settle()
        # a try that finds nothing is dear: behind a single one, only every PROBE-th wake-up tries for a second
        if taken > 1:
            self._batch = BATCH
        elif self._batch > 1:
            if taken < room:  # else there may have been more, which were another's
                self._batch, self._singles = 1, 0
        else:
            self._singles += 1
            if self._singles == PROBE:
                self._batch = BATCH

    def _room(self) -> int:
        """Return how many connections to take now; where it is none, this worker leaves the queue alone from here."""
        if not self._watching:
            return 0
        free = self._limit - self._own[_CONNECTIONS]
        if free <= 0:
            if self._own[_PHASE] == Phase.ACCEPTING:  # and not about to leave
                self._post.phase(Phase.FULL)
            self._unwatch()
            return 0
        room = self._share.room(self._churn.slack)
        if room < 1 and not self._takes_one:
            self._step_back()
            return 0
        self._takes_one = False
        return min(self._batch, free, max(room, 1))

    def _failed(self, error: OSError) -> None:
        then = self._failures.judge(error)
        if then is Then.PAUSE:
            if self._own[_PHASE] == Phase.ACCEPTING:  # so that no other steps back for this one
                self._post.phase(Phase.FULL)
            self._unwatch()
            self._back = self._loop.call_later(PAUSE, self._watch)
        elif then is Then.LEAVE:
            self.close()
            self.broken()


def _nothing() -> None:
    """Do nothing."""
