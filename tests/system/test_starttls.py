"""TLS that begins in the middle, when the protocol asks for it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from support.server import Server, read_exactly, reset
from support.tls import BLOCKING, WHO, Authority, ask
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def add_a_line_in_plain_text(server: Server, authority: Authority) -> None:
    """As an attacker in the middle does before the handshake: it must not be taken for a line that came by TLS."""
    with server.connect() as plain:
        plain.sendall(b"starttls\r\nevil\r\n")
        assert read_exactly(plain, 10) == b"go ahead\r\n"
        with pytest.raises(OSError, match=r"EOF|reset"):
            authority.client().wrap_socket(plain, server_hostname="localhost")
    until(lambda: server.status()["totals"]["connections"] == 0)
    assert "Traceback" not in server.log()


def test_starttls_begins_in_the_middle_and_takes_nothing_that_came_before_it(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO), "--workers", "1", *authority.options, "--tls-mode", "starttls") as server:
        with server.connect() as plain:
            plain.sendall(b"?\r\nstarttls\r\n")
            assert read_exactly(plain, 17) == b"plain\r\ngo ahead\r\n"
            with authority.client().wrap_socket(plain, server_hostname="localhost") as sock:
                assert ask(sock, b"?") == b"TLSv1.3 - -"
                assert ask(sock, b"still?") == b"TLSv1.3 - -"
        add_a_line_in_plain_text(server, authority)


@pytest.mark.parametrize("model", ["threads", "sync"])
def test_starttls_in_a_blocking_dialogue(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, model: str
) -> None:
    options = ["--workers", "1", "--model", model, *authority.options, "--tls-mode", "starttls"]
    with start(module(BLOCKING), *options) as server:
        with server.connect() as plain:
            plain.sendall(b"?\r\nstarttls\r\n")
            assert read_exactly(plain, 17) == b"plain\r\ngo ahead\r\n"
            with authority.client().wrap_socket(plain, server_hostname="localhost") as sock:
                assert ask(sock, b"?") == b"TLSv1.3 -"
        add_a_line_in_plain_text(server, authority)


STARTTLS_LATER = """
    import asyncio
    import time
    from pathlib import Path
    from prefork import Lines, conversation

    @conversation(Lines())
    async def service(conn):
        await conn.receive()
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        await conn.start_tls()

    @conversation(Lines())
    def blocking(conn):
        conn.receive()
        while not Path("go").exists():
            time.sleep(0.01)
        conn.start_tls()
"""


@pytest.mark.parametrize("attribute", ["service", "blocking"])
@pytest.mark.parametrize("when", ["before", "in the middle", "half-closed", "silent"])
def test_peers_that_leave_around_starttls_leave_no_trace(
    start: Callable[..., Server],
    module: Callable[..., str],
    authority: Authority,
    tmp_path: Path,
    attribute: str,
    when: str,
) -> None:
    options = ["--workers", "1", *authority.options, "--tls-mode", "starttls", "--handshake-timeout", "1"]
    with start(module(STARTTLS_LATER).replace("service", attribute), *options) as server, server.connect() as sock:
        sock.sendall(b"starttls\r\n")
        until(lambda: server.status()["totals"]["bytes_in"] == 10)
        if when == "before":
            reset(sock)
        elif when == "half-closed":
            sock.shutdown(socket.SHUT_WR)
        (tmp_path / "go").touch()
        if when == "in the middle":
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            reset(sock)
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("end", ["conn.abort()", "await conn.close()"])
def test_connection_that_is_ended_in_the_handshake_leaves_no_trace(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, end: str
) -> None:
    service = module(f"""
        import asyncio
        from prefork import Lines, conversation

        @conversation(Lines())
        async def service(conn):
            async def end():
                await asyncio.sleep(0.05)
                {end}

            await conn.receive()
            ending = asyncio.create_task(end())
            await conn.start_tls()
    """)
    with start(service, "--workers", "1", *authority.options, "--tls-mode", "starttls", "--access-log") as server:
        with server.connect() as sock:
            sock.sendall(b"starttls\r\n")
            sock.settimeout(10)
            assert sock.recv(10) == b""
        until(lambda: server.status()["totals"]["connections"] == 0)
        until(lambda: 'reason="the connection ' in server.log())  # was aborted, or is closed
        assert "Traceback" not in server.log()


def test_handshake_that_is_given_up_leaves_no_trace(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    service = module("""
        import asyncio
        from prefork import Lines, conversation

        @conversation(Lines())
        async def service(conn):
            await conn.receive()
            try:
                async with asyncio.timeout(0.05):
                    await conn.start_tls()
            except TimeoutError:
                pass
            await conn.receive()
    """)
    with start(service, "--workers", "1", *authority.options, "--tls-mode", "starttls") as server:
        with server.connect() as sock:
            sock.sendall(b"starttls\r\n")
            sock.settimeout(10)
            assert sock.recv(10) == b""
            until(lambda: server.status()["totals"]["connections"] == 0)
        assert "Traceback" not in server.log()
