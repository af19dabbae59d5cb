"""How a connection with TLS ends: by TLS's own close, with nothing lost, whoever ends it and however rudely."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from support.scorecard import unexpected
from support.server import Server, read_exactly, reset, run
from support.tls import ADAPTED, BLOCKING, WHO, Authority, Segments, ask, connect
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("service", ["service", "shout"])
def test_a_kept_connection_is_ended_by_a_reload_with_tlss_own_close(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, service: str
) -> None:
    with start(module(WHO).replace("service", service), "--workers", "1", *authority.options) as server:
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"?")
            assert run("reload", "--control", server.control).returncode == 0
            sock.settimeout(10)
            assert sock.recv(100) == b""  # a cut-off would raise here: ragged ends are not suppressed
        until(lambda: [worker["generation"] for worker in server.status()["workers"]] == [2])


def test_the_end_of_a_client_that_only_asks_is_clean(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO).replace("service", "shout"), "--workers", "1", *authority.options) as server:
        sock = connect(server, authority.client())
        assert ask(sock, b"bye") == b"BYE"
        plain = sock.unwrap()  # waits for the server's own close
        plain.close()
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0


LAST_WORDS = """
    from prefork import Lines, conversation

    @conversation(Lines(max_length=1 << 24))
    async def service(conn):
        await conn.receive()
        if conn.tls is None:
            await conn.start_tls()
            await conn.receive()
        await conn.send(b"x" * 8_000_000)
"""


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_a_peer_that_reads_slowly_gets_the_last_words_too(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, mode: str
) -> None:
    options = ["--workers", "1", *authority.options, "--tls-mode", mode]
    with start(module(LAST_WORDS), *options) as server:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        plain.settimeout(10)
        plain.connect(server.address)
        if mode == "starttls":
            plain.sendall(b"starttls\r\n")
            until(lambda: server.status()["totals"]["bytes_in"] == 10)
        with authority.client().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as sock:
            sock.sendall(b"go\r\n")
            slow_until = time.monotonic() + 4  # longer than a close may take if nobody reads
            size = 0
            while data := sock.recv(65536):
                size += len(data)
                if time.monotonic() < slow_until:
                    time.sleep(0.02)  # what makes it a slow one
            assert size == 8_000_002


@pytest.mark.parametrize("model", ["async", "threads", "sync"])
def test_peers_that_are_gone_before_the_handshake_leave_no_trace(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, model: str
) -> None:
    service = module(BLOCKING).replace("service", "shout")
    with start(service, "--workers", "1", "--model", model, *authority.options) as server:
        workers = server.workers()
        address = server.address
        for number in range(100):
            sock = socket.create_connection(address, 10)
            sock.sendall((b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01")[number % 3])
            reset(sock)
        until(lambda: server.status()["totals"]["accepted"] == 100)
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0
        assert server.workers() == workers
        assert not unexpected(server.log())


def test_what_a_peer_sent_before_its_close_is_handed_out(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, tmp_path: Path
) -> None:
    service = module("""
        import asyncio
        from pathlib import Path
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            lines = []
            async for line in conn:
                await asyncio.sleep(0.1)
                lines.append(line)
            Path("lines").write_bytes(b",".join(lines))
    """)
    with start(service, "--workers", "1", *authority.options) as server:
        sock = connect(server, authority.client())
        sock.sendall(b"a\r\nb\r\nc\r\n")
        sock.unwrap().close()
        until((tmp_path / "lines").exists)
        until(lambda: (tmp_path / "lines").read_bytes() == b"a,b,c")
        until(lambda: server.status()["totals"]["connections"] == 0)


ANSWERS = """
    from prefork import Lines, conversation, reply

    @reply(Lines())
    def plain(line):
        return line.upper()

    @reply(Lines())
    async def waits(line):
        return line.upper()

    @conversation(Lines())
    async def dialogue(conn):
        async for line in conn:
            await conn.send(line.upper())

    @conversation(Lines())
    async def starttls(conn):
        async for line in conn:
            await conn.send(line.upper())
            if conn.tls is None:
                await conn.start_tls()
"""


@pytest.mark.parametrize("name", ["plain", "waits", "dialogue", "starttls"])
@pytest.mark.parametrize("before", ["handshake", 0, 1, 2])
@pytest.mark.parametrize("last", [1, 3])
def test_requests_that_come_in_one_piece_with_the_close_are_answered(
    start: Callable[..., Server],
    module: Callable[..., str],
    authority: Authority,
    name: str,
    before: str | int,
    last: int,
) -> None:
    options = ["--workers", "1", *authority.options, "--tls-mode", "starttls" if name == "starttls" else "implicit"]
    with (
        start(module(ANSWERS.replace(f"def {name}", "def service")), *options) as server,
        Segments(server, authority.client()) as peer,
    ):
        if name == "starttls":
            peer.sock.sendall(b"go\r\n")
            assert read_exactly(peer.sock, 4) == b"GO\r\n"
        peer.wait(peer.tls.do_handshake)
        if before != "handshake":  # else the last of it comes with the rest
            peer.send()
            for _ in range(int(before)):
                peer.tls.write(b"before\r\n")
                assert peer.wait(peer.tls.read) == b"BEFORE\r\n"
        peer.tls.write(b"last\r\n" * last)
        peer.say_close()
        answers = b""
        while len(answers) < 6 * last:
            answers += peer.wait(peer.tls.read)
        assert answers == b"LAST\r\n" * last
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert not unexpected(server.log())


@pytest.mark.parametrize("attribute", ["Upper", "streams"])
def test_bytes_that_are_no_tls_are_nobodys_failure_but_the_peers(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str
) -> None:
    with start(module(ADAPTED).replace("service", attribute), "--workers", "1", *authority.options) as server:
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\x17\x03\x03\x00\x20" + b"z" * 32):
            with connect(server, authority.client()) as sock:
                assert ask(sock, b"hi") == b"HI"
                with socket.socket(fileno=os.dup(sock.fileno())) as under:
                    under.sendall(garbage)
                until(lambda: server.status()["totals"]["connections"] == 0)
        assert "Traceback" not in server.log()
