"""Replies that wait: what makes a dialogue of an `async def` reply, or of a `def` that blocks and runs in a pool.

The answers of one connection leave in the order of its requests, however long each takes, and only so many requests of
one connection are at work at once: the others wait in the decoder, and then in the peer. A plain reply that does not
wait is never here: `reply.ReplyLink` calls it without a task.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from prefork.connection.edge import Wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from concurrent.futures import Executor

    from prefork.connection.aio import Connection

    AsyncReply = Callable[[bytes], Awaitable[bytes | None]]


def in_pool(handler: Callable[[bytes], bytes | None], pool: Executor) -> AsyncReply:
    """Return a reply that runs a blocking `handler` in a thread of `pool`, so that the loop goes on meanwhile."""

    def call(frame: bytes) -> bytes | None:
        try:
            return handler(frame)
        except (StopIteration, SystemExit, KeyboardInterrupt) as error:
            # no future can hold the first, nobody would ever hear of it; and the others would end the loop
            raise RuntimeError(f"the handler raised {type(error).__name__}") from error

    async def reply(frame: bytes) -> bytes | None:
        return await asyncio.get_running_loop().run_in_executor(pool, call, frame)

    return reply


def dialogue(reply: AsyncReply, concurrency: int) -> Callable[[Connection], Coroutine[Any, Any, None]]:
    """Return the dialogue that answers each frame by `reply`, at most `concurrency` of a connection at once."""
    if concurrency > 1:
        return lambda conn: _side_by_side(conn, reply, concurrency)

    async def one_by_one(conn: Connection) -> None:
        async for frame in conn:
            answer = await reply(frame)
            if answer is not None:
                await conn.send(answer)

    return one_by_one


async def _side_by_side(conn: Connection, reply: AsyncReply, concurrency: int) -> None:
    begun: deque[asyncio.Future[bytes | None]] = deque()  # in the order of their requests
    free = asyncio.Semaphore(concurrency)
    news = asyncio.Event()
    limits = conn.limits
    busy = limits.changed(math.inf, None, None)

    async def take() -> None:
        async for frame in conn:
            await free.acquire()
            conn.limits, conn.answering = busy, True  # a peer that waits for an answer is neither idle nor quiet
            begun.append(asyncio.ensure_future(reply(frame)))
            news.set()

    taking = asyncio.ensure_future(take())
    taking.add_done_callback(lambda _: news.set())
    try:
        while begun or not taking.done():
            if not begun:
                news.clear()
                await news.wait()
                continue
            answer = await begun[0]
            begun.popleft()
            free.release()
            if answer is not None:
                await conn.send(answer)
            if not begun:
                conn.limits, conn.answering = limits, False
                if conn.wait is Wait.NEXT:  # for the next request, from now on
                    conn.since = time.monotonic()
    finally:  # whatever is left, nobody waits for its answer any more
        taking.cancel()
        for left in begun:
            left.cancel()
        await asyncio.gather(taking, *begun, return_exceptions=True)
