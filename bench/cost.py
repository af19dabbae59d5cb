"""What a request costs: CPU of the server, against a server in C that does nothing else, in one run.

Every server is one process that answers each line with `+PONG`: C with epoll (the limit), a `@reply`, a
`@conversation`, and asyncio's streams on the same event loop. The load is redis-benchmark (Debian: redis-tools) with 50
connections on a CPU of its own: a request at a time, 16 pipelined, and a connection for each. The rounds alternate
between the servers; shown are the medians in microseconds, and their ratios to C's. It needs Linux and a C compiler.

    python bench/cost.py [--rounds N]
"""  # noqa: INP001 - a script, not a module of a package

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from measure import apart, cpu, free_port, redis_benchmark, until_open, worker_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES: Final = """
from prefork import Connection, Lines, conversation, reply

@reply(Lines())
def pong(line: bytes) -> bytes:
    return b"+PONG"

@conversation(Lines())
async def talk(conn: Connection) -> None:
    async for line in conn:
        await conn.send(b"+PONG")
"""

FORMS: Final = {
    "keep-alive": (200_000, ()),
    "pipelined by 16": (1_600_000, ("-P", "16")),
    "connection each": (20_000, ("-k", "0")),
}


def streams(port: int) -> None:
    """Serve with asyncio's streams, for ever."""
    from prefork.worker.aio import new_loop  # noqa: PLC0415 - the very loop that workers use

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.readline():
                writer.write(b"+PONG\r\n")
                await writer.drain()
        writer.close()

    async def serve() -> None:
        await (await asyncio.start_server(talk, "127.0.0.1", port, backlog=2048)).serve_forever()

    with asyncio.Runner(loop_factory=new_loop()) as runner:
        runner.run(serve())


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, tuple[int, int]]]:
    """Start every server and give the pid that serves, and its port, by name."""
    (folder / "service.py").write_text(SERVICES, "utf-8")
    limit = folder / "limit"
    compiler = shutil.which("cc") or sys.exit("cost.py: no C compiler (cc); install one, such as Debian's gcc")
    subprocess.run([compiler, "-O2", "-o", str(limit), str(Path(__file__).with_name("limit.c"))], check=True)  # noqa: S603
    ports = {name: free_port() for name in ("C, epoll", "@reply", "@conversation", "asyncio streams")}
    commands = {"C, epoll": [str(limit)], "asyncio streams": [sys.executable, __file__, "--streams"]}
    for name, target in (("@reply", "pong"), ("@conversation", "talk")):
        commands[name] = [
            sys.executable, "-m", "prefork", "serve", f"service:{target}", "--workers", "1",
            "--control", str(folder / target), "--bind", f"127.0.0.1:{ports[name]}",
        ]  # fmt: skip
    running = []
    try:
        for name, command in commands.items():
            port = [] if "--bind" in command else [str(ports[name])]
            running.append(subprocess.Popen([*command, *port], cwd=folder, stderr=subprocess.DEVNULL))  # noqa: S603
        for one in ports.values():
            until_open(one)
        pids = {name: process.pid for name, process in zip(commands, running, strict=True)}
        pids |= {"@reply": worker_of(folder / "pong"), "@conversation": worker_of(folder / "talk")}
        yield {name: (pids[name], ports[name]) for name in ports}
    finally:
        for process in running:
            process.terminate()
            process.wait(20)


def main(rounds: int) -> None:
    """Measure and print the table."""
    if not shutil.which("redis-benchmark"):
        sys.exit("cost.py: redis-benchmark is not installed; it is in Debian's redis-tools")
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as serving:
        apart([pid for pid, _ in serving.values()])
        figures: dict[str, dict[str, list[float]]] = {form: {one: [] for one in serving} for form in FORMS}
        for _ in range(rounds):
            for form, (requests, options) in FORMS.items():
                for one, (pid, port) in serving.items():
                    before = cpu(pid)
                    redis_benchmark(port, requests, *options)
                    figures[form][one].append((cpu(pid) - before) / requests * 1e6)
    print(f"{'us of CPU per request':<22}" + "".join(f"{form:>26}" for form in FORMS))  # noqa: T201
    for one in serving:
        cells = ""
        for form in FORMS:
            mine, best = (statistics.median(figures[form][who]) for who in (one, "C, epoll"))
            cells += f"{mine:14.2f}  {mine / best:5.2f} x C "
        print(f"{one:<22}{cells}")  # noqa: T201
    print(f"medians of {rounds} rounds")  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1:2] == ["--streams"]:
        streams(int(sys.argv[2]))
    else:
        parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
        parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
        main(parser.parse_args().rounds)
