"""Rows 18 and 19: thousands who send a byte a second, and hundreds who never read what they asked for."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
import trustme

from support.drips import Drips
from support.load import Load
from support.server import read_exactly
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.scorecard import Row
    from support.server import Server

SLOW: Final = 2000
LINGER: Final = 2.0
"""Seconds for which the server reads on for a peer's own close (`prefork.connection.edge.LINGER`)."""

LEAST_P99: Final = 0.5
"""Milliseconds. A baseline below this is a few turns of the scheduler, and twice that its noise."""

DIALOGUE: Final = """
    import os
    from prefork import Connection, Lines, conversation

    me = b"%d " % os.getpid()

    @conversation(Lines())
    async def service(conn: Connection) -> None:
        async for line in conn:
            await conn.send(me + line)
"""


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    """Let this process have as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _connections(server: Server) -> int:
    return int(server.status()["totals"]["connections"])


def since(moment: float) -> Callable[[], bool]:
    """Say whether it is this time of the monotonic clock."""
    return lambda: time.monotonic() >= moment


def load_until(server: Server, over: Callable[[], bool], what: str) -> Load:
    """Return normal load, which goes on until `over`."""
    with Load(server.address, rate=200, kept=10) as load:
        until(over, 60, what=what)
    return load


@pytest.mark.parametrize("kind", ["a function", "a dialogue"])
def test_row_18_thousands_that_send_a_byte_a_second_do_not_slow_others_and_are_ended_by_the_frame_deadline(
    start: Callable[..., Server], module: Callable[..., str], app: str, row: Row, kind: str
) -> None:
    frame = row.seconds(30, 8)
    target = app if kind == "a function" else module(DIALOGUE, "dialogue")
    options = ["--workers", "2", "--max-connections", "2048", "--frame-timeout", f"{frame:g}"]
    with start(target, *options) as server, row.watch(server):
        before = load_until(server, since(time.monotonic() + frame / 2), "a while without slow ones")
        with Drips(server.address, SLOW) as drips:
            until(lambda: _connections(server) == SLOW, what="each of the slow ones is accepted")
            during = load_until(server, since(drips.began + frame - 1), "a while with the slow ones")
            watched_until = time.monotonic()
            ended = drips.ended(LINGER + 10)
        told = sorted(one.told for one in ended)
        still_open = sum(one.began + one.told > watched_until for one in ended)
        row.is_("slow ones open while the others were measured", still_open, SLOW)
        row.is_("how they were told", ", ".join({one.how for one in ended}), "end of file")
        row.at_least("first told, seconds after its first byte", told[0], frame)
        row.at_most("last told, seconds after its first byte", told[-1], frame + 1)
        row.is_("slow connections", len(told), SLOW)
        until(lambda: _connections(server) == 0, 5, what="the server has let go of them")
        after = load_until(server, since(time.monotonic() + frame / 2), "a while after the slow ones")
        quiet = max(before.p99_ms(), after.p99_ms())
        row.says("normal p99 without them, before and after, ms", f"{before.p99_ms()}, {after.p99_ms()}")
        row.at_most("normal p99 beside them, ms", during.p99_ms(), 2 * max(quiet, LEAST_P99))
        loads = (before, during, after)
        row.says("requests answered", sum(load.replies for load in loads))
        row.is_("failures", sum(len(load.failures) for load in loads), 0)
        row.says("the load's own lag, ms", round(max(load.lag for load in loads) * 1000))


PEERS: Final = 200
LIMIT: Final = 1 << 20
ANSWER: Final = 8000
WRITE_TIMEOUT: Final = 3.0
REQUESTS: Final = b"more\n" * 4000
STARTTLS: Final = b"STARTTLS\n"
GO_AHEAD: Final = b"go ahead\n"

UNREAD: Final = {
    "a function": """
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            return b"x" * 8000
    """,
    "a function, short answers": """
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            return b"x" * 80
    """,
    "a function that waits": """
        import asyncio
        from prefork import Lines, reply

        @reply(Lines(), concurrency=8)
        async def service(line: bytes) -> bytes:
            await asyncio.sleep(0)
            return b"x" * 8000
    """,
    "a dialogue": """
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            async for line in conn:
                await conn.send(b"x" * 8000)
    """,
    "a protocol": """
        import asyncio

        class service(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(b"x" * 8000)
    """,
    "streams": """
        async def service(reader, writer):
            while await reader.readline():
                writer.write(b"x" * 8000)
                await writer.drain()
    """,
    "streams that never drain": """
        async def service(reader, writer):
            while await reader.read(4096):
                writer.write(b"x" * 8000)
    """,
}
UNREAD["streams that never drain, TLS of their own"] = """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("server.pem")

    async def service(reader, writer):
        if await reader.readline() == STARTTLS:
            writer.write(GO_AHEAD)
            await writer.start_tls(context)
            while await reader.read(4096):
                writer.write(b"x" * 8000)
""".replace("STARTTLS", repr(STARTTLS)).replace("GO_AHEAD", repr(GO_AHEAD))
UNREAD["a function, threads"] = UNREAD["a function"]
UNREAD["a function, TLS"] = UNREAD["a function"]
UNREAD["a dialogue, TLS"] = UNREAD["a dialogue"]


class Deaf:
    """Peers that ask for as much as the server lets them, and never read."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext | None, *, starttls: bool) -> None:
        self._address, self._context, self._starttls = address, context, starttls
        self._poll = select.poll()
        self._open: dict[int, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._open.values():
            sock.close()

    def come(self, count: int) -> None:
        """Connect so many."""
        for _ in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # what a peer keeps itself is not the server's
            sock.connect(self._address)
            if self._starttls:
                sock.sendall(STARTTLS)
                assert read_exactly(sock, len(GO_AHEAD)) == GO_AHEAD
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname="localhost")
            sock.setblocking(False)
            self._open[sock.fileno()] = sock
            self._poll.register(sock, select.POLLOUT)

    def ask(self) -> None:
        """Send whatever can be sent now."""
        for fd, events in self._poll.poll(20):
            sock = self._open[fd]
            if events & (select.POLLHUP | select.POLLERR):
                self._poll.unregister(fd)
                self._open.pop(fd).close()
                continue
            with contextlib.suppress(OSError):  # not now; or it has been cut off, and the next poll says so
                sock.send(REQUESTS)

    @property
    def over(self) -> bool:
        """Whether each has been cut off; asks on meanwhile."""
        self.ask()
        return not self._open


def rss(status: dict[str, Any]) -> int:
    """Return the resident memory of all workers, in bytes."""
    return sum(worker["rss_bytes"] for worker in status["workers"])


@pytest.mark.parametrize("kind", UNREAD)
def test_row_19_peers_that_never_read_take_no_more_than_the_write_limit_and_are_dropped_by_the_write_timeout(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path, row: Row, kind: str
) -> None:
    options = ["--workers", "1", "--max-write-buffer", str(LIMIT), "--write-timeout", f"{WRITE_TIMEOUT:g}"]
    context = None
    starttls = kind.endswith("TLS of their own")
    if starttls or kind.endswith("TLS"):
        context = ssl.create_default_context()
        tls = certify(tmp_path, context)
        options += [] if starttls else tls
    if kind.endswith("threads"):
        options += ["--model", "threads", "--threads", str(PEERS)]
    options += ["--log-level", "debug"]
    with (
        start(module(UNREAD[kind]), *options) as server,
        row.watch(server),
        Deaf(server.address, context, starttls=starttls) as deaf,
    ):
        before = most = rss(server.status())
        deaf.come(PEERS)
        looked_at = served_at = time.monotonic()
        served = 0

        def look() -> bool:
            nonlocal most, looked_at, served, served_at
            over = deaf.over
            if over or time.monotonic() >= looked_at + 0.1:
                looked_at, status = time.monotonic(), server.status()
                most = max(most, rss(status))
                if status["totals"]["bytes_out"] > served:
                    served, served_at = status["totals"]["bytes_out"], looked_at
            return over

        until(look, WRITE_TIMEOUT + 60, what="each is cut off")
        row.at_most("from the last answer to the end, s", time.monotonic() - served_at, WRITE_TIMEOUT + LINGER + 2)
        until(lambda: _connections(server) == 0, 5, what="the server has let go of them")
        said = server.log().count("did not read its replies within --write-timeout")
        row.is_("dropped by the write timeout, says the log", said, PEERS)
        row.at_most("memory grown, MiB", (most - before) / 2**20, PEERS * LIMIT * 1.1 / 2**20)


def certify(folder: Path, context: ssl.SSLContext) -> list[str]:
    """Let `context` trust a new certificate; return the options that give it to the server."""
    ca = trustme.CA()
    ca.configure_trust(context)
    leaf = ca.issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.pem")]
