"""Load that checks every answer: newcomers at a steady rate, and connections that stay open.

One thread and one selector, so that the load is light and says itself when it was late. Each request is a line that
occurs once; the reply must be that line, alone or behind a blank (`PID LINE` tells who answered). A failure is kept
with its class and its time; the end of a kept connection between two requests is none.

It is bounded: in connections open at once, in requests, and in how long it waits for anything.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import random
import selectors
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Self

MOST_OPEN: Final = 1500
MOST_REQUESTS: Final = 200_000
LATE: Final = 0.1
"""Seconds behind its own schedule after which newcomers are left out instead of coming in a burst."""

_CLASSES: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timed out",
}
_runs = itertools.count(1)


@dataclass(frozen=True)
class Failure:
    """One request that was not answered as it should have been."""

    kind: str  # refused, reset, cut (end of file instead of the reply), wrong, timed out, or the errno's name
    at: float  # on the monotonic clock
    kept: bool
    pid: int  # of the worker that had answered on this connection before; 0 if none had, or replies do not tell


@dataclass(eq=False)
class _Conn:
    socket: socket.socket
    kept: bool
    half_close: bool
    began: float  # connect, or the moment the request was sent
    deadline: float
    state: str = "connecting"  # then waiting, idle, ending
    line: bytes = b""
    received: bytearray = field(default_factory=bytearray)
    pid: int = 0
    answered: bool = False


class Load:
    """Clients from entering to leaving the block: `rate` new connections a second, and `kept` that stay open.

    Every other newcomer half-closes after its request and must see the end of file, never a reset, after its reply.
    Kept connections pause between requests for a random time within `pause`, and come back when they are closed.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        rate: float = 200.0,
        kept: int = 0,
        pause: tuple[float, float] = (0.02, 0.4),
        timeout: float = 10.0,
    ) -> None:
        self._address = address
        self._rate, self._kept, self._pause, self._timeout = rate, kept, pause, timeout
        self._selector = selectors.DefaultSelector()
        self._open: set[_Conn] = set()
        self._due: list[tuple[float, int, _Conn]] = []
        self._numbers = itertools.count(1)
        self._name = f"r{next(_runs)}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self._random = random.Random(20)  # noqa: S311 - spreads the requests
        self._broke: BaseException | None = None
        self.failures: list[Failure] = []
        self.crossed = 0  # kept: the request and the server's end of file met on the way; it was sent in vain
        self.ended = 0  # kept: closed by the server between two requests
        self.replies = 0
        self.newcomers: list[float] = []  # seconds from connect to the reply
        self.answered_at = 0.0  # when the last reply came
        self.unanswered: set[bytes] = set()
        self.lag = 0.0  # how late the load itself has been at most, in seconds
        self.left_out = 0  # newcomers not sent because of that

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, wait for the replies that are due, and close; more than once changes nothing."""
        self._stop.set()
        self._thread.join(self._timeout + 10)
        assert not self._thread.is_alive(), "the load did not end"
        if self._broke is not None:
            raise self._broke

    # What it has seen. ------------------------------------------------------------------------------------------------

    def kinds(self, *, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
        """Return how many failures there were of each class, in a span of the monotonic clock."""
        return Counter(one.kind for one in tuple(self.failures) if since <= one.at < until)

    def worst_ms(self) -> float:
        """Return the longest time from a newcomer's connect to its reply, in milliseconds."""
        return round(max(self.newcomers, default=0.0) * 1000, 1)

    def p99_ms(self) -> float:
        """Return the 99th percentile of the same."""
        ordered = sorted(self.newcomers)
        return round(ordered[int(len(ordered) * 0.99)] * 1000, 1) if ordered else 0.0

    # The thread. ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for _ in range(self._kept):
                self._connect(kept=True)
            self._serve_schedule()
        except BaseException as error:  # noqa: BLE001 - told to whoever stops the load
            self._broke = error
        finally:
            for conn in tuple(self._open):
                conn.socket.close()
            self._selector.close()

    def _serve_schedule(self) -> None:
        newcomer_at = time.monotonic()
        look_at = newcomer_at
        while not self._stop.is_set() or any(conn.state != "idle" for conn in self._open):
            now = time.monotonic()
            if self._rate and not self._stop.is_set():
                newcomer_at = self._let_newcomers_come(newcomer_at, now)
            while self._due and self._due[0][0] <= now:
                _, _, conn = heapq.heappop(self._due)
                if conn.state == "idle" and not self._stop.is_set():
                    self._ask_again(conn)
            if now >= look_at:
                look_at = now + 0.1
                for conn in [c for c in self._open if c.state != "idle" and now >= c.deadline]:
                    self._fail(conn, "timed out")
            wait = min(0.02, *(t - now for t, *_ in self._due[:1]), newcomer_at - now if self._rate else 0.02)
            for key, _ in self._selector.select(max(0.0, wait)):
                if key.data in self._open:
                    self._on_event(key.data)

    def _let_newcomers_come(self, at: float, now: float) -> float:
        while at <= now:
            late = now - at
            self.lag = max(self.lag, late)
            if late > LATE or len(self._open) >= MOST_OPEN or self.replies >= MOST_REQUESTS:
                self.left_out += 1
            else:
                self._connect(kept=False)
            at += 1 / self._rate
        return at

    def _connect(self, *, kept: bool) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        now = time.monotonic()
        number = next(self._numbers)
        conn = _Conn(sock, kept, not kept and number % 2 == 0, now, now + self._timeout)
        conn.line = b"%b-%d" % (self._name.encode(), number)
        self._open.add(conn)
        refused = sock.connect_ex(self._address)
        if refused not in {0, errno.EINPROGRESS}:
            self._fail(conn, _class(refused))
            return
        self._selector.register(sock, selectors.EVENT_WRITE, conn)

    def _on_event(self, conn: _Conn) -> None:
        try:
            if conn.state == "connecting":
                self._connected(conn)
                return
            data = conn.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(conn, _class(error.errno or 0))
            return
        if data:
            conn.received += data
            self._on_data(conn)
        else:
            self._on_end(conn)

    def _connected(self, conn: _Conn) -> None:
        failed = conn.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self._fail(conn, _class(failed))
            return
        self._selector.modify(conn.socket, selectors.EVENT_READ, conn)
        self._ask(conn)

    def _ask(self, conn: _Conn) -> None:
        conn.state = "waiting"
        self.unanswered.add(conn.line)
        conn.socket.send(conn.line + b"\n")
        if conn.half_close:
            conn.socket.shutdown(socket.SHUT_WR)

    def _ask_again(self, conn: _Conn) -> None:
        self._on_event(conn)  # an end of file that is here already is not to be crossed
        if conn not in self._open:
            return
        conn.began = time.monotonic()
        conn.deadline = conn.began + self._timeout
        conn.line = b"%b-%d" % (self._name.encode(), next(self._numbers))
        try:
            self._ask(conn)
        except OSError as error:
            self._fail(conn, _class(error.errno or 0))

    def _on_data(self, conn: _Conn) -> None:
        if b"\n" not in conn.received:
            return
        who, _, said = bytes(conn.received).rstrip(b"\r\n").rpartition(b" ")
        if conn.state != "waiting" or said != conn.line:
            self._fail(conn, "wrong")
            return
        conn.received.clear()
        conn.answered = True
        conn.pid = int(who) if who.isdigit() else 0
        now = time.monotonic()
        self.replies += 1
        self.answered_at = now
        self.unanswered.discard(conn.line)
        if conn.kept:
            conn.state = "idle"
            heapq.heappush(self._due, (now + self._random.uniform(*self._pause), id(conn), conn))
            return
        self.newcomers.append(now - conn.began)
        if conn.half_close:
            conn.state = "ending"
        else:
            self._close(conn)

    def _on_end(self, conn: _Conn) -> None:
        if conn.state == "waiting" and (conn.received or not conn.answered):
            self._fail(conn, "cut")
            return
        if conn.state == "waiting":
            self.crossed += 1
        elif conn.kept:
            self.ended += 1
        self._close(conn)
        self._come_back(conn)

    def _come_back(self, conn: _Conn) -> None:
        if conn.kept and not self._stop.is_set():
            self._connect(kept=True)

    def _fail(self, conn: _Conn, kind: str) -> None:
        self.failures.append(Failure(kind, time.monotonic(), conn.kept, conn.pid))
        self._close(conn)
        if kind != "refused":  # somebody who was refused comes back no more: it would be at once, and for ever
            self._come_back(conn)

    def _close(self, conn: _Conn) -> None:
        conn.state = "gone"
        self._open.discard(conn)
        with contextlib.suppress(KeyError):  # it was refused before it was registered
            self._selector.unregister(conn.socket)
        conn.socket.close()


def _class(number: int) -> str:
    return _CLASSES.get(number, errno.errorcode.get(number, str(number)))
