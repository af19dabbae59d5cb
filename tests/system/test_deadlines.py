"""What a slow peer is allowed: each wait has its own deadline, and a handler can change those of its connection."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from support.server import Server, read_all, read_exactly
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

ECHO_LINES = """
    from prefork import Lines, reply

    @reply(Lines(newline=b"\\n"))
    def service(line: bytes) -> bytes:
        return line
"""
MODELS = ("async", "sync", "threads")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("option", "sent", "answered", "said"),
    [
        ("--first-byte-timeout", b"", b"", "sent nothing within --first-byte-timeout"),
        ("--frame-timeout", b"whole\nhalf", b"whole\n", "did not finish a frame within --frame-timeout"),
        ("--idle-timeout", b"whole\n", b"whole\n", "was idle for --idle-timeout"),
    ],
)
def test_slow_peer_is_closed_by_the_deadline_that_names_it(  # noqa: PLR0913, PLR0917 - one row of the table each
    start: Callable[..., Server],
    module: Callable[..., str],
    model: str,
    option: str,
    sent: bytes,
    answered: bytes,
    said: str,
) -> None:
    options = ["--workers", "1", "--model", model, option, "0.5", "--log-level", "debug"]
    with start(module(ECHO_LINES), *options) as server, server.connect() as sock:
        began = time.monotonic()
        sock.sendall(sent)
        assert read_all(sock) == answered  # an end of file, never a reset
        assert 0.5 <= time.monotonic() - began < 5
        until(lambda: said in server.log())


@pytest.mark.parametrize("model", ["async", "threads"])
def test_peer_that_does_not_read_is_dropped_by_the_write_timeout_and_memory_stays_bounded(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    service = module("""
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            return b"x" * 8000
    """)
    options = ["--workers", "1", "--model", model, "--write-timeout", "1"]
    with start(service, *options) as server, server.connect() as sock:
        sock.settimeout(0.2)
        try:
            for _ in range(400):
                sock.sendall(b"more\r\n" * 1000)
        except TimeoutError:
            pass  # the server leaves the requests unread
        until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped")
        assert server.status()["workers"][0]["rss_bytes"] < 60_000_000


@pytest.mark.parametrize(("model", "keyword", "wait"), [("async", "async ", "await "), ("threads", "", "")])
def test_handler_extends_the_deadline_of_its_own_connection(
    start: Callable[..., Server], module: Callable[..., str], model: str, keyword: str, wait: str
) -> None:
    service = module(f"""
        from prefork import Lines, conversation

        @conversation(Lines(newline=b"\\n"))
        {keyword}def service(conn):
            {keyword}for line in conn:
                if line == b"patience":
                    conn.set_timeouts(idle=30)
                {wait}conn.send(line)
    """)
    options = ["--workers", "1", "--model", model, "--idle-timeout", "0.5"]
    with start(service, *options) as server, server.connect() as patient, server.connect() as other:
        patient.sendall(b"patience\n")
        other.sendall(b"none\n")
        assert patient.recv(20) == b"patience\n"
        assert read_all(other) == b"none\n"  # ended by its deadline; the patient one, older than it, is not
        patient.sendall(b"still here\n")
        assert patient.recv(20) == b"still here\n"


LARGE_ANSWER = {
    "a function": """
        from prefork import Lines, reply

        @reply(Lines(max_length=1 << 24))
        def service(line: bytes) -> bytes:
            return b"x" * 8_000_000
    """,
    "a dialogue": """
        from prefork import Connection, Lines, conversation

        @conversation(Lines(max_length=1 << 24))
        async def service(conn: Connection) -> None:
            async for line in conn:
                await conn.send(b"x" * 8_000_000)
    """,
    "last words": """
        from prefork import Connection, Lines, conversation

        @conversation(Lines(max_length=1 << 24))
        async def service(conn: Connection) -> None:
            await conn.receive()
            await conn.send(b"x" * 8_000_000)
    """,
}


@pytest.mark.parametrize("kind", LARGE_ANSWER)
def test_peer_that_reads_slowly_gets_all_of_a_large_answer(
    start: Callable[..., Server], module: Callable[..., str], kind: str
) -> None:
    options = ["--workers", "1", "--write-timeout", "1"]
    with start(module(LARGE_ANSWER[kind]), *options) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.settimeout(10)
        sock.connect(server.address)
        sock.sendall(b"go\r\n")
        slow_until = time.monotonic() + 5  # the write timeout, five times over
        size = 0
        while size < 8_000_002 and (data := sock.recv(65536)):
            size += len(data)
            if time.monotonic() < slow_until:
                time.sleep(0.02)  # what makes it a slow one
        assert size == 8_000_002


NEVER_DONE = {
    "answers that wait": """
        import asyncio
        from prefork import Lines, reply

        @reply(Lines(), concurrency=2)
        async def service(line: bytes) -> bytes:
            await asyncio.sleep(0)
            return b"x" * 8000
    """,
    "a dialogue that sends and receives at once": """
        import asyncio
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            async def receive() -> None:
                async for _ in conn:
                    pass

            receiving = asyncio.create_task(receive())
            while True:
                await conn.send(b"x" * 8000)
                await asyncio.sleep(0)
    """,
}


@pytest.mark.parametrize("kind", NEVER_DONE)
def test_peer_that_does_not_read_is_dropped_whatever_else_it_does(
    start: Callable[..., Server], module: Callable[..., str], kind: str
) -> None:
    with start(module(NEVER_DONE[kind]), "--workers", "1", "--write-timeout", "1") as server:
        with server.connect() as sock:
            sock.settimeout(0.2)
            try:
                for _ in range(400):
                    sock.sendall(b"more\r\n" * 1000)
            except (TimeoutError, ConnectionError):
                pass  # the server leaves the requests unread, or has dropped it already
            until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped")
        assert server.status()["workers"][0]["rss_bytes"] < 60_000_000
        assert "never retrieved" not in server.log()


def test_peer_that_has_closed_its_side_and_does_not_read_is_dropped_too(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    options = ["--workers", "1", "--write-timeout", "1", "--idle-timeout", "1", "--max-write-buffer", "64MiB"]
    with start(module(LARGE_ANSWER["a function"]), *options) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.connect(server.address)
        sock.sendall(b"go\r\n" * 4)
        sock.shutdown(socket.SHUT_WR)
        until(lambda: server.status()["totals"]["requests"] == 4)
        until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped")


def test_peer_that_has_sent_in_time_is_not_blamed_for_a_handler_that_was_busy(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            await asyncio.sleep(1.5)
            async for line in conn:
                await conn.send(line)
    """)
    with start(service, "--workers", "1", "--first-byte-timeout", "0.5") as server, server.connect() as sock:
        sock.sendall(b"early\r\n")
        assert read_exactly(sock, 7) == b"early\r\n"
