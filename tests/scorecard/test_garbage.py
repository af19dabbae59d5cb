"""Row 21: fuzzed frames, random bytes, TLS to the plain port and back, malformed PROXY headers, before every model."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

import pytest
import trustme

from fuzz.given import pieces
from support import garbage, proxying
from support.scorecard import FULL, descriptors
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from support.scorecard import Row
    from support.server import Server

SEED: Final = 21
AT_ONCE: Final = 8
DEADLINE: Final = 1.0
"""The server's own deadlines, in seconds; a connection that is open for much longer hangs."""

HANGS: Final = 15.0
ANNOUNCES: Final = (
    "refused a connection: ", "refused a frame: ", "a TLS handshake failed: ", "the handler failed ",
    "the peer speaks TLS, and this port plain text",
)  # fmt: skip
MODELS: Final = ("async", "threads", "sync")
GUISES: Final = ("plain", "tls", "proxy", "tls and proxy")

SERVICE: Final = """
    from prefork import Lines, reply

    @reply(Lines())
    def service(line: bytes) -> bytes:
        if b"\\x1b" in line:
            raise ValueError(line.decode("latin-1"))
        return line
"""
"""Answers each line; what some lines hold ends in the log, as it does with many a handler."""


class Way:
    """How a server is reached: with a PROXY header first, with TLS, with both, or plainly."""

    def __init__(self, guise: str, folder: Path) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost")
        leaf.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
        self.header = proxying.v2() if "proxy" in guise else b""
        self.context: ssl.SSLContext | None = None
        self.options = [
            "--workers", "4", "--first-byte-timeout", str(DEADLINE), "--frame-timeout", str(DEADLINE),
            "--idle-timeout", str(DEADLINE), "--handshake-timeout", str(2 * DEADLINE), "--access-log",
            "--log-level", "debug",
        ]  # fmt: skip
        if "proxy" in guise:
            self.options += ["--proxy-protocol", "any", "--proxy-trust", "127.0.0.0/8"]
        if "tls" in guise:
            self.options += ["--tls-cert", str(folder / "both.pem")]
            self.context = ssl.create_default_context()
            authority.configure_trust(self.context)

    def connect(self, address: tuple[str, int]) -> socket.socket:
        """Return a connection of a good client's."""
        plain = socket.create_connection(address, HANGS)
        try:
            plain.sendall(self.header)
            return self.context.wrap_socket(plain, server_hostname="localhost") if self.context else plain
        except BaseException:
            plain.close()
            raise


class Good(threading.Thread):
    """A client that does nothing wrong, one connection after the other, and checks every answer."""

    def __init__(self, server: Server, way: Way) -> None:
        super().__init__(name="good client")
        self._address, self._way = server.address, way
        self._over = threading.Event()
        self.answered = 0
        self.failures: Counter[str] = Counter()
        self.worst = 0.0

    def __enter__(self) -> Self:
        self.start()
        until(lambda: self.answered > 5 or self.failures, 20, what="the good client is served")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(2 * HANGS)
        assert not self.is_alive()

    def run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self._ask(b"good %d" % self.answered)
            except OSError as error:
                self.failures[type(error).__name__] += 1
            self.worst = max(self.worst, time.monotonic() - began)
            self._over.wait(0.01)

    def _ask(self, line: bytes) -> None:
        with self._way.connect(self._address) as sock:
            sock.sendall(line + b"\n")
            said = b""
            while not said.endswith(b"\n") and (data := sock.recv(100)):
                said += data
        if said == line + b"\r\n":
            self.answered += 1
        else:
            self.failures["wrong answer"] += 1


def throw(address: tuple[str, int], way: Way, data: bytes, rng: Random) -> str:
    """Send garbage as bad clients do, behind a good beginning or none; return how the connection ended."""
    with socket.create_connection(address, HANGS) as sock:
        end = rng.choices(("half-close", "reset", "close", "stay"), (60, 20, 15, 5))[0]
        try:
            _say(sock, way, data, rng)
        except TimeoutError:
            return "hangs"
        except (ConnectionError, ssl.SSLError):
            pass  # it has closed long before the last of it
        if end == "half-close":
            with contextlib.suppress(OSError):  # the same
                sock.shutdown(socket.SHUT_WR)
        elif end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return _ended(sock) if end in {"half-close", "stay"} else f"left by {end}"


def _say(sock: socket.socket, way: Way, data: bytes, rng: Random) -> None:
    begin = rng.choice(("at once", "behind the header", "behind the handshake"))
    if begin != "at once":
        sock.sendall(way.header)
    inner = sock
    with contextlib.ExitStack() as stack:
        if begin == "behind the handshake" and way.context:
            inner = stack.enter_context(way.context.wrap_socket(sock.dup(), server_hostname="localhost"))
        for piece in pieces(data, rng.choice((0, 0, 2, 3))):
            (inner if rng.randrange(20) else sock).sendall(piece)  # now and then past the TLS


def _ended(sock: socket.socket) -> str:
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return "hangs"
    except ConnectionError:
        return "reset"
    return "end of file"


def throw_at_control(server: Server, count: int) -> int:
    """Say garbage to the control socket; return how often it was refused in one line."""
    rng = random.Random(SEED)  # noqa: S311 - to be had again
    refused = 0
    for _ in range(count):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(HANGS)
            sock.connect(server.control)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(garbage.control(rng))
            said = b""
            with contextlib.suppress(ConnectionResetError):
                while data := sock.recv(4096):
                    said += data
            refused += said.startswith(b'{"error": ') and said.count(b"\n") == 1
    return refused


def _warm(server: Server, way: Way) -> None:
    """Let every worker serve somebody: with its first connection an event loop opens what it keeps for good."""
    with contextlib.ExitStack() as held:

        def all_have() -> bool:
            held.enter_context(way.connect(server.address))
            return all(worker["accepted"] for worker in server.status()["workers"])

        until(all_have, 20, what="every worker has had a connection")
    until(lambda: server.status()["totals"]["connections"] == 0, 10, what="none of them is left")


def _more(before: dict[int, int]) -> int:
    return max(descriptors(pid) - had for pid, had in before.items())


@pytest.mark.parametrize("guise", GUISES)
@pytest.mark.parametrize("model", MODELS)
def test_row_21_garbage_harms_neither_workers_nor_log_nor_good_clients(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path, row: Row, model: str, guise: str
) -> None:
    count = 2000 if FULL else 100
    if not FULL:
        row.form = "100 connections instead of 2000"
    way = Way(guise, tmp_path)
    with start(module(SERVICE), "--model", model, *way.options) as server, row.watch(server, announces=ANNOUNCES):
        _warm(server, way)
        before = server.workers()
        open_before = {pid: descriptors(pid) for pid in before.values()}
        address, kinds = server.address, list(garbage.KINDS)

        def one(number: int) -> str:
            rng = random.Random(SEED * 10_000 + number)  # noqa: S311 - to be had again
            return throw(address, way, garbage.KINDS[kinds[number % len(kinds)]](rng), rng)

        with Good(server, way) as good:
            with ThreadPoolExecutor(AT_ONCE) as throwing:
                ends = Counter(throwing.map(one, range(count)))
            asked = count // 2
            row.is_("control socket: garbage refused in one line", throw_at_control(server, asked), asked)
            served = good.answered
            until(lambda: good.answered > served + 10, 20, what="the good client is served on")
        until(lambda: server.status()["totals"]["connections"] == 0, 10, what="no connection of theirs is left")
        row.says("connections of garbage", count)
        row.says("how they ended", ", ".join(f"{number} {end}" for end, number in ends.most_common()))
        row.is_("hangs", ends["hangs"], 0)
        row.is_("workers lost", server.status()["totals"]["workers_lost"], 0)
        row.is_("the same worker pids afterwards", str(server.workers() == before), "True")
        with contextlib.suppress(AssertionError):
            until(lambda: _more(open_before) <= 0, 5)
        row.at_most("descriptors more than before, in any worker", _more(open_before), 0)
        row.is_(
            "good client: failures", ", ".join(f"{n} {kind}" for kind, n in good.failures.items()) or "none", "none"
        )
        row.says("good client: requests answered", good.answered)
        row.says("good client: worst, ms", round(good.worst * 1000))
        log = os.fsdecode(server.log_path.read_bytes())
        row.is_("control characters in the log", sum(not one.isprintable() for one in log.replace("\n", "")), 0)
        row.says("lines of log", log.count("\n"))
