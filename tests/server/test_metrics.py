"""The metrics socket in a loop of its own, with real sockets: slow readers, pages that fail, and time that passes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from prefork.listener import open_all
from prefork.master.events import Events
from prefork.master.metrics import MAX_SCRAPES, PAGE, PATIENCE, Metrics
from prefork_wire.address import parse_address
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GET = b"GET /metrics HTTP/1.0\r\n\r\n"
LARGE = b"x" * (8 << 20)  # more than the kernel takes at once


class Loop:
    """The master's loop, as far as scrapers are concerned."""

    def __init__(self, page: Callable[[], bytes]) -> None:
        listeners, _ = open_all([parse_address("127.0.0.1:0")], (), backlog=64, reuse_port=False, option="--metrics")
        self.address = listeners[0].socket.getsockname()
        self.events = Events()
        self.metrics = Metrics(listeners, self.events, {PAGE: lambda: ("200 OK", page())})
        self.metrics.open()

    def turn(self) -> None:
        self.events.wait(0.01)

    def has_let_in(self) -> bool:
        self.turn()
        return len(self.metrics.open_things()) > 1  # beside the listener

    def connect(self, *, small: bool = False) -> socket.socket:
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.connect(self.address)
        sock.setblocking(False)
        return sock

    def read(self, sock: socket.socket, size: int = 1 << 20) -> bytes:
        """Take turns until something has come."""

        def some() -> list[bytes]:
            self.turn()
            try:
                return [sock.recv(size)]
            except BlockingIOError:
                return []

        return until(some)[0]

    def read_all(self, sock: socket.socket) -> bytes:
        parts = []
        while data := self.read(sock):
            parts.append(data)
        return b"".join(parts)


@pytest.fixture
def loop() -> Iterator[Callable[[Callable[[], bytes]], Loop]]:
    made = []

    def make(page: Callable[[], bytes]) -> Loop:
        made.append(Loop(page))
        return made[-1]

    yield make
    for one in made:
        one.metrics.close()
        one.events.close()


def test_a_slow_reader_gets_the_whole_page_and_holds_up_nobody(loop: Callable[..., Loop]) -> None:
    pages = iter([LARGE, b"short"])
    one = loop(lambda: next(pages))
    with one.connect(small=True) as slow, one.connect() as quick:
        slow.sendall(GET)
        assert one.read(slow, 100).startswith(b"HTTP/1.1 200 OK\r\n")
        quick.sendall(GET)
        assert one.read_all(quick).endswith(b"\r\n\r\nshort")
        body = one.read_all(slow)
        assert len(body) > len(LARGE) - 100
        assert body.endswith(LARGE[:-1000])


def test_who_does_not_read_is_dropped_when_its_time_is_over_and_makes_room(loop: Callable[..., Loop]) -> None:
    one = loop(lambda: LARGE)
    stuck = [one.connect(small=True) for _ in range(MAX_SCRAPES)]
    for sock in stuck:
        sock.sendall(GET)
        assert one.read(sock, 1) == b"H"
    with one.connect() as late:
        late.sendall(b"GET / HTTP/1.0\r\n\r\n")
        for _ in range(3):
            one.turn()
        with pytest.raises(BlockingIOError):
            late.recv(1)  # it waits in the kernel's queue
        one.metrics.look(time.monotonic() + PATIENCE - 1.0)
        assert len(one.metrics.open_things()) == MAX_SCRAPES + 1
        one.metrics.look(time.monotonic() + PATIENCE + 1.0)
        assert one.read_all(late).startswith(b"HTTP/1.1 404 ")
    for sock in stuck:
        sock.close()


def test_a_page_that_cannot_be_made_is_an_answer_too(
    loop: Callable[..., Loop], caplog: pytest.LogCaptureFixture
) -> None:
    def page() -> bytes:
        raise ValueError("this one")

    one = loop(page)
    for _ in range(3):
        with one.connect() as sock:
            sock.sendall(GET)
            assert one.read_all(sock).startswith(b"HTTP/1.1 500 ")
    assert caplog.text.count("the page could not be made") == 1


def test_who_was_let_in_is_answered_after_another_has_taken_over(loop: Callable[..., Loop]) -> None:
    one = loop(lambda: b"page")
    with one.connect() as sock:
        until(one.has_let_in)
        one.metrics.leave_to_another()
        sock.sendall(GET)
        assert one.read_all(sock).endswith(b"page")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(one.address, 10)


def test_who_sends_on_without_end_is_read_for_a_while_only(loop: Callable[..., Loop]) -> None:
    one = loop(lambda: b"page")
    with one.connect() as sock:
        sock.sendall(GET)

        def is_refused() -> bool:
            one.turn()
            try:
                sock.send(b"x" * 4096)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        until(is_refused)


def test_a_server_without_metrics_does_not_load_the_library() -> None:
    code = "import sys, prefork.cli, prefork.server; print('prometheus_client' in sys.modules, end='')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False"
