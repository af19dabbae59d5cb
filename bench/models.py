"""What a connection costs in each model of the chapter: plain Python, side by side, in one run.

    python bench/models.py

Every server says one line back and waits for the peer's close. The table has, for each model, the processor time of the
server and all its children per connection (connect, a line each way, close), and the memory that one more open, silent
connection adds (proportional set size, so pages that processes share are counted once). Linux only. Compare the rows of
one run with each other; the figures themselves move with the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

PREFORKED: Final = 4
HELD: Final = 200
"""Connections that are held open for the measure of memory."""


def serve_one(conn: socket.socket) -> None:
    """Answer lines until the peer closes."""
    with conn:
        while data := conn.recv(8192):
            conn.sendall(data.upper())


def fork() -> int:
    """Fork with TERM blocked: Python's child forgets a signal that came before it was ready for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pid = os.fork()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return pid


# The models: each is given a listening socket and serves for ever. ---------------------------------------------------


def one_at_a_time(listener: socket.socket) -> None:
    """Accept, serve, close; the next one waits."""
    while True:
        serve_one(listener.accept()[0])


def fork_per_connection(listener: socket.socket) -> None:
    """Fork a process for each connection."""
    while True:
        conn, _ = listener.accept()
        if fork() == 0:
            listener.close()
            serve_one(conn)
            os._exit(0)
        conn.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def prefork(listener: socket.socket, processes: int = PREFORKED) -> None:
    """Fork first; each process then serves one at a time."""
    for _ in range(processes):
        if fork() == 0:
            one_at_a_time(listener)
    while True:
        signal.pause()


def thread_per_connection(listener: socket.socket) -> None:
    """Start a thread for each connection."""
    while True:
        threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()


class Answer(asyncio.Protocol):
    """The events model's connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a stream server gives
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.transport.write(data.upper())


def events(listener: socket.socket) -> None:
    """Serve all connections in one thread."""

    async def serve() -> None:
        await (await asyncio.get_running_loop().create_server(Answer, sock=listener)).serve_forever()

    asyncio.run(serve())


Model = Callable[[socket.socket], None]

MODELS: Final[dict[str, tuple[Model, Model, int]]] = {
    "one at a time": (one_at_a_time, one_at_a_time, 1),
    "fork per connection": (fork_per_connection, fork_per_connection, HELD),
    f"prefork ({PREFORKED} processes)": (partial(prefork, processes=1), prefork, PREFORKED),
    "thread per connection": (thread_per_connection, thread_per_connection, HELD),
    "events (asyncio)": (events, events, HELD),
}
"""Each model as it serves one connection, as it serves many, and how many those are."""


# The measures. --------------------------------------------------------------------------------------------------------


class Running:
    """A model in a process group of its own."""

    def __init__(self, model: Model) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = listener.getsockname()
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, _leave)
            model(listener)
        listener.close()
        with suppress(PermissionError):
            os.setpgid(self.pid, self.pid)

    def connect(self) -> socket.socket:
        """Return a connection that has been answered once."""
        sock = socket.create_connection(self.address, timeout=10)
        sock.sendall(b"hello\n")
        if sock.recv(8192) != b"HELLO\n":
            raise RuntimeError("a wrong answer")
        return sock

    def pss_kib(self) -> int:
        """Return the proportional set size of the whole group."""
        total = 0
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.getpgid(int(path.name)) == self.pid:
                    lines = (path / "smaps_rollup").read_text("ascii").splitlines()
                    total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total

    def end(self) -> float:
        """End it, and return the seconds of processor time it and its children took."""
        os.killpg(self.pid, signal.SIGTERM)
        _, status, usage = os.wait4(self.pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise RuntimeError("the server failed")
        return usage.ru_utime + usage.ru_stime


def _leave(*_: object) -> None:
    """Tell everybody again, for one may just have been forked; wait for the children, whose time counts; leave."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    with suppress(ChildProcessError):
        while True:
            os.wait()
    os._exit(0)


def processor_us(model: Model, connections: int) -> float:
    """Return the processor time per connection in microseconds, less what an idle server takes."""
    seconds = []
    for count in (1, connections + 1):
        running = Running(model)
        for _ in range(count):
            with running.connect() as sock:
                sock.shutdown(socket.SHUT_WR)
                sock.recv(1)
        seconds.append(running.end())
    return (seconds[1] - seconds[0]) / connections * 1e6


def memory_kib(few: Model, many: Model, held: int) -> float | None:
    """Return the memory that one more open connection takes in KiB; None where no second one is served.

    `few` serves one connection and `many` serves `held`; they differ where the processes are made beforehand.
    """
    if held == 1:
        return None
    sizes = []
    for model, count in ((few, 1), (many, held)):
        running = Running(model)
        opened = [running.connect() for _ in range(count)]
        sizes.append(running.pss_kib())
        for sock in opened:
            sock.close()
        running.end()
    return (sizes[1] - sizes[0]) / (held - 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a connection costs in each model.")
    parser.add_argument("--connections", type=int, default=3000, help="connections per model (3000)")
    parser.add_argument("--json", action="store_true", help="for programs: an object with each model's figures")
    options = parser.parse_args()
    found: dict[str, dict[str, float | None]] = {}
    if not options.json:
        say(
            f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, "
            f"{options.connections} connections per model\n"
        )
        say("| model | processor time per connection | memory per open connection |\n|---|---|---|")
    for name, (few, many, held) in MODELS.items():
        kib, processor = memory_kib(few, many, held), processor_us(many, options.connections)
        found[name] = {"processor_us": processor, "memory_kib": kib}
        if not options.json:
            memory = "no second one is served" if kib is None else f"{kib:.0f} KiB"
            say(f"| {name} | {processor:.0f} µs | {memory} |")
    if options.json:
        say(json.dumps(found))


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
