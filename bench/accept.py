"""What accepting by ourselves costs: CPU per connection against the event loop's own `create_server`, in one run.

Both sides serve the same link (one line in, one line out) from one process on loopback; what differs is who accepts.
The figures are CPU microseconds of the serving process, user and system, per connection; the ratio is what to quote.

    python bench/accept.py [CONNECTIONS] [ROUNDS]
"""  # noqa: INP001 - a script, not a module of a package

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SERVICE = "from prefork import Lines, reply\n\n@reply(Lines())\ndef pong(line: bytes) -> bytes:\n    return b'+PONG'\n"


def plain(port: int) -> None:
    """Serve the same link through `create_server`, for ever."""
    from prefork.connection.aio import ReplyLink  # noqa: PLC0415 - only this process needs them
    from prefork.connection.link import Hub  # noqa: PLC0415
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


def cpu(pid: int) -> float:
    """Return the CPU seconds a process has used (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def microseconds(pid: int, port: int, connections: int) -> float:
    """Make connections one after the other, each with one request, and return what each cost `pid`."""
    before = cpu(pid)
    for _ in range(connections):
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(b"PING\r\n")
            if sock.recv(64) != b"+PONG\r\n":
                raise SystemExit("a wrong answer")
    return (cpu(pid) - before) / connections * 1e6


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def until_open(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("a server did not come up")


def worker_of(control: Path) -> int:
    """Return the pid of the one worker of the server with this control socket."""
    command = [sys.executable, "-m", "prefork", "status", "--json", "--control", str(control)]
    status = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)  # noqa: S603 - ourselves
    return int(status["workers"][0]["pid"])


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
            figures = [[microseconds(pid, port, connections) for pid, port in pairs] for _ in range(rounds)]
        finally:
            for process in processes:
                process.terminate()
                process.wait(20)
    for name, column in zip(("prefork", "create_server"), zip(*figures, strict=True), strict=True):
        print(f"{name:<14} {statistics.median(column):6.1f} us of CPU per connection")  # noqa: T201
    ratio = statistics.median(mine / other for mine, other in figures)
    print(f"ratio          {ratio:6.3f}  (median of {rounds} rounds of {connections} connections each)")  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        plain(int(sys.argv[2]))
    else:
        numbers = [int(argument) for argument in sys.argv[1:]]
        main(*numbers, *(20_000, 5)[len(numbers) :])
