"""The built-in services by their RFCs, and through clients that nobody here wrote."""

from __future__ import annotations

import calendar
import json
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from support.server import Server, exchange, read_all, read_exactly, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_1900_TO_1970 = 2_208_988_800


def need(program: str) -> str:
    """Return the path of a real client; skip where it is not installed, but never in CI."""
    path = shutil.which(program)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must install {program}")
        pytest.skip(f"{program} is not installed")
    return path


def test_services_are_listed_with_their_ports() -> None:
    listed = {row["name"]: row["port"] for row in json.loads(run("services", "--json").stdout)}
    assert listed == {"echo": 7, "discard": 9, "daytime": 13, "qotd": 17, "chargen": 19, "time": 37, "greet": 4000}
    assert "echo" in run("services").stdout


def test_default_address_is_loopback_and_the_port_of_the_service(start: Callable[..., Server]) -> None:
    with start("greet", bind=None) as server:
        assert server.address == ("127.0.0.1", 4000)


def test_port_may_be_a_service_name(start: Callable[..., Server]) -> None:
    try:
        expected = socket.getservbyname("tfido", "tcp")  # a name in every services database, used by nobody
    except OSError:
        pytest.skip("the services database of this machine does not have it")
    with start("echo", bind="127.0.0.1:tfido") as server:
        assert server.address == ("127.0.0.1", expected)


def test_discard_reads_everything_and_says_nothing(start: Callable[..., Server]) -> None:
    with start("discard", "--workers", "1") as server:
        assert exchange(server.address, b"x" * 1_000_000) == b""
        assert server.status()["totals"]["bytes_in"] == 1_000_000


def test_daytime_says_one_line_and_closes(start: Callable[..., Server]) -> None:
    with start("daytime") as server, server.connect() as sock:
        line = read_all(sock).decode("ascii")
        said = calendar.timegm(time.strptime(line, "%A, %B %d, %Y %H:%M:%S-UTC\r\n"))
        assert abs(said - time.time()) < 5


def test_time_says_four_bytes_and_closes(start: Callable[..., Server]) -> None:
    with start("time") as server, server.connect() as sock:
        answer = read_all(sock)
        assert len(answer) == 4
        assert abs(int.from_bytes(answer, "big") - SECONDS_1900_TO_1970 - time.time()) < 5


def test_qotd_says_fewer_than_512_characters_and_closes(start: Callable[..., Server]) -> None:
    with start("qotd") as server, server.connect() as sock:
        assert 0 < len(read_all(sock)) < 512


def test_chargen_rotates_its_pattern_until_the_client_leaves(start: Callable[..., Server]) -> None:
    printable = bytes(range(32, 127)) * 2
    with start("chargen", "--workers", "1") as server:
        with server.connect() as sock:
            for number in range(300):
                first = number % 95
                assert read_exactly(sock, 74) == printable[first : first + 72] + b"\r\n"
        until(lambda: server.status()["totals"]["connections"] == 0, what="the worker noticed that the client left")
        assert server.stop() == 0


def test_chargen_waits_for_a_client_that_does_not_read(start: Callable[..., Server]) -> None:
    with start("chargen", "--workers", "1", "--write-timeout", "1") as server, server.connect():
        until(lambda: server.status()["totals"]["connections"] == 1)
        until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped by the write timeout")
        assert server.status()["workers"][0]["rss_bytes"] < 60_000_000


def test_greet_greets_each_name_and_quit_ends_the_conversation_alone(start: Callable[..., Server]) -> None:
    with start("greet", "--workers", "1") as server:
        conversation = b"Please enter your name now!\r\nHello, Ada!\r\nHello, Bob!\r\nGoodbye!\r\n"
        for _ in range(2):
            assert exchange(server.address, b"Ada\r\nBob\nquit\nCarl\n") == conversation


def test_netcat_gets_every_byte_back(start: Callable[..., Server]) -> None:
    nc = need("nc")
    with start("echo", "--workers", "4") as server:
        host, port = server.address
        for number in range(20):
            data = os.urandom(1000 * number)
            result = subprocess.run(
                [nc, "-N", host, str(port)], input=data, capture_output=True, timeout=10, check=True
            )
            assert result.stdout == data


def test_curl_talks_to_greet_as_a_telnet_client(start: Callable[..., Server]) -> None:
    curl = need("curl")
    with start("greet") as server:
        host, port = server.address
        result = subprocess.run(
            [curl, "-sS", "--max-time", "10", f"telnet://{host}:{port}"], input=b"Ada\nquit\n", capture_output=True,
            timeout=20, check=False,
        )  # fmt: skip
        assert result.stdout == b"Please enter your name now!\r\nHello, Ada!\r\nGoodbye!\r\n", result.stderr


def test_telnet_talks_to_greet(start: Callable[..., Server]) -> None:
    telnet = need("telnet")
    with start("greet") as server:
        host, port = server.address
        ours, theirs = pty.openpty()
        process = subprocess.Popen([telnet, host, str(port)], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        try:
            seen = _read_until(ours, b"Please enter your name now!\r\n")
            os.write(ours, b"Ada\n")
            seen += _read_until(ours, b"Hello, Ada!\r\n")
            os.write(ours, b"quit\n")
            seen += _read_until(ours, b"Goodbye!\r\n")
            assert process.wait(10) in {0, 1}  # telnet's own word for a closed connection
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        assert b"Escape character" in seen


def _read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + 10
    while text not in seen:
        left = deadline - time.monotonic()
        assert left > 0, seen
        if select.select([fd], [], [], left)[0]:
            seen += os.read(fd, 4096)
    return seen


def test_rdate_reads_time(start: Callable[..., Server]) -> None:
    rdate = need("rdate")
    with start("time") as server:
        host, port = server.address
        command = [rdate, "-p", "-o", str(port), host]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert result.returncode == 0, result.stderr
        assert re.search(rf"\b{time.gmtime().tm_year}\b", result.stdout)


def test_netcat_reads_daytime(start: Callable[..., Server]) -> None:
    nc = need("nc")
    with start("daytime") as server:
        host, port = server.address
        result = subprocess.run(
            [nc, host, str(port)], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True
        )
        assert result.stdout.endswith(b"-UTC\r\n")
