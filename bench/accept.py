"""What accepting by ourselves costs: CPU per connection against the event loop's own `create_server`, in one run.

Both sides serve the same link (one line in, one line out) from one process on loopback; what differs is who accepts.
The figures are CPU microseconds of the serving process, user and system, per connection; the ratio is what to quote. It
is measured in two forms: connections one after the other, each of which wakes the server, and 50 at once, by
redis-benchmark where it is installed (Debian: redis-tools). Server and load have a CPU each, where there are two.

    python bench/accept.py [CONNECTIONS] [ROUNDS]
"""  # noqa: INP001 - a script, not a module of a package

from __future__ import annotations

import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from measure import apart, cpu, free_port, redis_benchmark, until_open, worker_of

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE = "from prefork import Lines, reply\n\n@reply(Lines())\ndef pong(line: bytes) -> bytes:\n    return b'+PONG'\n"


def plain(port: int) -> None:
    """Serve the same link through `create_server`, for ever."""
    from prefork.connection.link import Hub  # noqa: PLC0415
    from prefork.connection.reply import ReplyLink  # noqa: PLC0415 - only this process needs them
    from prefork.scoreboard import Field, Scoreboard  # noqa: PLC0415
    from prefork.settings import Settings  # noqa: PLC0415
    from prefork.worker.aio import new_loop  # noqa: PLC0415 - the very loop that workers use
    from prefork_wire import Lines  # noqa: PLC0415

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        row = Scoreboard().row(0)
        hub = Hub(Settings(), Lines(), row, loop)

        def link() -> ReplyLink:
            row.cells[Field.CONNECTIONS] += 1
            return ReplyLink(hub, None, lambda _: b"+PONG")

        def tick() -> None:
            hub.sweep()
            loop.call_later(0.25, tick)

        tick()
        server = await loop.create_server(link, "127.0.0.1", port, backlog=2048)
        await server.serve_forever()

    with asyncio.Runner(loop_factory=new_loop()) as runner:
        runner.run(serve())


def microseconds(pid: int, port: int, connections: int) -> float:
    """Make connections one after the other, each with one request, and return what each cost `pid`."""
    before = cpu(pid)
    for _ in range(connections):
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(b"PING\r\n")
            if sock.recv(64) != b"+PONG\r\n":
                raise SystemExit("a wrong answer")
    return (cpu(pid) - before) / connections * 1e6


def at_once(pid: int, port: int, connections: int) -> float:
    """Let redis-benchmark make connections, 50 at a time, each with one request, and return what each cost `pid`."""
    before = cpu(pid)
    redis_benchmark(port, connections, "-k", "0")
    return (cpu(pid) - before) / connections * 1e6


def main(connections: int, rounds: int) -> None:
    """Run both side by side and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "service.py").write_text(SERVICE, "utf-8")
        control, ours, theirs = Path(folder, "control"), free_port(), free_port()
        serve = ["serve", "service:pong", "--workers", "1", "--bind", f"127.0.0.1:{ours}", "--control", str(control)]
        processes = [
            subprocess.Popen([sys.executable, "-m", "prefork", *serve], cwd=folder, stderr=subprocess.DEVNULL),  # noqa: S603
            subprocess.Popen([sys.executable, __file__, "plain", str(theirs)]),  # noqa: S603
        ]
        try:
            until_open(ours)
            until_open(theirs)
            pairs = [(worker_of(control), ours), (processes[1].pid, theirs)]
            apart([pid for pid, _ in pairs])
            forms: dict[str, Callable[[int, int, int], float]] = {"one after the other": microseconds}
            if shutil.which("redis-benchmark"):
                forms["50 at once"] = at_once
            for name, form in forms.items():
                show(name, [[form(pid, port, connections) for pid, port in pairs] for _ in range(rounds)], connections)
        finally:
            for process in processes:
                process.terminate()
                process.wait(20)


def show(form: str, figures: list[list[float]], connections: int) -> None:
    """Print one form's figures: a pair for each round."""
    ours, theirs = (statistics.median(column) for column in zip(*figures, strict=True))
    ratio = statistics.median(mine / other for mine, other in figures)
    print(  # noqa: T201
        f"{form:<20} prefork {ours:6.1f} us, create_server {theirs:6.1f} us of CPU per connection, ratio {ratio:5.3f}"
        f" (median of {len(figures)} rounds of {connections} connections)"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        plain(int(sys.argv[2]))
    else:
        numbers = [int(argument) for argument in sys.argv[1:]]
        main(*numbers, *(20_000, 5)[len(numbers) :])
