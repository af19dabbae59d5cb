"""What `async def serve(listener)` is given: a library that insists on accepting by itself gets the listening sockets.

    async def serve(listener: Listening) -> None:
        servers = [await library.listen(sock=sock) for sock in listener.sockets]
        listener.ready()
        await listener.draining()
        for server in servers:
            server.close()          # its copies of the sockets: other workers hold the same accept queue open
        await listener.idle()

It owns copies of the sockets and what is said between the worker and the coroutine. What the library accepts is its
own: `--max-connections`, the deadlines and each worker's fair share are not kept for it, and what it does not wrap in
`with listener.connection():` is not counted. It never accepts; the worker's side is `worker/listening.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

from prefork.scoreboard import Field

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator

    from prefork.scoreboard import Row


class Listening:
    """The listening sockets of one worker, and the words that a server says and hears.

    Attributes:
        sockets: non-blocking listening sockets, the coroutine's own to close.
        deadline: when a drain must have ended, in seconds of the monotonic clock; inf before it begins.
    """

    def __init__(self, listeners: Iterable[socket.socket], row: Row, on_ready: Callable[[], None]) -> None:
        self.sockets: tuple[socket.socket, ...] = tuple(sock.dup() for sock in listeners)
        for sock in self.sockets:
            sock.setblocking(False)
        self.deadline = math.inf
        self._cells = row.cells
        self._on_ready = on_ready
        self._ready = False
        self._told = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def ready(self) -> None:
        """Say that the server accepts: before this the worker is not ready, and a reload waits for it."""
        if not self._ready:
            self._ready = True
            self._on_ready()

    @property
    def is_ready(self) -> bool:
        """Whether the server has said so."""
        return self._ready

    @property
    def is_draining(self) -> bool:
        """Whether this worker is about to leave: finish soon, start nothing long."""
        return self._told.is_set()

    async def draining(self) -> None:
        """Wait until the worker is to leave. Then stop accepting, end what can be ended, and return by `deadline`."""
        await self._told.wait()

    async def idle(self) -> None:
        """Wait until no connection is open that was counted by `connection`."""
        await self._idle.wait()

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """Count a connection for as long as the block lasts, and as an error if the block raises one."""
        self._cells[Field.ACCEPTED] += 1
        self._cells[Field.CONNECTIONS] += 1
        self._idle.clear()
        try:
            yield
        except Exception:
            self._cells[Field.ERRORS] += 1
            raise
        finally:
            self._cells[Field.CONNECTIONS] -= 1
            if not self._cells[Field.CONNECTIONS]:
                self._idle.set()

    def count_request(self) -> None:
        """Count one request: only the server knows what that is."""
        self._cells[Field.REQUESTS] += 1

    # What the worker calls. ------------------------------------------------------------------------------------------

    def drain(self, deadline: float) -> None:
        """Tell the server that its worker leaves."""
        self.deadline = deadline
        self._told.set()

    def close(self) -> None:
        """Close the copies of the sockets that the server has left open."""
        for sock in self.sockets:
            sock.close()
