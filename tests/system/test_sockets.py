"""The socket of a `handle(sock, address)` function: each of its calls keeps what holds for `recv` and `send`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from support.server import Server, read_all
from support.tls import Authority, connect
from support.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., Server]
    Module = Callable[..., str]

HEAD = """
    import socket, threading, time
    from socket import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_WAITALL

    def into(size, take):
        buffer = bytearray(size)
        return bytes(buffer[: take(buffer)])

    def into_two(sock, size, flags=0):
        one, two = bytearray(3), bytearray(size - 3)
        size = sock.recvmsg_into([one, two], 0, flags)[0]
        return bytes(one + two)[:size]
"""


def function(body: str) -> str:
    """Return a module with a function of a socket and an address."""
    return HEAD + "\n    def service(sock, address):\n" + body


@contextlib.contextmanager
def served(
    start: Start, target: str, authority: Authority | None, *options: str
) -> Iterator[tuple[Server, socket.socket]]:
    """Yield a server of one worker and a connection to it, with TLS if there is an authority."""
    tls = authority.options if authority is not None else []
    with (
        start(target, "--workers", "1", "--log-level", "debug", *tls, *options) as server,
        connect(server, authority.client()) if authority is not None else server.connect() as sock,
    ):
        yield server, sock


# Behind TLS. ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("sock.sendmsg([b'secret'])", "NotImplementedError: sendmsg"),
        ("sock.sendto(b'secret', address)", "ValueError: sendto"),
        ("socket.send_fds(sock, [b'secret'], [0])", "NotImplementedError: sendmsg"),
        ("sock.recvmsg(100)", "NotImplementedError: recvmsg"),
        ("sock.recvmsg_into([bytearray(100)])", "NotImplementedError: recvmsg_into"),
        ("sock.recvfrom(100)", "ValueError: recvfrom"),
        ("sock.recvfrom_into(bytearray(100))", "ValueError: recvfrom_into"),
        ("socket.recv_fds(sock, 100, 1)", "NotImplementedError: recvmsg"),
        ("sock.dup()", "NotImplementedError: dup"),
    ],
)
def test_what_would_pass_tls_by_is_refused(
    start: Start, module: Module, authority: Authority, call: str, error: str
) -> None:
    service = function(f"""
        try:
            {call}
        except (NotImplementedError, ValueError) as error:
            sock.sendall(f"{{type(error).__name__}}: {{error}}".encode())
    """)
    with served(start, module(service), authority) as (_, sock):
        sock.sendall(b"something to read")
        assert read_all(sock) == f"{error} is not allowed behind TLS".encode()


def test_files_of_a_socket_and_files_that_it_sends_are_behind_tls(
    start: Start, module: Module, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    service = function("""
        with sock.makefile("rwb") as file, open("page", "rb") as page:
            file.write(file.readline().upper())
            file.flush()
            sock.sendfile(page)
    """)
    with served(start, module(service), authority) as (server, sock):
        sock.sendall(b"hello\n")
        assert read_all(sock) == b"HELLO\na page"
        until(lambda: server.status()["totals"]["bytes_out"] == 12)
