"""The same dialogue over a blocking socket, for `def` handlers in sync and threads workers.

Each wait (`poll`) ends as soon as the worker begins to drain, where that matters. This file never accepts and knows
nothing of other connections.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from operator import length_hint
from typing import TYPE_CHECKING, Final, Self

from prefork.connection import edge, hello, journal
from prefork.connection.edge import LINGER, QUIET, RECEIVE_SIZE, SLOW_AT, ConnectionEnded, Wait
from prefork.connection.poll import wait_for
from prefork.log import LOGGER
from prefork.scoreboard import Field
from prefork_wire import FrameError, all_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork.connection.admission import Source
    from prefork.connection.edge import Limits
    from prefork.connection.poll import Wakes
    from prefork.connection.proxy import Proxied
    from prefork.connection.terms import Terms
    from prefork.connection.tls import Tls, TlsSocket
    from prefork.scoreboard import Row
    from prefork.service import Service
    from prefork_wire import Framing

# looked up on every request: an enumeration's own attributes are slower than a global
_FIRST_BYTE, _FRAME, _NEXT, _READER = Wait.FIRST_BYTE, Wait.FRAME, Wait.NEXT, Wait.READER
_CONNECTIONS: Final = int(Field.CONNECTIONS)
_ERRORS: Final = int(Field.ERRORS)
_REQUESTS: Final = int(Field.REQUESTS)
_BYTES_IN: Final = int(Field.BYTES_IN)
_BYTES_OUT: Final = int(Field.BYTES_OUT)

_ids = itertools.count(1)


class BlockingConnection:
    """A dialogue with one peer, as a `def` handler sees it.

    `for frame in conn` takes frames until the peer closes; `conn.send(payload)` frames and sends at once. `id` is
    unique in this worker, `peer` is the other side's address, `proxied` what a balancer says of it (or None).
    """

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place
        self,
        sock: socket.socket,
        framing: Framing,
        limits: Limits,
        row: Row,
        wakes: Wakes,
        terms: Terms | None = None,
        source: Source | None = None,
    ) -> None:
        sock.setblocking(False)
        self._socket: socket.socket | TlsSocket = sock
        self._secure: TlsSocket | None = None
        self._terms = terms
        self._limits = limits
        self._cells = journal.account(row)
        self._wakes = wakes
        self._over = ""  # why no frame will come any more
        self._closed = False
        self._first = True  # nothing has come yet
        self._spoke_tls = False  # where plain text is spoken
        self._decoder = framing.decoder()
        self._framing = framing
        self.id = next(_ids)
        self.peer = edge.take_peer(sock) if source is None else source.name
        self.proxied: Proxied | None = source.proxied if source is not None else None

    # What a handler calls. -------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether this worker is about to leave: finish soon, start nothing long."""
        return self._wakes.draining

    @property
    def local(self) -> str:
        """The address the peer connected to; `gone` when the connection is."""
        if self.proxied is not None:
            return edge.peer_name(self.proxied.destination)
        try:
            return edge.peer_name(self._socket.getsockname())
        except OSError:
            return "gone"

    def __iter__(self) -> Self:
        """Iterate over the frames that come, until the conversation is over."""
        return self

    def __next__(self) -> bytes:
        """Return the next frame.

        Raises:
            StopIteration: the conversation is over.
        """
        frame = self._next()
        if frame is None:
            raise StopIteration
        return frame

    def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            ConnectionEnded: the conversation is over, and why.
        """
        frame = self._next()
        if frame is None:
            raise ConnectionEnded(self._over)
        return frame

    def send(self, payload: bytes) -> None:
        """Frame `payload` and send it; wait while the peer is too slow to take it.

        Raises:
            ConnectionEnded: nobody is there to read it, or it was not read within the write timeout.
            prefork_wire.FrameError: the payload cannot be framed.
        """
        self._send(self._framing.encode(payload))

    def set_framing(self, framing: Framing) -> None:
        """Read what comes next, bytes already here included, by another framing; send by it too."""
        rest = self._decoder.rest()
        self._decoder = framing.decoder()
        self._framing = framing
        self._decoder.feed(rest)

    @property
    def tls(self) -> Tls | None:
        """What is known of the connection's TLS; None on a plain one."""
        return self._secure.describe() if self._secure is not None else None

    def start_tls(self) -> None:
        """Speak TLS from here on.

        Raises:
            ConnectionEnded: the handshake failed, or bytes had come before it: whoever put them there, they were not
                protected (CVE-2011-0411 and its many followers).
            RuntimeError: the server has no certificate, or the connection is secure already.
        """
        if self._terms is None or self._secure is not None:
            raise RuntimeError("the connection is secure already" if self._secure else "there is no --tls-cert")
        if self._closed:
            raise ConnectionEnded(self._over)
        if self._decoder.buffered:
            self._over = "bytes came between STARTTLS and the handshake"
            raise ConnectionEnded(self._over)
        self._shake_hands(self._terms)

    def set_timeouts(
        self, *, idle: float | None = None, frame: float | None = None, write: float | None = None
    ) -> None:
        """Change this connection's deadlines, in seconds; what is not given stays as it is.

        Raises:
            ValueError: a limit is not above 0.
        """
        self._limits = self._limits.changed(idle, frame, write)

    def close(self) -> None:
        """Half-close, read on until the peer closes too (bounded), and close: the peer sees an end, never a reset."""
        if self._closed:
            return
        self._closed = True
        self._over = self._over or "the connection is closed"
        deadline = time.monotonic() + LINGER
        with self._bare(deadline) as sock, contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline and self._poll(select.POLLIN, deadline) and sock.recv(RECEIVE_SIZE):
                pass
        self._leave()

    def abort(self) -> None:
        """Drop the connection at once: the peer is told nothing more, and may see a reset."""
        if self._closed:
            return
        self._closed = True
        self._over = self._over or "the connection was aborted"
        self._plain().close()
        self._leave()

    # Inside. ---------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Leave the accounts."""
        self._cells[_CONNECTIONS] -= 1
        journal.closed(self._cells, self.id, self.peer, self._over)

    def _shake_hands(self, terms: Terms) -> None:
        """Put TLS between the socket and the rest.

        Raises:
            ConnectionEnded: the peer would not, or not in time.
        """
        from prefork.connection.tls import TlsSocket, report  # noqa: PLC0415 - without TLS it would be mere memory

        assert isinstance(self._socket, socket.socket)  # noqa: S101 - not secure yet
        try:
            self._socket = secure = self._secure = TlsSocket(self._socket, terms.context)
            if not self._until_done(secure, secure.shake_hands, time.monotonic() + terms.handshake_timeout):
                raise TimeoutError
        except OSError as error:
            self._cells[_ERRORS] += bool(report(error, self.peer))
            self._over = edge.NO_HANDSHAKE
            raise ConnectionEnded(self._over) from error

    def _until_done(self, secure: TlsSocket, step: Callable[[], None], deadline: float) -> bool:
        """Call `step` until it need not wait; False at the deadline."""
        while True:
            try:
                step()
            except BlockingIOError:
                if not self._poll(secure.events, deadline):
                    return False
            else:
                return True

    def _bare(self, deadline: float) -> socket.socket:
        """Return the socket to be closed, behind TLS's own end where there is TLS."""
        if self._secure is not None:
            with contextlib.suppress(OSError, ValueError):  # the peer goes as it likes, maybe before TLS has begun
                self._until_done(self._secure, self._secure.say_goodbye, deadline)
        return self._plain()

    def _plain(self) -> socket.socket:
        """Return the socket to be closed, without TLS from here on."""
        if self._secure is not None:
            self._socket = self._secure.plain()
        assert isinstance(self._socket, socket.socket)  # noqa: S101 - not secure, or no longer
        return self._socket

    def greet(self) -> None:
        """Do what comes before the first frame.

        Raises:
            ConnectionEnded: a TLS handshake failed.
        """
        if self._terms is not None and self._terms.implicit:
            self._shake_hands(self._terms)

    def take_ready(self) -> list[bytes] | None:
        """Wait for at least one frame and return all that are here; None when the conversation is over."""
        frame = self._next()
        if frame is None:
            return None
        frames = [frame]
        while (more := self._pop()) is not None:
            frames.append(more)
        return frames

    def send_all(self, payloads: list[bytes]) -> None:
        """Frame each payload and send them in one write; raises what the first that makes no frame raises."""
        try:
            data = all_encoder(self._framing)(payloads)
        except Exception:
            self._send(edge.encode_before_fault(self._framing, payloads))
            raise
        self._send(data)

    def _pop(self) -> bytes | None:
        if self._over:
            return None
        try:
            frame = self._decoder.take()
        except FrameError as error:
            self._over = str(error)
            if self._spoke_tls:  # that says why already
                return None
            self._cells[_ERRORS] += 1
            journal.refused_a_frame(error, self.peer, self.id)
            return None
        if frame is not None:
            self._cells[_REQUESTS] += 1
        return frame

    def _next(self) -> bytes | None:
        if self._wakes.closing and not self._first and not self._decoder.buffered:
            self._over = edge.DRAINS
        wait = _FRAME if self._decoder.buffered else _FIRST_BYTE if self._first else _NEXT
        since = time.monotonic()
        while not self._over:
            frame = self._pop()
            if frame is not None or self._over:
                return frame
            if self._decoder.buffered and wait is not _FRAME:
                wait, since = _FRAME, time.monotonic()
            data = self._receive(wait, since)
            if not data:
                closed = edge.CUT_SHORT if self._decoder.buffered else edge.PEER_CLOSED
                self._over = self._over or closed  # type: ignore[redundant-expr] # _receive may have set it
                return None
            if self._first and self._secure is None and hello.is_hello(data):
                self._spoke_tls = True
                self._cells[_ERRORS] += 1
                hello.report(self.peer, starttls=self._terms is not None)
            self._first = False
            self._cells[_BYTES_IN] += len(data)
            self._decoder.feed(data)
        return None

    def _receive(self, wait: Wait, since: float) -> bytes:
        """Return the next bytes, or b"" at the end, with the reason in `_over`."""
        deadline = since + self._limits[wait]
        idle = wait is not _FRAME
        try:
            while True:
                quiet = time.monotonic() + (edge.FIRST_QUIET if wait is _FIRST_BYTE else QUIET)
                drained = idle and self.draining
                here = self._secure is not None and self._secure.pending() > 0
                if here or self._poll(
                    select.POLLIN, min(deadline, quiet) if drained else deadline, wake=idle and not drained
                ):
                    try:
                        return self._socket.recv(RECEIVE_SIZE)
                    except BlockingIOError:  # half a TLS record
                        continue
                if drained:
                    self._over = edge.DRAINS
                elif time.monotonic() >= deadline:
                    self._over = SLOW_AT[wait]
                    LOGGER.debug("connection %d from %s %s", self.id, self.peer, self._over)
                else:
                    continue  # woken: the worker drains now
                return b""
        except OSError as error:
            self._over = edge.why_lost(error)
            return b""

    def _send(self, data: bytes) -> None:
        if self._socket.fileno() < 0:
            raise ConnectionEnded(self._over)
        self._cells[_BYTES_OUT] += len(data)
        view = memoryview(data)
        deadline = time.monotonic() + self._limits[_READER]
        try:
            while view:
                try:
                    view = view[self._socket.send(view) :]
                    deadline = time.monotonic() + self._limits[_READER]
                except BlockingIOError:
                    if not self._poll(select.POLLOUT, deadline):
                        self._over = SLOW_AT[_READER]
                        LOGGER.debug("connection %d from %s %s", self.id, self.peer, self._over)
                        raise ConnectionEnded(self._over) from None
        except OSError as error:
            self._over = self._over or edge.why_lost(error)
            raise ConnectionEnded(self._over) from error

    def _poll(self, events: int, deadline: float, *, wake: bool = False) -> bool:
        return wait_for(self._socket.fileno(), events, deadline, self._wakes, wake=wake)


def serve(  # noqa: PLR0913, PLR0917 - called in one place
    sock: socket.socket,
    service: Service,
    limits: Limits,
    row: Row,
    wakes: Wakes,
    terms: Terms | None = None,
    source: Source | None = None,
) -> None:
    """Serve one connection to its end with a blocking service, and close it: steps 6 and 7 of a server program."""
    try:
        conn = BlockingConnection(sock, service.framing, limits, row, wakes, terms, source)
    except Exception as error:  # noqa: BLE001 - a framing of the service's own
        row.cells[_ERRORS] += 1
        row.cells[_CONNECTIONS] -= 1
        journal.handler_failed(error, edge.take_peer(sock) if source is None else source.name)
        sock.close()
        return
    try:
        conn.greet()
        if service.kind == "conversation":
            service.handler(conn)
        else:
            _answer(conn, service.handler)
    except ConnectionEnded:
        pass
    except BaseException as error:  # noqa: BLE001 - whatever it raises, exit() included, ends this connection alone
        row.cells[_ERRORS] += 1
        conn._over = edge.failure(error)  # noqa: SLF001 - the same file
        journal.handler_failed(error, conn.peer, conn.id)
    else:
        conn._over = conn._over or edge.RETURNED  # noqa: SLF001 - the same
    finally:
        conn.close()


def _answer(conn: BlockingConnection, handler: Callable[[bytes], bytes | None]) -> None:
    while (frames := conn.take_ready()) is not None:
        coming = iter(frames)
        while length_hint(coming):
            answers: list[bytes] = []
            size = 0
            try:
                for frame in coming:
                    if (answer := handler(frame)) is not None:
                        answers.append(answer)
                        size += len(answer)
                        if size > RECEIVE_SIZE:  # many large ones would be held for a peer that does not read
                            break
            finally:  # what was answered before a failure is still sent
                if answers:
                    conn.send_all(answers)
