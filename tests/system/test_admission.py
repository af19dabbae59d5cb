"""Who may come in: by network, and so many of one source over all workers, whichever they land on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trustme

from support.proxying import LOCAL, v2
from support.server import exchange, read_all, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.server import Server

    Start = Callable[..., Server]
    Module = Callable[..., str]

ECHO = """
    from prefork import Lines, reply

    @reply(Lines(newline=b"\\n"))
    def service(line):
        return line
"""
MODELS = ["async", "threads", "sync"]
each_model = pytest.mark.parametrize("model", MODELS)


class Clients:
    """Connections to a server that are kept, each from a loopback address of one's choice; closed at the end."""

    def __init__(self, server: Server) -> None:
        self._address = server.address
        self.held: list[socket.socket] = []

    def is_let_in(self, source: str = "127.0.0.1", header: bytes = b"") -> bool:
        """Connect, ask and keep the connection; False if it was reset."""
        sock = socket.socket()
        sock.settimeout(20)
        sock.bind((source, 0))
        try:
            sock.connect(self._address)
            sock.sendall(header + b"hi\n")
            answer = sock.recv(3)
        except ConnectionError:
            sock.close()
            return False
        except TimeoutError:
            sock.close()
            raise
        self.held.append(sock)
        assert answer == b"hi\n"
        return True

    def close(self) -> None:
        """Let all go."""
        for sock in self.held:
            sock.close()
        self.held.clear()


@pytest.fixture
def clients() -> Iterator[Callable[[Server], Clients]]:
    made: list[Clients] = []

    def make(server: Server) -> Clients:
        made.append(Clients(server))
        return made[-1]

    yield make
    for one in made:
        one.close()


@each_model
def test_network_that_is_denied_is_reset_before_any_work_and_others_are_served(
    start: Start, module: Module, clients: Callable[[Server], Clients], model: str
) -> None:
    rules = ["--deny", "127.0.0.0/8", "--allow", "127.0.2.0/24", "--deny", "127.0.2.9"]
    with start(module(ECHO), "--workers", "1", "--threads", "4", "--model", model, *rules) as server:
        for _ in range(3):
            assert not clients(server).is_let_in("127.0.0.1")
        assert not clients(server).is_let_in("127.0.2.9")
        assert clients(server).is_let_in("127.0.2.8")
        totals = server.status()["totals"]
        assert (totals["refused"], totals["requests"], totals["errors"]) == (4, 1, 0)
        assert server.log().count("refused a connection: its network may not come in (--allow, --deny)") == 1
        assert server.status()["workers"][0]["refused"] == 4


@each_model
def test_source_that_holds_its_limit_is_refused_more_and_gets_a_place_back_with_each_that_ends(
    start: Start, module: Module, clients: Callable[[Server], Clients], model: str
) -> None:
    size = ["--workers", "8"] if model == "sync" else ["--workers", "2", "--threads", "5"]
    with start(module(ECHO), *size, "--model", model, "--max-connections-per-source", "3") as server:
        greedy, modest = clients(server), clients(server)
        assert [greedy.is_let_in() for _ in range(6)] == [True] * 3 + [False] * 3
        assert modest.is_let_in("127.0.0.2")
        for _ in range(2):
            greedy.held.pop().close()
            until(greedy.is_let_in, what="the place is free again")
            assert not greedy.is_let_in()
        assert "refused a connection: its source has 3 connections (--max-connections-per-source)" in server.log()
        greedy.close()
        modest.close()
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert [greedy.is_let_in() for _ in range(4)] == [True] * 3 + [False]


@pytest.mark.parametrize("model", ["async", "threads"])
def test_limit_of_50_over_4_workers_lets_50_through_whichever_they_land_on(
    start: Start, module: Module, clients: Callable[[Server], Clients], model: str
) -> None:
    # fewer threads than the limit: no worker can take them all
    options = ["--workers", "4", "--threads", "20", "--model", model, "--max-connections-per-source", "50"]
    with start(module(ECHO), *options) as server:
        greedy = clients(server)
        let_in = sum(greedy.is_let_in() for _ in range(200))
        assert let_in == len(greedy.held) == 50
        status = server.status()
        assert status["totals"]["refused"] == 150
        assert sum(w["connections"] > 0 for w in status["workers"]) > 1  # one alone would prove nothing


@each_model
def test_place_of_who_fails_the_handshake_or_is_gone_at_once_is_free_again(
    start: Start, module: Module, tmp_path: Path, model: str
) -> None:
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pair.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    secure = ["--tls-cert", str(tmp_path / "pair.pem"), "--handshake-timeout", "0.5"]
    options = ["--workers", "2", "--threads", "4", "--model", model, "--max-connections-per-source", "2"]
    with start(module(ECHO), *options, *secure) as server:

        def fails(data: bytes) -> None:
            with server.connect() as sock, contextlib.suppress(ConnectionError):
                sock.sendall(data)
                read_all(sock)

        def is_served() -> bool:
            try:
                with server.connect() as sock, context.wrap_socket(sock, server_hostname="localhost") as wrapped:
                    wrapped.sendall(b"hi\n")
                    return wrapped.recv(3) == b"hi\n"
            except ConnectionError:
                return False

        for _ in range(4):
            fails(b"this is no TLS, and long enough to say so\n")
            fails(b"\x16\x03\x01")  # and nothing more: its time runs out
            gone = server.connect()
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        until(lambda: server.status()["totals"]["connections"] == 0)
        for _ in range(4):
            until(is_served, what="no place is taken")


ADAPTED = {
    "protocol": """
        import asyncio

        class service(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(data)
    """,
    "streams": """
        async def service(reader, writer):
            while line := await reader.readline():
                writer.write(line)
    """,
    "function": """
        def service(sock, address):
            while data := sock.recv(1000):
                sock.sendall(data)
    """,
}


@pytest.mark.parametrize("code", ADAPTED.values(), ids=ADAPTED)
def test_limit_holds_before_adapted_code_too_and_each_place_comes_back(
    start: Start, module: Module, clients: Callable[[Server], Clients], code: str
) -> None:
    with start(module(code), "--workers", "2", "--max-connections-per-source", "1") as server:
        one = clients(server)
        for _ in range(3):
            until(one.is_let_in, what="the place is free")
            assert not one.is_let_in()
            one.close()


def test_limit_that_a_reload_brings_counts_from_then_on_and_one_that_it_takes_away_is_gone(
    start: Start, module: Module, clients: Callable[[Server], Clients], tmp_path: Path
) -> None:
    config = tmp_path / "prefork.toml"
    config.write_text("")
    with start(module(ECHO), "--workers", "2", "--config", str(config)) as server:

        def pids() -> set[int]:
            return {w["pid"] for w in server.status()["workers"]}

        def have_left(old: set[int]) -> bool:  # they know another limit, or none
            return not old & pids() and {w["state"] for w in server.status()["workers"]} == {"serving"}

        for limit, let_in in ((2, 2), (3, 3), (0, 5)):
            old = pids()
            config.write_text(f"max-connections-per-source = {limit}\n")
            server.send(signal.SIGHUP)
            until(partial(have_left, old))
            one = clients(server)
            assert sum(one.is_let_in() for _ in range(5)) == let_in
            one.close()
            until(lambda: server.status()["totals"]["connections"] == 0)


def test_reload_to_more_connections_than_the_table_of_sources_has_room_for_is_refused(
    start: Start, tmp_path: Path
) -> None:
    config = tmp_path / "prefork.toml"
    config.write_text("max-connections-per-source = 2\nmax-connections = 1000\n")
    with start("echo", "--workers", "1", "--config", str(config)) as server:
        config.write_text("max-connections-per-source = 2\nmax-connections = 1024\n")
        assert run("reload", "--control", server.control).returncode == 0
        config.write_text("max-connections-per-source = 2\nmax-connections = 1025\n")
        refused = run("reload", "--control", server.control)
        assert refused.returncode == 1
        assert "--max-connections 1025: the table of sources was made for 1000" in refused.stderr
        config.write_text("max-connections = 1025\n")
        assert run("reload", "--control", server.control).returncode == 0


def test_old_generation_counts_while_it_drains(
    start: Start, module: Module, clients: Callable[[Server], Clients]
) -> None:
    service = module("""
        from prefork import Lines, conversation

        @conversation(Lines(newline=b"\\n"))
        async def service(conn):
            async for line in conn:
                await conn.send(line)
                await conn.receive()
                import asyncio
                await asyncio.sleep(60)
    """)
    options = ["--workers", "2", "--max-connections-per-source", "4", "--drain-timeout", "20"]
    with start(service, *options) as server:
        old, new = clients(server), clients(server)
        assert all(old.is_let_in() for _ in range(3))
        for sock in old.held:
            sock.sendall(b"and stay\n")
        server.send(signal.SIGHUP)
        until(lambda: server.status()["generation"] == 2)
        until(lambda: {w["state"] for w in server.status()["workers"]} == {"serving", "draining"})
        assert new.is_let_in()
        assert not new.is_let_in()


def test_what_a_killed_worker_held_is_forgotten(
    start: Start, module: Module, clients: Callable[[Server], Clients]
) -> None:
    with start(module(ECHO), "--workers", "2", "--max-connections-per-source", "4") as server:
        one = clients(server)
        assert [one.is_let_in() for _ in range(5)] == [True] * 4 + [False]
        for pid in server.workers().values():
            os.kill(pid, signal.SIGKILL)
        until(lambda: server.has_replaced(2), what="both are replaced")
        assert [one.is_let_in() for _ in range(5)] == [True] * 4 + [False]


def test_unix_sockets_have_no_source_and_no_network(start: Start, module: Module, tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    with start(module(ECHO), "--max-connections-per-source", "1", "--deny", "0.0.0.0/0", bind=f"unix:{path}"):
        socks = []
        for _ in range(5):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            sock.sendall(b"hi\n")
            assert sock.recv(3) == b"hi\n"
            socks.append(sock)
        for sock in socks:
            sock.close()


@each_model
def test_rules_and_limit_look_at_the_client_behind_the_balancer(
    start: Start, module: Module, clients: Callable[[Server], Clients], model: str
) -> None:
    rules = ["--deny", "192.0.2.0/24", "--deny", "127.0.0.0/8", "--max-connections-per-source", "2"]
    trusting = ["--proxy-protocol", "v2", "--proxy-trust", "127.0.0.0/8"]
    size = ["--workers", "12"] if model == "sync" else ["--workers", "2", "--threads", "10"]
    with start(module(ECHO), *size, "--model", model, *rules, *trusting) as server:
        balancer = clients(server)
        assert not balancer.is_let_in(header=v2("192.0.2.7"))
        assert [balancer.is_let_in(header=v2("203.0.113.1")) for _ in range(3)] == [True, True, False]
        same_64, other_64 = v2("2001:db8::1", destination="::1"), v2("2001:db8:0:1::1", destination="::1")
        assert balancer.is_let_in(header=same_64)
        assert balancer.is_let_in(header=v2("2001:db8::2", destination="::1"))
        assert not balancer.is_let_in(header=same_64)
        assert balancer.is_let_in(header=other_64)
        assert all(balancer.is_let_in(header=LOCAL) for _ in range(4))  # its own: neither rules nor limit concern it
        assert server.status()["totals"]["refused"] == 3


def test_refused_connections_are_shown_by_status(start: Start, module: Module) -> None:
    with start(module(ECHO), "--workers", "1", "--deny", "127.0.0.1") as server:
        with pytest.raises(ConnectionError):
            assert exchange(server.address, b"hi\n")
        until(lambda: server.status()["totals"]["refused"] == 1)
