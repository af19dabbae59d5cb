"""What a slow peer is allowed: each wait has its own deadline, and a handler can change those of its connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from support.server import Server, read_all
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
