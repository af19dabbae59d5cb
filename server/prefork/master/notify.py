"""What a service manager is told: sd_notify(3), one datagram per change of state.

It owns the socket and the words. Without a service manager every call does nothing.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Final

from prefork import environment

_USEC: Final = 1_000_000


class Notifier:
    """Speaks to the service manager that started this process, if one did."""

    def __init__(self) -> None:
        self._address = environment.notify_socket()
        self._watchdog = environment.watchdog_interval()
        self._alive_at = 0.0

    @property
    def present(self) -> bool:
        """Whether a service manager listens: it can be told of another main process."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Say that every worker serves."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` ends it, however it went."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reloading")

    def stopping(self) -> None:
        """Say that the stop has begun."""
        self._send("STOPPING=1", "STATUS=Draining")

    def hand_over(self, pid: int) -> None:
        """Say that another process is the service from now on, and nothing more from this one."""
        self._send(f"MAINPID={pid}")
        self._address, self._watchdog = "", 0.0

    def alive(self, now: float) -> None:
        """Feed the watchdog, at most twice per interval: the master's loop calls this, so its moving is the proof."""
        if self._watchdog and now - self._alive_at >= self._watchdog / 2:
            self._alive_at = now
            self._send("WATCHDOG=1")

    def next_alive(self, now: float) -> float:
        """Return in how many seconds the watchdog must be fed; 1.0 at most."""
        return max(0.0, min(1.0, self._alive_at + self._watchdog / 2 - now)) if self._watchdog else 1.0

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            said = "\n".join(" ".join(line.splitlines()) for line in lines)  # a reason may come from a worker
            sock.sendto(said.encode(errors="backslashreplace"), address)
