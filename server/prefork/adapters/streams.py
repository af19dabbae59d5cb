"""A `(reader, writer)` callback in an async worker: asyncio's own streams on top of the link of `protocol`.

The reader stops the peer when it holds more than it was read (64 KiB), `drain` waits while the peer does not read.
What an `async def` has not closed when it returns is closed in order; one that hands its streams to another task waits
for that task. A plain `def` is only told of the connection, and closing is up to whoever it gave the streams to.

When the worker ends the connection, a waiting read raises `Ended` and gives no end of file: half a message must not be
taken for a whole one. A callback that goes on after its peer has left holds its worker until it returns, or until
the drain timeout.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from prefork.adapters.protocol import ProtocolLink
from prefork.connection.edge import ConnectionEnded, Wait
from prefork.connection.link import Hub, Link
from prefork.log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Callable


class StreamsLink(ProtocolLink):
    """A connection served by one call of a streams callback."""

    __slots__ = ("_gone", "_handler", "_lost_by", "_task")

    def __init__(
        self, hub: Hub, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], address: object
    ) -> None:
        super().__init__(hub, self._streams, address)
        self._handler = handler
        self._gone = False
        self._lost_by: Exception | None = None  # what the connection was lost by: the reader raises the same
        self._task: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the accounts, once the callback has returned too: a worker does not leave in the middle of it."""
        self._gone = True
        self._lost_by = exc
        if self._task is None or self._task.done():
            super().connection_lost(exc)
            return
        self.wait = Wait.HANDLER  # what it still sends is dropped
        self._part(exc)
        self._task.add_done_callback(lambda _: Link.connection_lost(self, exc))

    def cancel(self) -> None:
        """Cancel the callback and drop the connection: the drain timeout has come."""
        if self._task is not None:
            self._task.cancel()
        super().cancel()

    def _streams(self) -> asyncio.StreamReaderProtocol:
        loop = self._hub.loop
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), self._start, loop=loop)

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._task = self._hub.loop.create_task(self._run(reader, writer))

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leave_open = False
        try:
            result = self._handler(reader, writer)
            if inspect.isawaitable(result):
                await result
            else:
                leave_open = True
        except (ConnectionEnded, asyncio.CancelledError):
            pass
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it raises ends it alone
            self._judge(error)
        finally:
            if not leave_open:
                writer.close()

    def _judge(self, error: BaseException) -> None:
        """Book what the callback raised: as the peer's doing, or as a failure of the callback."""
        # no separator within the reader's limit; `readline` makes a ValueError of it
        overrun = error.__context__ if type(error) is ValueError else error
        left = isinstance(error, ConnectionError | EOFError) and (self._gone or self._peer_ended)
        if isinstance(error, Exception) and isinstance(overrun, asyncio.LimitOverrunError):
            self._refuse(error)
        elif left or error is self._lost_by:  # such as bytes that are no TLS
            LOGGER.debug("connection %d from %s: %r", self.id, self.peer, error)
        else:
            self._failed(error)
