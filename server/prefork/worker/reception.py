"""What a blocking worker does with an accepted socket: judge it, read its PROXY header, serve it, forget it.

Without an option that asks for it there is nothing to judge, and serving is all. This file never accepts.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from prefork.connection import edge
from prefork.log import LOGGER, fields
from prefork.scoreboard import Field

if TYPE_CHECKING:
    import socket

    from prefork.connection.admission import Admission, Source
    from prefork.connection.poll import Wakes
    from prefork.service import Service
    from prefork.worker.post import Post


class Reception:
    """All that come to one worker."""

    def __init__(self, post: Post, service: Service) -> None:
        if service.kind == "sockets":
            from prefork.adapters.sockets import serve  # noqa: PLC0415 - each worker loads its own model alone
        else:
            from prefork.connection.blocking import serve  # noqa: PLC0415
        self._serve = serve
        self._service = service
        self._limits = edge.limits(post.settings)
        self._row = post.row
        self._tls = post.plan.tls
        self._admission = post.admission()

    def meet(self, sock: socket.socket, address: object) -> object | None:
        """Judge a socket as it was accepted; return whose it is, to be given to `serve`, or None: it was refused."""
        if self._admission is None:
            return address
        from prefork.connection.admission import Refused, Source  # noqa: PLC0415 - as above

        try:
            return self._admission.meet(address)
        except Refused as why:
            self._refuse(self._admission, sock, Source(address), why)
            return None

    def serve(self, sock: socket.socket, who: object, wakes: Wakes) -> None:
        """Serve one connection to its end, and close it."""
        admission = self._admission
        if admission is None:
            self._serve(sock, self._service, self._limits, self._row, wakes, self._tls)
            return
        source: Source = who  # type: ignore[assignment] # it is what `meet` returned
        if not admission.reads_headers or self._is_let_in(admission, sock, source, wakes):
            try:
                self._serve(sock, self._service, self._limits, self._row, wakes, self._tls, source)
            finally:
                admission.leave(source)

    def _is_let_in(self, admission: Admission, sock: socket.socket, source: Source, wakes: Wakes) -> bool:
        """Read the header and judge again; False where that was the connection's end."""
        from prefork.connection.admission import Refused  # noqa: PLC0415 - as above

        try:
            _await_header(admission, sock, source, wakes)
        except Refused as why:
            self._refuse(admission, sock, source, why)
            return False
        except (EOFError, OSError):
            LOGGER.debug("a connection ended before its PROXY header", extra=fields(peer=source.name))
            sock.close()
            self._row.cells[Field.CONNECTIONS] -= 1
            return False
        return True

    def _refuse(self, admission: Admission, sock: socket.socket, source: Source, why: Exception) -> None:
        admission.refuse(sock, source, why)  # type: ignore[arg-type] # only a `Refused` is caught
        self._row.cells[Field.CONNECTIONS] -= 1


def _await_header(admission: Admission, sock: socket.socket, source: Source, wakes: Wakes) -> None:
    """Wait for the header of a connection, and learn from it whose it is.

    Raises:
        EOFError: nothing came from the peer, or not while the worker drains.
        OSError: the peer is gone.
        Refused: there was none in time, or none that is accepted, or its client may not come in.
    """
    from prefork.connection.admission import read_header  # noqa: PLC0415 - as above
    from prefork.connection.poll import wait_for  # noqa: PLC0415
    from prefork.connection.proxy import Header  # noqa: PLC0415

    header = Header(admission.versions)
    deadline = time.monotonic() + admission.header_timeout
    while True:
        draining = wakes.draining
        quiet = time.monotonic() + edge.FIRST_QUIET
        until = min(deadline, quiet) if draining and not header.begun else deadline
        if wait_for(sock.fileno(), select.POLLIN, until, wakes, wake=not draining):
            try:
                if read_header(sock, header):
                    break
            except BlockingIOError:
                pass  # nothing there after all
        elif time.monotonic() >= deadline:
            raise admission.too_late()
        elif draining:
            raise EOFError
    admission.take_header(source, header.proxied)
