"""The PROXY protocol before every model and adapter: the client is who the balancer says, and nobody else may say."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from typing import TYPE_CHECKING

import pytest
import trustme

from support import proxying
from support.proxying import LOCAL, block, tlv, v1, v2
from support.server import Server, exchange, read_all, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Start = Callable[..., Server]
    Module = Callable[..., str]

WHO = """
    from prefork import Lines, conversation

    @conversation(Lines(newline=b"\\n"))
    {keyword}def service(conn):
        {keyword}for line in conn:
            told = conn.proxied
            more = f"{{told.authority}} {{told.alpn}} {{told.tls and told.tls[:]}}" if told else "alone"
            {wait}conn.send(f"{{line.decode()}} {{conn.peer}} {{conn.local}} {{more}}".encode())
"""
PROTOCOL = """
    import asyncio

    class service(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            who, here = (self.transport.get_extra_info(name) for name in ("peername", "sockname"))
            link = self.transport.get_extra_info("prefork")
            told = link.proxied and link.proxied.authority
            self.transport.write(data[:-1] + f" {who[0]}:{who[1]} {here[0]}:{here[1]} {told}\\n".encode())
"""
STREAMS = """
    async def service(reader, writer):
        while line := await reader.readline():
            who, here = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
            writer.write(line[:-1] + f" {who[0]}:{who[1]} {here[0]}:{here[1]}\\n".encode())
"""
FUNCTION = """
    def service(sock, address):
        while data := sock.recv(1000):
            sock.sendall(data[:-1] + f" {address[0]}:{address[1]}\\n".encode())
"""
HANDLER = """
    import socketserver

    class service(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line[:-1] + f" {self.client_address[0]}:{self.client_address[1]}\\n".encode())
"""
ASYNC = WHO.format(keyword="async ", wait="await ")
BLOCKING = WHO.format(keyword="", wait="")
SERVICES = {
    "async": (ASYNC, "async"),
    "threads": (BLOCKING, "threads"),
    "sync": (BLOCKING, "sync"),
    "protocol": (PROTOCOL, "async"),
    "streams": (STREAMS, "async"),
    "function, threads": (FUNCTION, "threads"),
    "function, sync": (FUNCTION, "sync"),
    "socketserver": (HANDLER, "threads"),
}
each_service = pytest.mark.parametrize(("code", "model"), SERVICES.values(), ids=SERVICES)
each_model = pytest.mark.parametrize(("code", "model"), list(SERVICES.values())[:3], ids=list(SERVICES)[:3])
TRUSTING = ("--proxy-protocol", "any", "--proxy-trust", "127.0.0.0/8", "--access-log", "--log-level", "debug")


def options(model: str, *more: str) -> list[str]:
    return ["--workers", "1", "--model", model, *TRUSTING, *more]


def is_reset(server: Server, data: bytes = b"") -> bool:
    """Say whether a connection that sends `data` and waits is reset before it has read a byte."""
    address = server.address
    try:
        with socket.create_connection(address, 10) as sock:  # that itself may meet the reset
            sock.sendall(data)
            sock.recv(1)
    except ConnectionError:
        return True
    return False


@each_service
@pytest.mark.parametrize("header", [v1(), v2(), v2("2001:db8::7", 4711, "2001:db8::1")], ids=["v1", "v2", "v2, IPv6"])
def test_handler_and_access_log_see_the_client_and_no_byte_behind_the_header_is_lost(
    start: Start, module: Module, code: str, model: str, header: bytes
) -> None:
    client = "[2001:db8::7]:4711" if b"\x21\x21" in header else "192.0.2.7:4711"
    with start(module(code), *options(model)) as server:
        said = exchange(server.address, header + b"one\ntwo\n").decode().splitlines()
        assert (said[0].split()[0], said[-1].split()[0]) == ("one", "two")
        assert said[-1].split()[1].replace("2001:db8::7:", "[2001:db8::7]:") == client
        until(lambda: f"info    closed connection=1 peer={client} " in server.log())
        status = server.status()
        assert (status["totals"]["accepted"], status["totals"]["refused"]) == (1, 0)
        until(lambda: server.status()["totals"]["connections"] == 0)


@each_model
def test_header_may_come_byte_by_byte_and_the_service_right_behind(
    start: Start, module: Module, code: str, model: str
) -> None:
    said = b""
    with start(module(code), *options(model)) as server:
        for header in (v1(), v2(tlvs=tlv(2, b"mail.example") + tlv(1, b"smtp") + proxying.tls(b"TLSv1.3", b"ada"))):
            with server.connect() as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in header + b"hi\n":
                    sock.sendall(bytes([byte]))
                said = b""
                while not said.endswith(b"\n"):
                    said += sock.recv(1000)
                assert said.startswith(b"hi 192.0.2.7:4711 198.51.100.1:443 ")
        assert said.endswith(b"mail.example smtp ('TLSv1.3', 'AES256', 'ada')\n")


@each_service
@pytest.mark.parametrize(
    "header", [LOCAL, b"PROXY UNKNOWN\r\n", block(0x00, bytes(30))], ids=["local", "unknown", "no family"]
)
def test_connection_of_the_balancers_own_keeps_its_address(
    start: Start, module: Module, code: str, model: str, header: bytes
) -> None:
    with start(module(code), *options(model)) as server, server.connect() as sock:
        host, port = sock.getsockname()
        sock.sendall(header + b"hi\n")
        assert sock.recv(1000).startswith(f"hi {host}:{port}".encode())


@each_service
def test_header_from_an_untrusted_source_is_refused(start: Start, module: Module, code: str, model: str) -> None:
    trusting = ["--proxy-protocol", "any", "--proxy-trust", "192.0.2.0/24"]
    with start(module(code), "--workers", "1", "--model", model, *trusting) as server:
        for data in (v1(), v2(), LOCAL, b"hi\n", b""):
            assert is_reset(server, data)
        assert server.status()["totals"]["refused"] == 5
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.log().count("refused a connection: it is not in --proxy-trust peer=127.0.0.1:") == 1  # of five
        assert "192.0.2.7" not in server.log()


@each_service
def test_what_comes_without_a_header_or_with_a_malformed_one_is_refused(
    start: Start, module: Module, code: str, model: str
) -> None:
    bad = [b"hello\n", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 " + b"9" * 200, b"\x16\x03\x01", block(0x11, b"short")]
    with start(module(code), *options(model, "--proxy-protocol", "v2")) as server:
        for data in (*bad, v1() + b"hi\n"):
            assert is_reset(server, data)
        with server.connect() as sock:  # and the worker goes on
            sock.sendall(v2() + b"hi\n")
            assert sock.recv(1000).startswith(b"hi ")
        assert server.status()["totals"]["refused"] == 6
        assert "refused a connection: no PROXY header peer=127.0.0.1:" in server.log()


@each_model
def test_header_must_come_within_the_first_byte_timeout(start: Start, module: Module, code: str, model: str) -> None:
    with start(module(code), *options(model, "--first-byte-timeout", "0.5")) as server:
        for some in (b"", v2()[:20]):
            began = time.monotonic()
            assert is_reset(server, some)
            assert 0.5 <= time.monotonic() - began < 5
        until(lambda: "no PROXY header came within --first-byte-timeout" in server.log())
        with server.connect() as sock:  # the service's first byte has a limit of its own, which begins now
            sock.sendall(v2())
            assert read_all(sock) == b""
        until(lambda: "sent nothing within --first-byte-timeout" in server.log())


@each_model
def test_bare_health_check_that_leaves_without_a_byte_is_no_refusal(
    start: Start, module: Module, code: str, model: str
) -> None:
    with start(module(code), *options(model)) as server:
        server.connect().close()
        until(lambda: "a connection ended before its PROXY header" in server.log())
        totals = server.status()["totals"]
        assert (totals["accepted"], totals["refused"], totals["errors"]) == (1, 0, 0)
        until(lambda: server.status()["totals"]["connections"] == 0)


@each_service
def test_header_comes_before_tls_and_within_the_time_of_its_handshake(
    start: Start, module: Module, tmp_path: Path, code: str, model: str
) -> None:
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pair.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    secure = ["--tls-cert", str(tmp_path / "pair.pem"), "--handshake-timeout", "0.5"]
    with start(module(code), *options(model, *secure)) as server:
        with server.connect() as sock:
            sock.sendall(v2())
            with context.wrap_socket(sock, server_hostname="localhost") as wrapped:
                wrapped.sendall(b"hi\n")
                assert wrapped.recv(1000).split()[:2] == [b"hi", b"192.0.2.7:4711"]
        began = time.monotonic()
        assert is_reset(server)
        assert 0.5 <= time.monotonic() - began < 5
        until(lambda: "no PROXY header came within --handshake-timeout" in server.log())


@each_model
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["stop", "reload"])
def test_drain_serves_whose_header_is_under_way_and_does_not_wait_for_who_is_silent(
    start: Start, module: Module, code: str, model: str, number: signal.Signals
) -> None:
    workers = ["--workers", "3"] if model == "sync" else []
    with start(module(code), *options(model, *workers)) as server:
        with server.connect() as late, server.connect() as silent:
            late.sendall(v2()[:20])
            until(lambda: server.status()["totals"]["connections"] == 2)
            server.send(number)
            until(lambda: any(w["state"] == "draining" for w in server.status()["workers"]))
            late.sendall(v2()[20:] + b"hi\n")
            assert late.recv(1000).startswith(b"hi 192.0.2.7:4711 ")
            began = time.monotonic()
            assert read_all(silent) == b""  # an end of file: it has done nothing wrong
            assert time.monotonic() - began < 5
            late.shutdown(socket.SHUT_WR)
            assert read_all(late) == b""
        if number is signal.SIGTERM:
            assert server.process.wait(10) == 0


def test_unix_socket_is_trusted_by_its_own_word(start: Start, module: Module, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    for trust, trusted in (("unix", True), ("127.0.0.0/8", False)):
        options = ["--workers", "1", "--proxy-protocol", "v2", "--proxy-trust", trust]
        with start(module(ASYNC), *options, bind=f"unix:{path}"), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            if trusted:
                sock.sendall(v2() + b"hi\n")
                assert sock.recv(1000).startswith(b"hi 192.0.2.7:4711 ")
            else:
                assert read_all(sock) == b""  # such a socket knows no reset


def test_many_headers_at_once_each_get_their_own_client(start: Start, module: Module) -> None:
    with start(module(ASYNC), *options("async", "--workers", "2")) as server:
        for _ in range(10):
            socks = [server.connect() for _ in range(50)]
            for number, sock in enumerate(socks):
                sock.sendall(v2(f"192.0.2.{number}")[: 5 + number])
            for number, sock in enumerate(socks):
                sock.sendall(v2(f"192.0.2.{number}")[5 + number :] + b"hi\n")
            for number, sock in enumerate(socks):
                with sock:
                    assert sock.recv(1000).startswith(f"hi 192.0.2.{number}:4711 ".encode())
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0


LISTENING = """
    async def service(listener):
        listener.ready()
        await listener.draining()
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--proxy-protocol", "v2"], "--proxy-protocol v2: needs --proxy-trust CIDR, the network of the balancers"),
        (["--proxy-trust", "10.0.0.0/8"], "--proxy-trust: means nothing without --proxy-protocol"),
        (["--proxy-protocol", "v3"], "--proxy-protocol 'v3': must be one of off, v1, v2, any"),
        (
            ["--proxy-trust", "10.0.0.1/8"],
            "--proxy-trust '10.0.0.1/8': has bits set behind the prefix; the network is 10.",
        ),
        (["--deny", "somewhere"], "--deny 'somewhere': must be a network, such as 10.0.0.0/8"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_in_one_line(more: list[str], said: str) -> None:
    checked = run("check", "echo", *more)
    assert (checked.returncode, checked.stdout) == (2, "")
    assert f"prefork: {said}" in checked.stderr


@pytest.mark.parametrize(
    "more",
    [
        ["--proxy-protocol", "v2", "--proxy-trust", "10.0.0.0/8"],
        ["--max-connections-per-source", "3"],
        ["--allow", "10.0.0.0/8"],
        ["--deny", "10.0.0.0/8"],
    ],
    ids=lambda more: more[0],
)
def test_server_that_accepts_by_itself_cannot_be_given_what_it_would_not_keep(
    module: Module, tmp_path: Path, more: list[str]
) -> None:
    target = module(LISTENING)
    for command in ("check", "serve"):
        done = run(command, target, "--bind", "127.0.0.1:0", "--workers", "1", *more, cwd=tmp_path)
        assert done.returncode == 3
        assert f"{more[0]}: service accepts by itself and must see to that; drop the option" in done.stderr
