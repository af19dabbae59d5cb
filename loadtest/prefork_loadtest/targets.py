"""Services for scenarios that are given no server: `prefork serve prefork_loadtest.targets:NAME`.

The kit itself never imports this file, nor anything else of the server's.
"""

from __future__ import annotations

import asyncio
from typing import Final

from prefork import Connection, Lines, conversation, reply

ROOM: Final = 2
"""Requests that `crowded` works on at once."""
QUEUE: Final = 8
"""Requests that may wait for that."""
WORK_S: Final = 0.02
"""Seconds that each takes: with the room it makes the most that the service can do, 100 requests per second."""
BUSY: Final = b"BUSY"


@reply(Lines(max_length=8192))
def lines(line: bytes) -> bytes:
    """Every line comes back. Unlike the echo of RFC 862, which knows no lines, it counts them."""
    return line


_room = asyncio.Semaphore(ROOM)
_in_hand: set[object] = set()


@conversation(Lines(max_length=8192))
async def crowded(conn: Connection) -> None:
    """Every line comes back, after some work; `BUSY` at once while as many as can be are worked on or wait for it."""
    async for line in conn:
        if len(_in_hand) >= ROOM + QUEUE:
            await conn.send(BUSY)
            continue
        _in_hand.add(conn)
        try:
            async with _room:
                await asyncio.sleep(WORK_S)
        finally:
            _in_hand.discard(conn)
        await conn.send(line)


@conversation(Lines(max_length=8192))
async def peer(conn: Connection) -> None:
    """Every line comes back behind the address of the peer, as the service sees it."""
    async for line in conn:
        await conn.send(f"{conn.peer} ".encode() + line)
