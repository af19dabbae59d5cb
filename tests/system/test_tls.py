"""TLS as a client sees it: handshakes good and bad, what was agreed, and tickets."""

from __future__ import annotations

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from support.server import Server, read_all, read_exactly, run
from support.tls import ADAPTED, BLOCKING, WHO, Authority, ask, connect
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_two_hundred_connections_are_answered(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    context = authority.client()
    with start(module(WHO).replace("service", "shout"), "--workers", "2", *authority.options) as server:

        def one(number: int) -> bool:
            with connect(server, context) as sock:
                return all(ask(sock, b"a%d" % number * size) == b"A%d" % number * size for size in (1, 700))

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(one, range(200)))
        until(lambda: server.status()["totals"]["connections"] == 0)
        totals = server.status()["totals"]
        assert (totals["accepted"], totals["requests"], totals["errors"]) == (200, 400, 0)
        assert server.stop() == 0


def test_the_handler_sees_what_was_agreed(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    options = [*authority.options, "--tls-client-ca", str(authority.ca_file), "--tls-alpn", "who", "--tls-alpn", "x"]
    with start(module(WHO), "--workers", "1", *options) as server:
        context = authority.client("Ada")
        context.set_alpn_protocols(["y", "x", "who"])
        with connect(server, context) as sock:
            assert ask(sock, b"who am I?") == b"TLSv1.3 who Ada"


def test_a_client_without_the_certificate_that_is_asked_for_is_refused(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO), "--workers", "1", *authority.options, "--tls-client-ca", str(authority.ca_file)) as server:
        with pytest.raises(ssl.SSLError), connect(server, authority.client()) as sock:
            ask(sock, b"let me in")  # with TLS 1.3 the refusal comes with the first answer
        until(lambda: "a TLS handshake failed: peer did not return a certificate" in server.log())
        with connect(server, authority.client("Ada")) as sock:
            assert ask(sock, b"me?") == b"TLSv1.3 - Ada"


def test_a_version_too_old_is_refused(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    old = authority.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with start(module(WHO), "--workers", "1", *authority.options, "--tls-min-version", "1.3") as server:
        with pytest.raises(ssl.SSLError):
            connect(server, old)
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"?") == b"TLSv1.3 - -"
    with start(module(WHO), "--workers", "1", *authority.options) as server, connect(server, old) as sock:
        assert ask(sock, b"?") == b"TLSv1.2 - -"


def test_plain_text_on_the_port_is_one_clear_line_and_harms_nobody(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO), "--workers", "1", *authority.options) as server:
        workers = server.workers()
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\x1b[31mred\r\n" * 20) * 10:
            with server.connect() as sock:
                sock.sendall(garbage)
                read_all(sock)
        until(lambda: server.status()["totals"]["errors"] == 20)
        line, *more = [line for line in server.log().splitlines() if "handshake" in line]
        assert "the peer speaks plain text, and this port TLS" in line
        assert more == []  # the others are left out, and counted in the next one
        assert "\x1b" not in server.log()
        assert server.workers() == workers
        until(lambda: server.status()["totals"]["connections"] == 0)


def test_a_peer_that_does_not_shake_hands_holds_up_nobody_and_is_closed_by_the_deadline(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    options = [*authority.options, "--handshake-timeout", "0.5"]
    with start(module(WHO), "--workers", "1", *options) as server:
        silent = [server.connect() for _ in range(20)]
        began = time.monotonic()
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"?") == b"TLSv1.3 - -"
        for one in silent:
            with one:
                assert read_all(one) == b""
        assert time.monotonic() - began < 5
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 20
        assert server.log().count("it was not done within --handshake-timeout") == 1


def is_resumed(server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None) -> bool:
    """Connect with what an earlier connection has left, and ask; say whether the server remembered."""
    with connect(server, context, session) as sock:
        assert ask(sock, b"?")
        return bool(sock.session_reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tickets_are_good_for_every_worker(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.client()
    context.maximum_version = version
    with start(module(WHO), "--workers", "4", *authority.options) as server:
        with connect(server, context) as sock:
            assert ask(sock, b"?")
            session = sock.session  # with TLS 1.3 it has come behind the handshake
        kept = []
        for _ in range(12):
            kept.append(connect(server, context, session))
            assert ask(kept[-1], b"?")
        assert all(sock.session_reused for sock in kept)
        assert all(worker["accepted"] for worker in server.status()["workers"])
        for sock in kept:
            sock.close()


def test_tickets_outlive_a_reload_and_not_their_certificate(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    context = authority.client()
    second = authority.issue("second.example", file="second")
    with start(module(WHO), "--workers", "2", *authority.options, *second) as server:
        with connect(server, context) as sock:
            assert ask(sock, b"?")
            session = sock.session
        for _ in range(2):
            assert run("reload", "--control", server.control).returncode == 0
            assert is_resumed(server, context, session)
        authority.issue("second.example", file="second")  # any of them
        assert run("reload", "--control", server.control).returncode == 0
        assert not is_resumed(server, context, session)  # a whole handshake, and no failure


def client_hello(context: ssl.SSLContext) -> bytes:
    """Return the first that a client with TLS says."""
    said = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost").do_handshake()
    return said.read()


HELLO = """
    from prefork import Connection, BlockingConnection, LengthPrefixed, Lines, conversation, reply

    @reply(Lines())
    def lines(line: bytes) -> bytes:
        return line

    @reply(LengthPrefixed(4))
    def prefixed(frame: bytes) -> bytes:
        return frame

    @conversation(LengthPrefixed(4))
    async def dialogue(conn: Connection) -> None:
        async for frame in conn:
            await conn.send(frame)

    @conversation(Lines())
    def blocking(conn: BlockingConnection) -> None:
        for frame in conn:
            conn.send(frame)
"""


@pytest.mark.parametrize(
    ("attribute", "options"),
    [
        ("lines", []),
        ("prefixed", []),
        ("dialogue", []),
        ("blocking", []),
        ("prefixed", ["--model", "sync"]),
        ("blocking", ["starttls"]),
        ("dialogue", ["starttls"]),
    ],
)
def test_tls_on_a_plain_port_is_one_clear_line(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str, options: list[str]
) -> None:
    if options == ["starttls"]:
        options = [*authority.options, "--tls-mode", "starttls"]
    with start(module(HELLO).replace("service", attribute), "--workers", "1", *options) as server:
        workers = server.workers()
        for _ in range(5):
            with server.connect() as plain:
                plain.sendall(client_hello(authority.client()))
                plain.shutdown(socket.SHUT_WR)
                read_all(plain)
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 5
        line, *more = [line for line in server.log().splitlines() if "peer=" in line]
        assert "the peer speaks TLS, and this port plain text" in line
        assert ("--tls-mode is starttls" if authority.options[0] in options else "give --tls-cert") in line
        assert more == []
        assert server.workers() == workers


def test_bytes_that_only_begin_like_tls_are_a_services_own(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    with start(module(HELLO).replace("service", "lines"), "--workers", "1") as server:
        for frame in (b"\x16\x03\x01\x02", b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"):
            with server.connect() as sock:
                sock.sendall(frame + b"\r\n")
                assert read_exactly(sock, len(frame) + 2) == frame + b"\r\n"
        assert server.status()["totals"]["errors"] == 0
        assert "TLS" not in server.log()


@pytest.mark.parametrize("model", ["threads", "sync"])
def test_blocking_workers_speak_tls_too(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, model: str
) -> None:
    context = authority.client()
    options = ["--workers", "2", "--model", model, *authority.options, "--handshake-timeout", "1"]
    with start(module(BLOCKING).replace("service", "shout"), *options) as server:

        def one(number: int) -> bool:
            with connect(server, context) as sock:
                answers = [ask(sock, b"a%d" % number * size) == b"A%d" % number * size for size in (1, 700, 20_000)]
                sock.unwrap()  # waits for the server's own close
                return all(answers)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(one, range(60)))
        with server.connect() as silent, server.connect() as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            read_all(plain)
            assert read_all(silent) == b""
        until(lambda: "the peer speaks plain text, and this port TLS" in server.log())
        until(lambda: "it was not done within --handshake-timeout" in server.log())
        server.connect().close()  # a health check is no error
        with connect(server, context) as sock:
            assert ask(sock, b"kept") == b"KEPT"
            assert run("reload", "--control", server.control).returncode == 0
            sock.settimeout(10)
            assert sock.recv(100) == b""  # a cut-off would raise
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 2
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("attribute", ["Upper", "streams"])
def test_what_already_exists_speaks_tls_too(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str
) -> None:
    options = ["--workers", "1", *authority.options, "--drain-timeout", "3"]
    with start(module(ADAPTED).replace("service", attribute), *options) as server:
        for _ in range(2):
            sock = connect(server, authority.client())
            assert ask(sock, b"bye") == b"BYE"
            sock.unwrap().close()  # waits for the server's own close
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"kept") == b"KEPT"
            assert run("reload", "--control", server.control).returncode == 0
            sock.settimeout(10)
            assert sock.recv(100) == b""  # a cut-off would raise
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0
        assert "Traceback" not in server.log()
        assert "returning true" not in server.log()


def test_a_target_that_is_given_plain_sockets_is_refused(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def service(sock, address):\n    pass\n")
    for command in ("check", "serve"):
        told = run(
            command, "app:service", "--bind", "127.0.0.1:0", "--control", "off", "--log-level", "error",
            *authority.options, cwd=tmp_path,
        )  # fmt: skip
        assert (told.returncode, told.stdout, told.stderr.count("\n")) == (3, "", 1), told
        assert "--tls-cert: service is given plain sockets and must do its TLS itself; drop the option" in told.stderr
