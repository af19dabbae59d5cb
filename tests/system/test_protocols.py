"""What a transport promises a protocol, where that pauses, closes or hands over in the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.server import Server, exchange, read_all, read_exactly
from support.tls import Authority, connect
from support.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

BOUNDED = """
    import asyncio

    class service(asyncio.BufferedProtocol):
        def connection_made(self, transport):
            self.transport = transport
            self.buffer, self.filled, self.paused, self.count = bytearray(4096), 0, False, 0

        def get_buffer(self, sizehint):
            assert not self.paused
            return memoryview(self.buffer)[self.filled:]

        def buffer_updated(self, size):
            self.filled += size
            if self.filled == len(self.buffer):
                self.paused = True
                self.transport.pause_reading()
                asyncio.get_running_loop().call_later(0.001, self.go_on)

        def go_on(self):
            self.take()
            self.paused = False
            self.transport.resume_reading()

        def take(self):
            self.transport.write(bytes(self.buffer[:self.filled]))
            self.filled = 0

        def eof_received(self):
            self.take()
"""


def connected(server: Server, authority: Authority | None) -> socket.socket:
    return server.connect() if authority is None else connect(server, authority.client())


@pytest.mark.parametrize("speaks", ["plain", "TLS"])
def test_protocol_that_pauses_when_its_buffer_is_full_is_given_nothing_until_it_resumes(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, speaks: str
) -> None:
    sent = bytes(range(256)) * 1200  # a whole number of buffers: with TLS there is no half-close
    options = authority.options if speaks == "TLS" else []
    with start(module(BOUNDED), "--workers", "1", *options) as server:
        with connected(server, authority if speaks == "TLS" else None) as sock:
            sock.settimeout(10)
            sock.sendall(sent)
            assert read_exactly(sock, len(sent)) == sent
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0


def test_end_behind_what_a_paused_protocol_was_not_given_yet_comes_last(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    sent = bytes(range(251)) * 1200
    with start(module(BOUNDED), "--workers", "1") as server:
        assert exchange(server.address, sent) == sent


def test_protocol_that_closes_is_given_nothing_more(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path
) -> None:
    service = module("""
        import asyncio
        from pathlib import Path

        class service(asyncio.BufferedProtocol):
            def connection_made(self, transport):
                self.transport = transport
                self.buffer, self.updates = bytearray(10), 0

            def get_buffer(self, sizehint):
                return self.buffer

            def buffer_updated(self, size):
                self.updates += 1
                self.transport.write(self.buffer)
                self.transport.close()

            def connection_lost(self, exc):
                Path("updates").write_text(str(self.updates))
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"0123456789" * 10)
        assert read_all(sock) == b"0123456789"
        until((tmp_path / "updates").exists)
        until(lambda: (tmp_path / "updates").read_text() == "1")


def test_protocol_that_hands_over_while_its_peer_does_not_read_is_read_on_behind_that(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio

        class service(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(b"x" * 8_000_000)
                self.transport.set_protocol(Second(self.transport))

        class Second(asyncio.Protocol):
            def __init__(self, transport):
                self.transport = transport

            def pause_writing(self): ...
            def resume_writing(self): ...

            def data_received(self, data):
                self.transport.write(data.upper())
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"go")
        assert read_exactly(sock, 8_000_000) == b"x" * 8_000_000
        sock.sendall(b"hello")
        assert read_exactly(sock, 5) == b"HELLO"


def test_factory_that_makes_no_protocol_is_told_so(start: Callable[..., Server], module: Callable[..., str]) -> None:
    with start(module("def service(): return 5"), "--adapter", "protocol", "--workers", "1") as server:
        assert exchange(server.address, b"hello") == b""
        until(lambda: "TypeError: the target returned 5, which is no protocol" in server.log())
        assert server.log().count("Traceback") == server.status()["totals"]["errors"] == 1
