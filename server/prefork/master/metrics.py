"""The metrics socket: a page for scrapers and a word for balancers, by as little HTTP as that needs, in the one loop.

It owns the connections of scrapers and their bounds: how many, how long, how many bytes. One request is answered on
each, and the connection ends. Nothing here ever waits; what is on the page is `exposition`'s. What a scraper sends is
looked at for its first line only.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Final

from prefork.log import LOGGER
from prefork.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prefork.listener import Listener
    from prefork.master.events import Events

MAX_REQUEST: Final = 8192
"""Bytes of a request, and again as many that are read and dropped behind it."""

MAX_SCRAPES: Final = 16
"""Scrapers at once; further ones wait in the kernel's queue."""

PATIENCE: Final = 5.0
"""Seconds for a request to come, and again for the answer to be taken."""

_PAUSE: Final = 1.0
"""Seconds without accepting after accept has failed, for want of descriptors as a rule."""

PAGE: Final = b"/metrics"
READY: Final = b"/ready"

_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class _Scrape:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = b""
        self.unsent: memoryview | None = None  # None: there is no answer yet
        self.deadline = time.monotonic() + PATIENCE

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


class Metrics:
    """Accepts on its listeners, once it is opened, and answers with what a path's page returns: status and text."""

    def __init__(
        self, listeners: Sequence[Listener], events: Events, pages: Mapping[bytes, Callable[[], tuple[str, bytes]]]
    ) -> None:
        self.listeners = list(listeners)
        self._events = events
        self._pages = pages
        self._scrapes: set[_Scrape] = set()
        self._watching = False
        self._resume_at: float | None = None  # open, but not watched before then
        self._throttle = Throttle()

    def open(self) -> None:
        """Answer from now on; an older master has done so until now."""
        self._resume_at = 0.0
        self._watch(0.0)

    def open_things(self) -> list[_Scrape | Listener]:
        """Return everything open here that no child may keep."""
        return [*self._scrapes, *self.listeners]

    def leave_to_another(self) -> None:
        """Accept no more: a newer master does, on the same queue. Who was let in is still answered."""
        self._unwatch()
        self._resume_at = None
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()

    def close(self) -> None:
        """Close everything."""
        self.leave_to_another()
        for scrape in tuple(self._scrapes):
            self._end(scrape)

    def look(self, now: float) -> None:
        """Drop who has run out of time, and accept again after a pause."""
        for scrape in tuple(self._scrapes):
            if now >= scrape.deadline:
                self._end(scrape)
        self._watch(now)

    def _watch(self, now: float) -> None:
        if self._watching or self._resume_at is None or now < self._resume_at or len(self._scrapes) >= MAX_SCRAPES:
            return
        self._watching = True
        for listener in self.listeners:
            self._events.on(listener.socket, lambda sock=listener.socket: self._admit(sock))  # type: ignore[misc]

    def _unwatch(self) -> None:
        self._watching = False
        for listener in self.listeners:
            self._events.off(listener.socket)

    def _admit(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            LOGGER.warning("--metrics: cannot accept: %s; trying again in a moment", error.strerror)
            self._resume_at = time.monotonic() + _PAUSE
            self._unwatch()
            return
        sock.setblocking(False)
        scrape = _Scrape(sock)
        self._scrapes.add(scrape)
        self._events.on(scrape, lambda: self._on_readable(scrape))
        if len(self._scrapes) >= MAX_SCRAPES:
            self._unwatch()

    def _end(self, scrape: _Scrape) -> None:
        self._scrapes.discard(scrape)
        self._events.drop(scrape)
        self._watch(time.monotonic())

    def _on_readable(self, scrape: _Scrape) -> None:
        try:
            data = scrape.socket.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        scrape.received += data
        if scrape.unsent is not None:  # read on only to let the peer close: what is unread would become a reset
            if not data or len(scrape.received) >= 2 * MAX_REQUEST:
                self._end(scrape)
        elif b"\r\n\r\n" in scrape.received or b"\n\n" in scrape.received:
            self._answer(scrape, *self._reply(scrape.received))
        elif len(scrape.received) >= MAX_REQUEST:
            self._answer(scrape, "431 Request Header Fields Too Large", b"the request is too long\n")
        elif not data:
            self._end(scrape)

    def _reply(self, request: bytes) -> tuple[str, bytes]:
        """Return status and body."""
        words = request.split(b"\n", 1)[0].split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, target, version
            return "400 Bad Request", b"this port speaks HTTP/1.1\n"
        if words[0] != b"GET":
            return "405 Method Not Allowed", b"only GET is answered\n"
        if (page := self._pages.get(words[1].partition(b"?")[0])) is None:
            return "404 Not Found", b"the metrics are at /metrics; /ready says whether newcomers are welcome\n"
        try:
            return page()
        except Exception:  # noqa: BLE001 - a page that cannot be made is no reason for a server to fall
            if self._throttle.left_out("page") is not None:
                LOGGER.exception("--metrics: the page could not be made")
            return "500 Internal Server Error", b"the page could not be made; the log has more\n"

    def _answer(self, scrape: _Scrape, status: str, body: bytes) -> None:
        kind = _CONTENT_TYPE if status.startswith("200") else "text/plain; charset=utf-8"
        allow = "Allow: GET\r\n" if status.startswith("405") else ""
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{allow}"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        scrape.unsent = memoryview(head.encode("ascii") + body)
        scrape.received = b""
        scrape.deadline = time.monotonic() + PATIENCE
        self._send(scrape)

    def _send(self, scrape: _Scrape) -> None:
        assert scrape.unsent is not None  # noqa: S101 - there is an answer
        try:
            scrape.unsent = scrape.unsent[scrape.socket.send(scrape.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end(scrape)
            return
        if scrape.unsent:
            self._events.when_writable(scrape, lambda: self._send(scrape))
            return
        with contextlib.suppress(OSError):
            scrape.socket.shutdown(socket.SHUT_WR)
        self._events.when_readable(scrape, lambda: self._on_readable(scrape))
