"""What two workers carry against one, each on a CPU of its own, with the load apart: apart in time.

While the server is stopped (SIGSTOP) the load asks; the requests wait in the kernel. Then the load sleeps, and the
workers have the CPUs for themselves. When each answer came the kernel has noted (socket(7), SO_TIMESTAMP), so that the
load need not look before all is over. A CPU for the load, besides the two, is not needed.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from bench import measure
from bench.load import FORMS, PING, PONG, LoadError, connect, source
from bench.measure import spread
from bench.needs import MissingError
from bench.running import Running
from bench.servers import CONVERSATION, LIMIT, REPLY, UVLOOP_STREAMS, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.load import Load
    from bench.plan import Plan, Run
    from bench.results import Scaling, Spread

WORKERS: Final = (1, 2)
CONNECTIONS: Final = {True: 8_000, False: 2_000}
"""Of a burst, by whether they stay open; those that do not must all find room in the listener's queue.

A burst should be long beside what the scheduler does now and then: it takes some 80 ms of one worker's time.
"""
NAP_S: Final = 0.25
"""How long the load sleeps at least; or a few times as long as the answers have taken."""
TRIES: Final = 5
_TIMESTAMP: Final = 35
"""SO_TIMESTAMPNS, for which Python's socket has no name: with each part the realtime clock of its coming."""
_STAMP: Final = struct.Struct("@ll")


class Burst:
    """A server that is asked while it is stopped, in one form, again and again."""

    def __init__(self, running: Running, load: Load, ask: bytes = PING) -> None:
        self._ask_by = ask * load.pipeline
        self._running = running
        self._load = load
        self._count = CONNECTIONS[load.keep]
        self._nap_s = NAP_S
        self._kept: list[socket.socket] = []

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Hold the connections that stay open, each of which was answered once."""
        with ExitStack() as stack:
            # the kernel begins to note times a moment after the first socket wants them, and ends with the last
            stack.enter_context(socket.socket()).setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
            if self._load.keep:
                measure.wait_for_room(self._count)
                for number in range(self._count):
                    sock = stack.enter_context(connect(self._running.port, source=source(number)))
                    sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
                    self._kept.append(sock)
            yield
            self._kept.clear()

    def seconds(self) -> float:
        """Return how long the answers took, from when the server went on to when the last one came.

        Raises:
            LoadError: an answer was wrong or did not come, or the load was never asleep until the last.
        """
        for _ in range(TRIES):
            with ExitStack() as stack:
                begun, woken, last = self._ask(stack)
            if last < woken:
                self._nap_s = max(3 * (last - begun), NAP_S)
                return last - begun
            self._nap_s *= 2
        raise LoadError(f"{self._running.server.name}: the last answer came when the load was awake again")

    def _ask(self, stack: ExitStack) -> tuple[float, float, float]:
        """Return when the server went on, when the load woke up, and when the last answer came."""
        if not self._load.keep:
            measure.wait_for_room(self._count)
        pids = measure.members(self._running.session)
        socks = self._kept
        with ExitStack() as stopped:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
                stopped.callback(os.kill, pid, signal.SIGCONT)
            if not self._load.keep:
                socks = [stack.enter_context(self._alone()) for _ in range(self._count)]
            for sock in socks:
                sock.sendall(self._ask_by)
                if not self._load.keep:
                    sock.shutdown(socket.SHUT_WR)
            begun = time.time()
        time.sleep(self._nap_s)
        woken = time.time()
        return begun, woken, max(self._answered(sock) for sock in socks)

    def _alone(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(10)
        sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
        sock.connect(("127.0.0.1", self._running.port))
        return sock

    def _answered(self, sock: socket.socket) -> float:
        """Take a connection's answers; return when the last of them came: never, where the kernel has not noted it."""
        due = PONG * self._load.pipeline
        came, heard = 0.0, bytearray()
        while len(heard) < len(due):
            part, notes, *_ = sock.recvmsg(len(due) - len(heard), socket.CMSG_SPACE(_STAMP.size))
            if not part:
                break
            heard += part
            seconds, nanoseconds = _STAMP.unpack(notes[0][2]) if notes else (math.inf, 0)
            came = max(came, seconds + nanoseconds / 1e9)
        if heard != due:
            raise LoadError(f"{self._running.server.name}: {bytes(heard[:40])!r} is not what was asked for")
        return came


def scaling(run: Run) -> Scaling:
    """Return how many times as much as one worker two carry: each server in each form; without two CPUs nothing.

    Beside ours are some whose processes accept whatever they get: how evenly that is decides.
    """
    cpus = set.union(*measure.sides())
    if len(cpus) < WORKERS[-1]:
        run.missing["two workers"] = "they need two CPUs"
        return {}
    found: Scaling = {}
    for server in (REPLY, CONVERSATION, LIMIT, *(peer for peer in run.peers if peer.name == UVLOOP_STREAMS)):
        try:
            found[server.name] = {form: _ratio(run, server, load, cpus) for form, load in FORMS.items()}
        except (MissingError, LoadError, OSError) as error:
            run.leave_out(server, "two workers", error)
        run.say(f"two workers: {server.name}")
    return found


def _ratio(run: Run, server: Server, load: Load, cpus: set[int]) -> Spread:
    """Measure one worker and two, in turn."""
    with ExitStack() as stack:
        bursts = []
        for count in WORKERS:
            running = stack.enter_context(Running(server, run.kit, count, connections=CONNECTIONS[True], cpus=cpus))
            measure.set_apart(running.session, cpus)
            burst = Burst(running, load)
            stack.enter_context(burst.connected())
            burst.seconds()  # the first of all is not like the others
            bursts.append(burst)
        ratios = []
        for _ in range(run.plan.bursts):
            one, two = (burst.seconds() for burst in bursts)
            ratios.append(one / two)
    return spread(ratios)


def expected_s(plan: Plan) -> float:
    """Return about how many seconds it takes."""
    return 4 * len(FORMS) * (5 + 2 * (NAP_S + 0.35) * plan.bursts)
