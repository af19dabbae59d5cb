"""The asyncio pool: the same as the blocking one, for the tasks of one event loop.

It owns waiting for a connection to become free; which one is taken, and whether a request may be made again, is decided
in `pool`. It never starts a task or a loop.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from prefork_client.aio import AsyncClient
from prefork_client.errors import ConnectionLost
from prefork_client.pool import Attempts, Kept, all_in_use
from prefork_wire import Address, Framing


class AsyncPool(Kept[AsyncClient]):
    """Makes requests over kept connections, for any number of tasks of one event loop.

    Otherwise it is as `Pool`::

        async with AsyncPool("127.0.0.1:7000") as pool:
            print(await pool.request(b"hello", repeatable=True))

    Args:
        address: Where to connect, as `prefork_wire.parse_address` reads it.
        framing: How frames are told apart.
        size: How many connections may be open at once; more requests wait for one.
        idle_timeout: Seconds after which an unused connection is closed; less than the server's own is polite.
        connect_timeout: Seconds for connecting, as for `AsyncClient`.
        reply_timeout: Seconds for one attempt, as for `AsyncClient`, and for waiting for a connection.

    Raises:
        BadAddress: The address cannot be read, or is none to connect to.
        UsageError: A timeout is not above 0, or the size is below 1.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def request(self, payload: bytes, *, repeatable: bool = False) -> bytes:
        """Send one frame and return the payload of the one frame that answers it.

        Args:
            payload: What to send.
            repeatable: Whether the peer may be asked twice: a lost connection is then no error yet.

        Raises:
            BadPayload: The payload cannot be made a frame.
            ConnectFailed: No connection came about.
            PeerError: A subclass says what the peer did.
            ClientBusy: No connection became free within the reply timeout.
            ClientClosed: The pool was closed.
        """
        attempts = Attempts(repeatable=repeatable)
        async with self._claimed():
            while True:
                client = self._shelf.take()
                kept = client is not None
                if client is None:
                    client = self._client()
                try:
                    await client.connect()
                    return await client.request(payload)
                except ConnectionLost as error:
                    if not attempts.allows(error, kept=kept):
                        raise
                finally:
                    self._shelf.put(client)

    async def close(self) -> None:
        """Close all connections, those in use as soon as they come back; again is no error."""
        self._shelf.close()

    def _make(self, address: str | Address, framing: Framing, limits: tuple[float, float | None]) -> AsyncClient:
        return AsyncClient(address, framing, connect_timeout=limits[0], reply_timeout=limits[1])

    def _make_room(self, size: int) -> None:
        self._room = asyncio.BoundedSemaphore(size)

    @asynccontextmanager
    async def _claimed(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._reply_timeout):
                await self._room.acquire()
        except TimeoutError as error:
            raise all_in_use(self._limits[0], self._reply_timeout) from error
        try:
            yield
        finally:
            self._room.release()
