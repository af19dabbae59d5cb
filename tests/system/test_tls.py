"""TLS as a client sees it: handshakes good and bad, what was agreed, and tickets."""

from __future__ import annotations

import os
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from support.server import Server, read_all, read_exactly, run
from support.tls import ADAPTED, BLOCKING, KINDS, WHO, Authority, ask, connect
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


@pytest.mark.parametrize(("attribute", "model"), KINDS.items())
def test_what_already_exists_speaks_tls_too(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str, model: str
) -> None:
    options = ["--workers", "1", "--model", model, *authority.options, "--drain-timeout", "3"]
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
        totals = server.status()["totals"]
        assert (totals["accepted"], totals["errors"]) == (3, 0)
        assert (totals["bytes_in"], totals["bytes_out"]) == (16, 16)  # of the service's own
        assert "Traceback" not in server.log()
        assert "returning true" not in server.log()


@pytest.mark.parametrize(("attribute", "model"), KINDS.items())
def test_what_already_exists_is_kept_from_who_does_not_shake_hands(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str, model: str
) -> None:
    options = ["--workers", "1", "--model", model, *authority.options, "--handshake-timeout", "0.5", "--access-log"]
    with start(module(ADAPTED).replace("service", attribute), *options) as server:
        with server.connect() as plain, server.connect() as silent:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert read_all(plain) == b""
            plain.close()
            assert read_all(silent) == b""
        server.connect().close()  # a health check is no error
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"hi") == b"HI"
        until(lambda: server.log().count("the TLS handshake failed") == 3, what="each has a line in the access log")
        assert server.status()["totals"]["errors"] == 2
        assert server.status()["totals"]["bytes_in"] == 4
        assert "Traceback" not in server.log()


SOCKETS = """
    import socket, threading

    def echo(sock, address):
        while data := sock.recv(1000):
            sock.sendall(data)

    def who(sock, address):
        subject = dict(pair[0] for pair in sock.getpeercert()["subject"])
        words = [sock.version(), sock.selected_alpn_protocol(), subject["commonName"], str(sock.pending())]
        sock.sendall(" ".join(words).encode() + b" " + sock.cipher()[1].encode())

    def both(sock, address):
        size = 0

        def speak():
            for _ in range(40):
                sock.sendall(b"x" * 100_000)

        speaker = threading.Thread(target=speak)
        speaker.start()
        while size < 4_000_000 and (data := sock.recv(100_000)):
            size += len(data)
        speaker.join()
        sock.sendall(b"y%d" % size)

    def half(sock, address):
        sock.sendall(b"all that I say")
        sock.shutdown(socket.SHUT_WR)
        print("heard", sock.makefile("rb").read(), flush=True)

    def own_clock(sock, address):
        sock.settimeout(0.2)
        try:
            sock.recv(1)
        except TimeoutError:
            sock.sendall(b"too slow, ")
        sock.setblocking(False)
        try:
            sock.recv(1)
        except BlockingIOError:
            pass
        sent = 0
        try:
            while True:
                sent += sock.send(b"x" * 100_000)
        except BlockingIOError:
            sock.settimeout(5)
            sock.sendall(b"y%d" % sent)
"""


@pytest.fixture
def sockets(start: Callable[..., Server], module: Callable[..., str], authority: Authority) -> Callable[..., Server]:
    """Return a function that serves one of `SOCKETS` with TLS."""
    target = module(SOCKETS)
    return lambda name, *more: start(target.replace("service", name), "--workers", "1", *authority.options, *more)


def test_a_function_sees_what_was_agreed(sockets: Callable[..., Server], authority: Authority) -> None:
    with sockets("who", "--tls-client-ca", str(authority.ca_file), "--tls-alpn", "who") as server:
        context = authority.client("Ada")
        context.set_alpn_protocols(["who"])
        with connect(server, context) as sock:
            assert read_all(sock) == b"TLSv1.3 who Ada 0 TLSv1.3"


def test_a_function_reads_and_writes_at_once_in_two_threads(
    sockets: Callable[..., Server], authority: Authority
) -> None:
    with sockets("both") as server, connect(server, authority.client()) as sock:
        sock.sendall(b"z" * 4_000_000)  # and reads nothing meanwhile: the thread that writes has to wait
        assert read_all(sock) == b"x" * 4_000_000 + b"y4000000"


def test_a_function_may_half_close_and_read_on(sockets: Callable[..., Server], authority: Authority) -> None:
    with sockets("half") as server, connect(server, authority.client()) as sock:
        assert read_all(sock) == b"all that I say"  # TLS's own end: a cut-off would raise
        sock.sendall(b"and ")
        sock.sendall(b"more")
        sock.unwrap()
        until(lambda: "heard b'and more'" in server.log())
        assert server.status()["totals"]["errors"] == 0


def test_clock_that_a_function_sets_is_its_own_behind_tls_too(
    sockets: Callable[..., Server], authority: Authority
) -> None:
    with sockets("own_clock") as server, connect(server, authority.client()) as sock:
        assert read_exactly(sock, 10) == b"too slow, "
        until(lambda: server.status()["totals"]["bytes_out"] > 1_000_000, what="no room is left")
        rest = read_all(sock)
        sent = int(rest.partition(b"y")[2])
        assert rest == b"x" * sent + b"y%d" % sent
        assert server.status()["totals"]["errors"] == 0


@pytest.mark.parametrize("attribute", ["Handler", "function"])
@pytest.mark.parametrize("option", ["--first-byte-timeout", "--idle-timeout", "--write-timeout"])
def test_deadlines_hold_for_sockets_behind_tls(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str, option: str
) -> None:
    options = ["--workers", "1", "--model", KINDS[attribute], *authority.options, "--access-log", option, "0.5"]
    with start(module(ADAPTED).replace("service", attribute), *options) as server:
        with connect(server, authority.client()) as sock:
            if option == "--idle-timeout":
                assert ask(sock, b"kept") == b"KEPT"
            if option == "--write-timeout":
                sock.settimeout(0.2)
                with pytest.raises(OSError, match=r"timed out|reset|Broken pipe"):
                    sock.sendall(b"x\r\n" * 13_000_000)
                until(lambda: option in server.log(), what="it is why the connection was closed")
            else:
                assert read_all(sock) == b""
        until(lambda: option in server.log())
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0


def test_record_that_comes_in_drips_gives_a_function_no_more_time(
    sockets: Callable[..., Server], authority: Authority
) -> None:
    with sockets("echo", "--first-byte-timeout", "0.5") as server, connect(server, authority.client()) as sock:
        began = time.monotonic()
        with socket.socket(fileno=os.dup(sock.fileno())) as under:
            under.sendall(b"\x17\x03\x03\x40\x00")  # the head of a long record

            def is_lost() -> bool:  # asked a hundred times a second: that is the pace of the drips
                try:
                    under.sendall(b"z")
                except ConnectionError:
                    return True
                return False

            until(is_lost)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("attribute", "options", "said"),
    [
        ("listening", [], "--tls-cert: listening accepts by itself and must do its TLS itself; drop the option"),
        ("streams", ["--tls-mode", "starttls"], "--tls-mode starttls: streams knows nothing of prefork and could not "),
        ("function", ["--tls-mode", "starttls"], "--tls-mode starttls: function knows nothing of prefork and could no"),
    ],
)
def test_what_could_not_use_the_certificate_is_refused(
    module: Callable[..., str], authority: Authority, tmp_path: Path, attribute: str, options: list[str], said: str
) -> None:
    target = module(ADAPTED + "\n    async def listening(listener): ...\n").replace("service", attribute)
    for command in ("check", "serve"):
        told = run(
            command, target, "--bind", "127.0.0.1:0", "--control", "off", "--log-level", "error",
            *authority.options, *options, cwd=tmp_path,
        )  # fmt: skip
        assert (told.returncode, told.stdout, told.stderr.count("\n")) == (3, "", 1), told
        assert said in told.stderr
