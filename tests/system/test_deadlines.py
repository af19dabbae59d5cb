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
KINDS = ("a function", "a dialogue")


DIALOGUE = """
    from prefork import Lines, conversation

    @conversation(Lines(newline=b"\\n"))
    async def service(conn):
        async for line in conn:
            await conn.send(line)
"""


def echo(kind: str, model: str) -> str:
    """Return a service that sends each line back."""
    if kind == "a function":
        return ECHO_LINES
    return DIALOGUE if model == "async" else blocking(DIALOGUE)


def blocking(code: str) -> str:
    """Return a dialogue for an async worker as one for the other models."""
    return code.replace("async ", "").replace("await ", "").replace("asyncio", "time")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("option", "sent", "answered", "said"),
    [
        ("--first-byte-timeout", b"", b"", "sent nothing within --first-byte-timeout"),
        ("--frame-timeout", b"half", b"", "did not finish a frame within --frame-timeout"),
        ("--frame-timeout", b"whole\nhalf", b"whole\n", "did not finish a frame within --frame-timeout"),
        ("--idle-timeout", b"whole\n", b"whole\n", "was idle for --idle-timeout"),
    ],
)
def test_slow_peer_is_closed_by_the_deadline_that_names_it(  # noqa: PLR0913, PLR0917 - one row of the table each
    start: Callable[..., Server],
    module: Callable[..., str],
    kind: str,
    model: str,
    option: str,
    sent: bytes,
    answered: bytes,
    said: str,
) -> None:
    options = ["--workers", "1", "--model", model, option, "0.5", "--log-level", "debug"]
    with start(module(echo(kind, model)), *options) as server:
        began = time.monotonic()  # before it connects: the server may take it, and count, before connect() returns here
        with server.connect() as sock:
            sock.sendall(sent)
            assert read_all(sock) == answered  # an end of file, never a reset
            assert 0.5 <= time.monotonic() - began < 5
        until(lambda: said in server.log())
        assert server.log().count("connection 1 from") == 1  # once, and no other


GIVES_UP = """
    import asyncio
    from prefork import ConnectionEnded, Lines, conversation

    @conversation(Lines(newline=b"\\n"))
    async def service(conn):
        while True:
            try:
                await asyncio.wait_for(conn.receive(), 0.3)
            except TimeoutError:
                pass
"""


@pytest.mark.parametrize(
    ("kind", "model"), [*((kind, model) for kind in KINDS for model in MODELS), ("a dialogue that gives up", "async")]
)
def test_deadline_of_a_frame_is_not_put_off_by_its_bytes(
    start: Callable[..., Server], module: Callable[..., str], kind: str, model: str
) -> None:
    code = GIVES_UP if kind == "a dialogue that gives up" else echo(kind, model)
    options = ["--workers", "1", "--model", model, "--frame-timeout", "1", "--log-level", "debug"]
    with start(module(code), *options) as server, server.connect() as sock:
        began = time.monotonic()
        sock.settimeout(0.05)

        def is_told() -> bool:
            sock.sendall(b"x")
            try:
                return sock.recv(1) == b""
            except TimeoutError:
                return False

        until(is_told, 5)
        assert time.monotonic() - began >= 1
        assert "did not finish a frame within --frame-timeout" in server.log()


ONLY_SENDS = """
    import asyncio
    from prefork import Lines, conversation

    @conversation(Lines(newline=b"\\n"))
    async def service(conn):
        for _ in range(20):
            await conn.send(b"news")
            await asyncio.sleep(0.1)
        async for line in conn:
            await conn.send(line)
"""


@pytest.mark.parametrize("model", MODELS)
def test_peer_that_only_listens_is_not_slow_while_its_handler_speaks(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    code = ONLY_SENDS if model == "async" else blocking(ONLY_SENDS)
    options = ["--workers", "1", "--model", model, "--first-byte-timeout", "0.5", "--idle-timeout", "0.5"]
    with start(module(code), *options, "--log-level", "debug") as server, server.connect() as sock:
        assert read_all(sock) == b"news\n" * 20  # and then its silence counts
        until(lambda: "connection 1 from" in server.log())
        assert server.log().count("connection 1 from") == 1


GREETS_LATE = """
    import asyncio
    from prefork import Lines, conversation

    @conversation(Lines(newline=b"\\n"))
    async def service(conn):
        await asyncio.sleep(1.8)
        await conn.send(b"welcome")
        async for line in conn:
            await conn.send(line)
"""


@pytest.mark.parametrize("model", MODELS)
def test_time_for_the_first_byte_begins_when_the_handler_waits_for_it(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    code = GREETS_LATE if model == "async" else blocking(GREETS_LATE)
    options = ["--workers", "1", "--model", model, "--first-byte-timeout", "2"]
    with start(module(code), *options) as server, server.connect() as sock:
        assert read_exactly(sock, 8) == b"welcome\n"
        greeted = time.monotonic()
        until(lambda: time.monotonic() >= greeted + 1)
        sock.sendall(b"thanks\n")
        assert read_exactly(sock, 7) == b"thanks\n"


@pytest.mark.parametrize("model", MODELS)
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
