"""Row 20: thousands of connections from one source, and thousands of clients that come back at once."""

from __future__ import annotations

import contextlib
import errno
import resource
import select
import socket
import time
from typing import TYPE_CHECKING, Final

from support.load import Load
from support.scorecard import FULL
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.scorecard import Row
    from support.server import Server

LIMIT: Final = 50
AT_ONCE: Final = 250
"""Connections begun before the first of them is looked at."""

GREEDY: Final = "127.0.0.9"
REFUSED = r"refused a connection: its source has 50 connections \(--max-connections-per-source\)"


def many(row: Row) -> int:
    """Return how many connections the row asks for: a thousand in a quick look."""
    if not FULL:
        row.form = "1000 instead of 5000"
    return 5000 if FULL else 1000


class Crowd:
    """Connections from one source that are begun and held; `ends` counts how the others have ended."""

    def __init__(self, address: tuple[str, int], source: str) -> None:
        self._address, self._source = address, source
        self._poll = select.poll()
        self._held: dict[int, socket.socket] = {}
        self.answered: set[int] = set()
        self.ends: dict[str, int] = {}

    def come(self, count: int) -> None:
        """Begin so many connections, each with a request, `AT_ONCE` in one go."""
        while count:
            now = min(count, AT_ONCE)
            for _ in range(now):
                sock = socket.socket()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: as many ports as there are peers
                sock.bind((self._source, 0))
                begun = sock.connect_ex(self._address)
                self._held[sock.fileno()] = sock
                if begun == errno.EINPROGRESS:
                    self._poll.register(sock, select.POLLOUT)
                else:
                    self._end(sock.fileno(), begun)
            count -= now
            self.look(0.0)

    def look(self, seconds: float) -> None:
        """Take note of all that has happened, waiting up to `seconds` for the first of it."""
        for fd, events in self._poll.poll(seconds * 1000):
            sock = self._held[fd]
            try:
                if events & select.POLLOUT:
                    sock.send(b"%d\n" % fd)
                    self._poll.modify(fd, select.POLLIN)
                elif not sock.recv(100):
                    self._end(fd, 0)
                else:
                    self.answered.add(fd)
            except OSError as error:
                self._end(fd, error.errno or 0)

    @property
    def settled(self) -> bool:
        """Whether each that is held has been answered."""
        self.look(0.05)
        return self.answered == self._held.keys()

    @property
    def held(self) -> int:
        """How many are open."""
        return len(self._held)

    def leave(self) -> None:
        """Close all."""
        for fd in list(self._held):
            self._end(fd, 0)
        self.ends.clear()

    def _end(self, fd: int, number: int) -> None:
        kind = errno.errorcode.get(number, "end of file")
        self.ends[kind] = self.ends.get(kind, 0) + 1
        self.answered.discard(fd)
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)
        self._held.pop(fd).close()


@contextlib.contextmanager
def crowd(server: Server, source: str) -> Iterator[Crowd]:
    """Give a crowd, with as many descriptors as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = Crowd(server.address, source)
    try:
        yield made
    finally:
        made.leave()


def test_row_20_connections_of_one_source_beyond_its_limit_take_nothing_from_others(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    options = ["--workers", "4", "--max-connections-per-source", str(LIMIT)]
    with start(app, *options) as server, row.watch(server, announces=[REFUSED]):
        with Load(server.address, rate=100) as load, crowd(server, GREEDY) as greedy:
            until(lambda: load.replies > 50)
            count = many(row)
            began = time.monotonic()
            greedy.come(count)
            until(lambda: greedy.settled, 60, what="each of the greedy ones is served or refused")
            row.says("seconds for all of them", round(time.monotonic() - began, 2))
            status = server.status()
            row.at_least("let in of one source, the limit being 50", greedy.held, LIMIT * 0.95)
            row.at_most("let in of one source, the limit being 50", greedy.held, LIMIT * 1.05)
            row.is_("refused, by the server's own count", status["totals"]["refused"], count - greedy.held)
            row.is_("how they ended", ", ".join(greedy.ends), "ECONNRESET")
            served = load.replies
            until(lambda: load.replies > served + 50)
        asked = load.replies + len(load.failures)
        row.at_least("answered of other sources, %", 100 * load.replies / asked, 99.9)
        row.says("their worst newcomer, ms", load.worst_ms())


def test_row_20_clients_that_all_come_back_at_once_are_served_within_30_seconds(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    with start(app, "--workers", "4", "--max-connections", "2048") as server, row.watch(server):
        with Load(server.address, rate=50) as load, crowd(server, GREEDY) as clients:
            until(lambda: load.replies > 50)
            count = many(row)
            clients.come(count)
            until(lambda: clients.settled, 60, what="all are connected")
            clients.leave()
            began = time.monotonic()
            clients.come(count)
            until(lambda: clients.settled, 60, what="all are served again")
            row.at_most("seconds until all are served again", time.monotonic() - began, 30)
            row.is_("served again", len(clients.answered), count)
            row.is_("ended otherwise", sum(clients.ends.values()), 0)
            spread = [w["connections"] for w in server.status()["workers"]]
            row.says("per worker", "/".join(map(str, spread)))
        asked = load.replies + len(load.failures)
        row.at_least("answered of other sources, %", 100 * load.replies / asked, 99.9)
        row.says("their worst newcomer, ms", load.worst_ms())
