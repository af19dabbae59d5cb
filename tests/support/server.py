"""The real program as a process: started on port 0, watched through its control socket, its log kept for failures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from support.waiting import until

if TYPE_CHECKING:
    from types import TracebackType

PREFORK = (sys.executable, "-m", "prefork")


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without settings of ours that the machine may have set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFORK_")}
    return {**kept, **more}


def run(
    *arguments: str, timeout: float = 30.0, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `prefork ARGUMENTS` to its end."""
    return subprocess.run(
        [*PREFORK, *arguments], capture_output=True, text=True, timeout=timeout, cwd=cwd, env=clean_environment(**env),
        check=False,
    )  # fmt: skip


class Server:
    """`prefork serve TARGET ...` in its own process group, killed with everything of it at the end.

    Entering waits until the server says that it runs. When the body fails, the log goes into the test's output.
    """

    def __init__(  # noqa: PLR0913 - keyword-only switches of a test helper
        self,
        target: str,
        *options: str,
        tmp_path: Path,
        bind: str | None = "127.0.0.1:0",
        cwd: Path | None = None,
        wait_for: str = "running",
        program: tuple[str, ...] = PREFORK,
        pass_fds: tuple[int, ...] = (),
        **env: str,
    ) -> None:
        self._dir = tmp_path
        self.control = str(tmp_path / "control")  # a short name: the path of a unix socket has 107 bytes at most
        self.log_path = tmp_path / "server.log"
        self._wait_for = wait_for
        binding = ["--bind", bind] if bind else []
        self._command = [*program, "serve", target, *binding, "--control", self.control, *options]
        self._cwd = cwd
        self._pass_fds = pass_fds
        self._env = clean_environment(**env)
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._cwd, env=self._env,
                start_new_session=True, pass_fds=self._pass_fds,
            )  # fmt: skip
        if self._wait_for:
            try:
                until(self._is_there, 20, what=f"the server is {self._wait_for}")
            except AssertionError:
                self._end(show=True)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(show=error is not None)

    def _is_there(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server has ended with code {self.process.returncode}")
        with contextlib.suppress(OSError, ValueError):
            return bool(self.status()["state"] == self._wait_for)
        return False

    def _end(self, *, show: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if show:
            sys.stderr.write(f"--- log of {' '.join(self._command)}\n{self.log()}---\n")

    def log(self) -> str:
        """Return the whole log so far."""
        return self.log_path.read_text("utf-8", "replace")

    def status(self) -> dict[str, Any]:
        """Return what the control socket says."""
        return self.ask(command="status")

    def ask(self, **request: object) -> dict[str, Any]:
        """Send one command to the control socket and return the first answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(self.control)
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                reply: dict[str, Any] = json.loads(lines.readline())
        return reply

    @property
    def address(self) -> tuple[str, int]:
        """The first bound TCP address."""
        return self.addresses()[0]

    def addresses(self) -> list[tuple[str, int]]:
        """Return every bound TCP address."""
        found = [one["address"] for one in self.status()["listeners"] if not one["address"].startswith("unix:")]
        return [(host.strip("[]"), int(port)) for host, _, port in (address.rpartition(":") for address in found)]

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """Return a new connection to the first address."""
        return socket.create_connection(self.address, timeout)

    def workers(self, state: str = "serving") -> dict[int, int]:
        """Return the pid of each slot whose worker is in `state`."""
        return {w["slot"]: w["pid"] for w in self.status()["workers"] if w["state"] == state}

    def has_replaced(self, lost: int) -> bool:
        """Say whether `lost` workers have been lost so far and every slot serves again, at one moment."""
        status = self.status()
        return bool(status["totals"]["workers_lost"] == lost and status["state"] == "running")

    def processes(self) -> set[int]:
        """Return the pids of all that comes from this server and lives, orphans included: its session."""
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session, *_ = stat.read_text("ascii", "replace").rpartition(")")[2].split()
                if state != "Z" and int(session) == self.process.pid:
                    found.add(int(stat.parent.name))
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 15.0) -> int:
        """Send a signal to the master and return its exit code."""
        self.send(number)
        return self.process.wait(timeout)


def exchange(address: tuple[str, int], data: bytes, timeout: float = 10.0) -> bytes:
    """Connect, send, half-close, and return everything until the server's end of file."""
    with socket.create_connection(address, timeout) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Return everything until the peer's end of file."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Return `size` bytes; fewer only at the peer's end of file."""
    parts = b""
    while len(parts) < size and (data := sock.recv(size - len(parts))):
        parts += data
    return parts


def alive(pid: int) -> bool:
    """Say whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def now() -> float:
    """Return the monotonic clock, in seconds."""
    return time.monotonic()


def reset(sock: socket.socket) -> None:
    """Close a connection by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
