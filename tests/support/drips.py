"""Peers that send a byte a second of a line that never ends, in a process of their own.

In a process of their own, because whoever measures others beside them must not be slowed by sending for them.
`python drips.py HOST PORT COUNT` connects, says when the first began once all have, goes on until each
was cut off, and then says as a JSON list how each `Ended`. Times are of the monotonic clock.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

LAST_S: Final = 90.0
"""Seconds after which it gives up, whatever the server does."""


class Ended(NamedTuple):
    """How one of them ended."""

    began: float  # when its first byte was sent, on the monotonic clock
    told: float  # seconds from there until it was told to go; 0 if it never was
    how: str


class Drips:
    """So many of them against a server, from entering to leaving the block."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self._command = [sys.executable, __file__, address[0], str(address[1]), str(count)]

    def __enter__(self) -> Self:
        """Return when each has sent its first byte."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.began = float(self._process.stdout.readline())  # the first of them
        return self

    def __exit__(self, *_: object) -> None:
        """End those that are left."""
        self._process.kill()
        self._process.communicate()

    def ended(self, timeout: float) -> list[Ended]:
        """Return how each ended, once the server has cut off all."""
        said, _ = self._process.communicate(timeout=timeout)
        return [Ended(*one) for one in json.loads(said)]


@dataclass(eq=False)
class _Drip:
    sock: socket.socket
    began: float
    next_at: float
    told: float = 0.0
    how: str = ""


class _Sender:
    """All of them, in one thread: what is due is sent at its time, so that the bytes are spread over the second."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self._poll = select.epoll()  # poll(2) looks at all of them for each byte, and so slows whom it runs beside
        self._by_fd: dict[int, _Drip] = {}
        first = time.monotonic() + 1.0
        for number in range(count):
            sock = socket.create_connection(address)
            sock.setblocking(False)
            now = time.monotonic()
            sock.send(b"x")
            self._poll.register(sock, select.EPOLLIN)
            self._by_fd[sock.fileno()] = _Drip(sock, now, first + number / count)
        self.all = list(self._by_fd.values())
        self._due = deque(self.all)

    def go_on(self) -> None:
        """Send until each has been cut off."""
        end = time.monotonic() + LAST_S
        while self._due and (now := time.monotonic()) < end:
            self._look(max(0.0, self._due[0].next_at - now))
            while self._due and self._due[0].next_at <= time.monotonic():
                self._send(self._due.popleft())

    def _send(self, drip: _Drip) -> None:
        try:
            drip.sock.send(b"x")
        except OSError as error:
            drip.how = drip.how or type(error).__name__
            drip.sock.close()
        else:
            drip.next_at += 1.0
            self._due.append(drip)

    def _look(self, seconds: float) -> None:
        for fd, _ in self._poll.poll(seconds):
            drip = self._by_fd[fd]
            self._poll.unregister(fd)  # it goes on sending: that is what makes it hostile
            drip.told = time.monotonic() - drip.began
            try:
                drip.how = "end of file" if drip.sock.recv(1) == b"" else "an answer"
            except OSError as error:
                drip.how = type(error).__name__


def _main(host: str, port: str, count: str) -> None:
    sender = _Sender((host, int(port)), int(count))
    sys.stdout.write(f"{sender.all[0].began}\n")
    sys.stdout.flush()
    sender.go_on()
    ended: list[Any] = [Ended(one.began, one.told, one.how) for one in sender.all]
    sys.stdout.write(json.dumps(ended))


if __name__ == "__main__":
    _main(*sys.argv[1:])
