"""What the kernel knows of a server: its processes, their CPU time, their memory; and which CPUs are whose.

A server is a session of its own (setsid(2)), so that all its processes are found, whoever forked them. Linux only.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.results import Spread

TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
SETTLED_S: Final = 0.1
"""A server that has used next to nothing of its CPU for so long has started, or has come to rest."""

PORT_S: Final = 1.1
"""Seconds from a connection's end until its port is free again; a tenth of them to spare."""

TRACKING: Final = Path("/proc/sys/net/netfilter")
FORGOTTEN_S: Final = 150


def members(session: int) -> list[int]:
    """Return the pids of a session, those included that have ended and were not waited for."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with suppress(OSError):
                if os.getsid(int(path.name)) == session:
                    found.append(int(path.name))
    return found


def cpu(session: int) -> float:
    """Return the CPU seconds a session has used, user and system, with those of children that were waited for.

    Of a process that is there they come from its CPU-time clock (clock_getcpuclockid(3)), in nanoseconds and with the
    threads that have ended; of children that were waited for they come from proc(5), stat, in ticks of 10 ms.
    """
    total = 0.0
    for pid in members(session):
        with suppress(OSError):  # it has just ended: from now on it is in its parent's account
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            waited_for = (int(fields[13]) + int(fields[14])) * TICK
            total += time.clock_gettime((~pid << 3) | 2) + waited_for
    return total


def sockets(session: int) -> dict[int, int]:
    """Return how many sockets each process of a session holds, by its pid."""
    found: dict[int, int] = {}
    for pid in members(session):
        with suppress(OSError):  # it has just ended
            found[pid] = 0
            for path in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    found[pid] += str(path.readlink()).startswith("socket:")
    return found


def wait_for_room(connections: int) -> None:
    """Wait, for a few minutes at most, until the kernel's connection tracking has room for twice so many more.

    Where there is any (Docker brings it along), it remembers a connection for 2 minutes, and with a full table it
    drops what is measured (nf_conntrack-sysctl.txt: nf_conntrack_max).
    """
    count, most = TRACKING / "nf_conntrack_count", TRACKING / "nf_conntrack_max"
    until = time.monotonic() + FORGOTTEN_S
    with suppress(OSError):  # there is none
        while int(most.read_text()) - int(count.read_text()) < 2 * connections and time.monotonic() < until:
            time.sleep(1)


def ports_at_once() -> int:
    """Return how many connections one address can make to one port within `PORT_S`, with some to spare.

    The kernel gives every other of its ports to who does not bind one, and each again `PORT_S` behind its connection's
    end (ip-sysctl: ip_local_port_range, tcp_tw_reuse_delay). Beyond that a load waits, and the server seems to.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split())
    return (high - low) * 2 // 5


def pss_kib(session: int) -> float:
    """Return the memory of a session in KiB: its proportional set size, in which shared pages are counted once.

    Raises:
        PermissionError: the server is another user's.
    """
    total = 0
    for pid in members(session):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def settle(session: int, seconds: float = 20.0) -> None:
    """Wait until a server is at rest: all its processes have started, or have done what they had to do.

    Raises:
        TimeoutError: it is still busy after so many seconds.
    """
    deadline = time.monotonic() + seconds
    before = cpu(session)
    while time.monotonic() < deadline:
        time.sleep(SETTLED_S)
        now = cpu(session)
        if now - before < SETTLED_S / 50:
            return
        before = now
    raise TimeoutError(f"a server is still busy after {seconds:g} s")


def sides() -> tuple[set[int], set[int]]:
    """Return the CPUs of the servers and those of the load: half each, and the same one where there is only one."""
    usable = sorted(_USABLE)
    half = max(1, len(usable) // 2)
    return set(usable[:half]), set(usable[half:]) or set(usable)


_USABLE: Final = frozenset(os.sched_getaffinity(0))


def set_apart(session: int, cpus: set[int]) -> None:
    """Give the processes of a session a CPU each, in turn as they were started: two workers never share one."""
    for number, pid in enumerate(sorted(members(session))):
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(pid, {sorted(cpus)[number % len(cpus)]})


@contextmanager
def on(cpus: set[int]) -> Iterator[None]:
    """Keep this thread, and whatever it starts meanwhile, on some CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def files_at_most() -> int:
    """Take as many descriptors as are allowed, for this process and the servers it starts, and say how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def spread(values: Sequence[float]) -> Spread:
    """Return the median of the rounds, with the lowest and the highest.

    Raises:
        statistics.StatisticsError: there are none.
    """
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": list(values)}
