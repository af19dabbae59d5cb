"""A conversation at the keyboard: lines of an open file out, frames in, at the same time.

It owns when such a conversation is over. It never interprets what is said.
"""

import asyncio
import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

from prefork_client.aio import AsyncClient
from prefork_client.errors import BadPayload, ClientClosed, UsageError
from prefork_wire import FrameError, Framing, Lines

_READ_SIZE = 65536
_TYPED = Lines(max_length=1 << 20)  # the longest line taken from the file, before the framing has its say
_AHEAD = 64  # lines read and not yet sent


class _Typed:
    """The lines of a file, read ahead in a thread: no event loop can wait for every kind of file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[bytes | FrameError | OSError | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        # A daemon, since nothing ends a read from a terminal; and os.read, which holds no lock that exiting needs.
        threading.Thread(target=self._read, name="typed", daemon=True).start()

    async def next(self) -> bytes | None:
        """Return the next line without its newline, or None at the end of the file."""
        line = await self._lines.get()
        self._room.release()
        if isinstance(line, FrameError):
            raise BadPayload(f"standard input: {line}") from line
        if isinstance(line, OSError):
            raise UsageError(f"standard input: {line.strerror}") from line
        return line

    def _read(self) -> None:
        decoder = _TYPED.decoder()
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            try:
                while data := _read(self._fd):
                    decoder.feed(data)
                    while (line := decoder.take()) is not None:
                        self._put(line)
            except (FrameError, OSError) as error:
                self._put(error)
            if last := decoder.rest():  # a last line without its newline is a line
                self._put(last)
            self._put(None)

    def _put(self, line: bytes | FrameError | OSError | None) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._lines.put_nowait, line)


def _read(fd: int) -> bytes:
    """Return what comes, b"" at the end; somebody else may have made the descriptor one that does not wait."""
    while True:
        try:
            return os.read(fd, _READ_SIZE)
        except BlockingIOError:
            select.select([fd], [], [])


async def chat(
    address: str,
    fd: int,
    show: Callable[[bytes], None],
    *,
    framing: Framing,
    connect_timeout: float,
    patience: float,
) -> None:
    """Send the lines read from `fd`, and `show` the frames that arrive meanwhile, until either side has ended.

    Once `fd` has ended, the peer is told so and may go on talking until it closes, or for `patience` seconds.

    Args:
        address: Where to connect, as `prefork_wire.parse_address` reads it.
        fd: An open file descriptor to read lines from.
        show: Called with each frame that arrives.
        framing: How frames are told apart.
        connect_timeout: Seconds for connecting.
        patience: Seconds to wait for the peer's end after `fd` has ended.

    Raises:
        ClientError: A subclass says what ended the conversation, other than one of the two ends.
    """
    async with AsyncClient(address, framing, connect_timeout=connect_timeout, reply_timeout=None) as client:
        hearing = asyncio.create_task(_hear(client, show))
        talking = asyncio.create_task(_talk(client, _Typed(fd)))
        try:
            await asyncio.wait({hearing, talking}, return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done():
                talking.result()
                await asyncio.wait({hearing}, timeout=patience)
            for task in (talking, hearing):
                # ClientClosed only repeats that the other one ended it.
                if task.done() and (error := task.exception()) and not isinstance(error, ClientClosed):
                    raise error
        finally:
            hearing.cancel()
            talking.cancel()
            await asyncio.gather(hearing, talking, return_exceptions=True)


async def _hear(client: AsyncClient, show: Callable[[bytes], None]) -> None:
    async for frame in client:
        show(frame)


async def _talk(client: AsyncClient, typed: _Typed) -> None:
    while (line := await typed.next()) is not None:
        await client.send(line)
    await client.send_eof()
