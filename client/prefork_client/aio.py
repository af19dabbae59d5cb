"""The asyncio client: one connection, the same face as the blocking one.

It owns waiting in an event loop, under one deadline per call. It reads only when asked to, so a peer that sends
without end fills the kernel's buffers and no memory here. It never starts a task or a loop.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from prefork_client.errors import ClientBusy, PeerClosed
from prefork_client.session import RECEIVE_SIZE, Session, candidates_query, prepare
from prefork_wire import Address, Framing, Lines

_LINES = Lines()
_IN_A_ROW = 64  # frames of a fast peer after which everybody else has a turn: what is there already never waits


class AsyncClient(Session):
    """Sends and receives frames over one connection, with async and await.

    It never hands out somebody else's answer. After a timeout, a broken frame or a cancelled call the connection is
    closed for good, and `request` refuses a connection that has something to say before it is asked. With `send`
    and `receive` apart, telling which answer belongs to what is yours.

    One task may send while another one receives; two of the same kind get ClientBusy, and `request` is both::

        async with AsyncClient("127.0.0.1:7000") as client:
            print(await client.request(b"hello"))

    Args:
        address: Where to connect, as `prefork_wire.parse_address` reads it.
        framing: How frames are told apart.
        connect_timeout: Seconds for connecting, looking up the name and all of its addresses together.
        reply_timeout: Seconds for one call, however many pieces it sends or receives; None waits for ever.

    Raises:
        BadAddress: The address cannot be read, or is none to connect to.
        UsageError: A timeout is not above 0.
    """

    def __init__(
        self,
        address: str | Address,
        framing: Framing = _LINES,
        *,
        connect_timeout: float = 5.0,
        reply_timeout: float | None = 10.0,
    ) -> None:
        super().__init__(address, framing, connect_timeout, reply_timeout)
        self._sending = False
        self._receiving = False
        self._in_a_row = 0  # frames received, for which it may not have been necessary to wait

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect, unless it is done: to the first of the address's candidates that accepts.

        Raises:
            ConnectFailed: None did; a subclass says why the last one did not. It may be tried again.
            ClientClosed: The client was connected before and is over.
        """
        with self._claimed(sending=True, receiving=True):
            self._check_not_ended()
            if self._socket is not None:
                return
            try:
                async with asyncio.timeout(self.connect_timeout) as limit:
                    self._adopt(await self._connected(limit))
            except (OSError, UnicodeError) as error:
                raise self._connect_failure(error) from error

    async def _connected(self, limit: asyncio.Timeout) -> socket.socket:
        if self.address.kind == "unix":
            return await _dial(socket.AF_UNIX, 0, self.address.path, None)
        loop = asyncio.get_running_loop()
        failure: OSError = TimeoutError("timed out")
        candidates = await loop.getaddrinfo(*candidates_query(self.address), type=socket.SOCK_STREAM)
        for number, (family, _, protocol, _, where) in enumerate(candidates):
            # A fair share each: a silent first address must not use up the time of a second one that answers.
            share = ((limit.when() or 0.0) - loop.time()) / (len(candidates) - number)
            try:
                return await _dial(family, protocol, where, share)
            except OSError as error:
                failure = error
        raise failure

    async def send(self, payload: bytes) -> None:
        """Send one frame; returns when the kernel has taken all of it.

        Raises:
            BadPayload: The payload cannot be made a frame; the connection stays open.
            PeerError: A subclass says what the peer did; the connection is closed.
            ClientClosed: There is no connection.
        """
        frame = self._encode(payload)
        with self._alone(sending=True) as sock:
            async with asyncio.timeout(self.reply_timeout):
                await asyncio.get_running_loop().sock_sendall(sock, frame)

    async def receive(self) -> bytes:
        """Wait for the next frame and return its payload.

        Raises:
            PeerClosed: There are no more frames; the connection is closed.
            PeerError: Another subclass says what the peer did; the connection is closed.
            ClientClosed: There is no connection.
        """
        with self._alone(receiving=True) as sock:
            async with asyncio.timeout(self.reply_timeout):
                self._in_a_row += 1
                if self._in_a_row % _IN_A_ROW == 0:
                    await asyncio.sleep(0)
                return await self._receive(sock)

    async def request(self, payload: bytes) -> bytes:
        """Send one frame and return the payload of the one frame that answers it.

        Raises:
            BadPayload: The payload cannot be made a frame; the connection stays open.
            UnexpectedData: Something had arrived before, and would have passed for the answer.
            PeerClosedIdle: The peer had closed before; nothing was sent, so the request may be made again.
            PeerError: Another subclass says what the peer did; the connection is closed.
            ClientClosed: There is no connection.
        """
        frame = self._encode(payload)
        with self._alone(sending=True, receiving=True) as sock:
            self._refuse_leftovers(sock)
            async with asyncio.timeout(self.reply_timeout):
                await asyncio.get_running_loop().sock_sendall(sock, frame)
                return await self._receive(sock)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield frames until the peer closes between two of them; raises as `receive` does otherwise."""
        while True:
            try:
                frame = await self.receive()
            except PeerClosed:
                return
            yield frame

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent, and stay able to receive (TCP half close)."""
        with self._alone(sending=True) as sock:
            sock.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Close for good; again is no error. A call still waiting in another task raises ClientClosed."""
        self.end("close() was called")

    @contextmanager
    def _alone(self, *, sending: bool = False, receiving: bool = False) -> Iterator[socket.socket]:
        """Keep a direction of the open socket to one call; whatever breaks off the call, ends the connection."""
        with self._claimed(sending=sending, receiving=receiving):
            sock = self._opened()
            try:
                yield sock
            except BaseException as error:  # also CancelledError
                self._give_up(error)
                raise

    @contextmanager
    def _claimed(self, *, sending: bool, receiving: bool) -> Iterator[None]:
        if (sending and self._sending) or (receiving and self._receiving):
            raise ClientBusy(f"{self.address}: another task is using this client; give each its own")
        self._sending |= sending
        self._receiving |= receiving
        try:
            yield
        finally:
            self._sending &= not sending
            self._receiving &= not receiving
            if self._ended is not None:
                self._release()

    async def _receive(self, sock: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        decoder = self._decoder
        while (frame := decoder.take()) is None:
            data = await loop.sock_recv(sock, RECEIVE_SIZE)
            if not data:
                raise self._peer_closed()
            decoder.feed(data)
        return frame

    def _release(self) -> None:
        if self._socket is None:
            return
        if (self._sending or self._receiving) and self._is_own:
            # The loop watches the descriptor for a waiting call: this wakes the call, which then comes by here again.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            return
        self._socket.close()
        self._socket = None


async def _dial(family: int, protocol: int, where: str | tuple[Any, ...], seconds: float | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.settimeout(0)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, where)
        prepare(sock)
    except BaseException:
        sock.close()
        raise
    return sock
