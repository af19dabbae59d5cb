"""The load: redis-benchmark, a public client, and connections that are only held open.

redis-benchmark is found in Debian's redis-tools. What it prints is read here, and nowhere else.
"""

from __future__ import annotations

import re
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bench import measure

if TYPE_CHECKING:
    from collections.abc import Iterator

PING: Final = b"PING\r\n"
PONG: Final = b"+PONG\r\n"
MULTI_BULK: Final = b"*1\r\n$4\r\nPING\r\n"
"""A request in the form in which it is a valid answer too: an echo of it is what redis-benchmark waits for."""

TIMEOUT_S: Final = 60
"""Every measure is planned for about a second: what takes so long is not answered."""
PER_SOURCE: Final = 2_000
"""Connections from one address: as ports become rare, the kernel searches long for a free one."""
_IP_BIND_ADDRESS_NO_PORT: Final = 24
"""ip(7): the port is chosen when the peer is known. Python 3.11's socket has no name for it."""
_LINE: Final = re.compile(r"^([\d.]+)% <= ([\d.]+) milliseconds", re.MULTILINE)
_RATE: Final = re.compile(r"throughput summary: ([\d.]+) requests per second")


class LoadError(RuntimeError):
    """The load could not be brought to its end. The text is one line."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What redis-benchmark saw: requests per second, and times in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """How to ask.

    Attributes:
        connections: open at once.
        pipeline: requests on the way at once, on each connection.
        keep: whether a connection stays open; else each request has one of its own.
        frame: None for lines (`PING`), or how many bytes a request has, which come back as they are.
        echo: whether what is sent must be a valid answer.
        threads: of the load, where it has several CPUs.
    """

    connections: int = 50
    pipeline: int = 1
    keep: bool = True
    frame: int | None = None
    echo: bool = False
    threads: int = 1

    def by(self, connections: int) -> Load:
        """The same with another number of connections."""
        return replace(self, connections=connections)


KEEP_ALIVE: Final = "keep-alive"
PIPELINED: Final = "pipelined by 16"
EACH: Final = "connection each"
FORMS: Final = {KEEP_ALIVE: Load(), PIPELINED: Load(pipeline=16), EACH: Load(keep=False)}
"""The forms in which a request can come."""


def run(port: int, requests: int, load: Load) -> Answers:
    """Let redis-benchmark make so many requests.

    Raises:
        LoadError: it failed, or did not come to its end.
    """
    command = [
        "redis-benchmark", "-p", str(port), "-n", str(requests), "-c", str(load.connections), "--precision", "3",
        "-P", str(load.pipeline), "-k", str(int(load.keep)),
        *(("--threads", str(load.threads)) if load.threads > 1 else ()),
    ]  # fmt: skip
    typed = b""
    if load.frame is None:
        command += ["-t", "ping_mbulk" if load.echo else "ping_inline"]
    else:
        words, typed = request_of(load.frame)
        command += words
    try:
        done = subprocess.run(command, input=typed, capture_output=True, check=True, timeout=TIMEOUT_S)  # noqa: S603 - a program of the machine's
    except subprocess.TimeoutExpired:
        raise LoadError(f"redis-benchmark was not answered {requests} times in {TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        raise LoadError(f"redis-benchmark failed: {error.stderr.decode(errors='replace').strip()[-200:]}") from None
    return parse(done.stdout.decode("utf-8", "replace"))


def parse(printed: str) -> Answers:
    """Read what redis-benchmark has printed: its throughput, and its spectrum of percentiles.

    Raises:
        LoadError: there is no throughput or no spectrum in it.
    """
    rate = _RATE.search(printed)
    spectrum = printed.partition("Latency by percentile distribution:")[2].partition("Cumulative distribution")[0]
    lines = [(float(percent), float(ms)) for percent, ms in _LINE.findall(spectrum)]
    if rate is None or not lines:
        raise LoadError(f"redis-benchmark printed no figures: {printed.strip()[-200:]!r}")

    def at(percent: float) -> float:
        return next((ms for reached, ms in lines if reached >= percent), lines[-1][1])

    return Answers(float(rate[1]), at(50), at(99), at(99.9))


def request_of(frame: int) -> tuple[list[str], bytes]:
    """Return the words for redis-benchmark, and its standard input, that make each request so many bytes.

    A request is `*` and the number of its words, and for each word `$`, its length, and the word, all with CR LF. What
    is too long for a command line (128 KiB on Linux) is a second word, which redis-benchmark reads from its standard
    input.

    Raises:
        ValueError: no word makes a request of this size.
    """
    is_long = frame > 2**16
    head = len("*2\r\n$1\r\nP\r\n") if is_long else len("*1\r\n")
    for length in range(max(frame - head - 16, 1), frame):
        if head + len(f"${length}\r\n") + length + 2 == frame:
            return (["-x", "P"], b"x" * length) if is_long else (["x" * length], b"")
    raise ValueError(f"no request of redis-benchmark's has {frame} bytes")


def connect(port: int, ask: bytes = PING, answer: bytes = PONG, source: str = "127.0.0.1") -> socket.socket:
    """Return a connection that has been answered once.

    Raises:
        OSError: it could not be made, or was not answered in time.
        LoadError: the answer is another.
    """
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(ask)
        heard = bytearray()
        while len(heard) < len(answer) and (part := sock.recv(len(answer) - len(heard))):
            heard += part
        if heard != answer:
            raise LoadError(f"{ask[:40]!r} was answered by {bytes(heard[:40])!r}")
        stack.pop_all()
    return sock


def source(number: int) -> str:
    """Return the address of loopback's that this one of many connections comes from.

    None is that of redis-benchmark, which so has all ports for itself.
    """
    return f"127.0.0.{2 + number // PER_SOURCE}"


@contextmanager
def held(port: int, connections: int) -> Iterator[None]:
    """Hold so many connections open, each of which was answered once and says no more."""
    measure.wait_for_room(connections)
    with ExitStack() as stack:
        for number in range(connections):
            stack.enter_context(connect(port, source=source(number)))
        yield
