"""What the benchmarks share: processor time, ports, waiting until a server is there, a CPU for each side."""  # noqa: INP001

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """Return the CPU seconds a process has used, user and system (proc(5), stat); their resolution is a tick."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def redis_benchmark(port: int, requests: int, *options: str) -> None:
    """Let redis-benchmark make so many requests, 50 connections at a time.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    load = ["redis-benchmark", "-p", str(port), "-n", str(requests), "-c", "50", "-t", "ping_inline", "-q", *options]
    subprocess.run(load, capture_output=True, check=True, timeout=120)  # noqa: S603 - a program of the machine's


def apart(pids: list[int]) -> None:
    """Give the servers one CPU, and everything that this process starts from now on the others."""
    first, *others = sorted(os.sched_getaffinity(0))
    if others:
        for pid in pids:
            os.sched_setaffinity(pid, {first})
        os.sched_setaffinity(0, others)


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
