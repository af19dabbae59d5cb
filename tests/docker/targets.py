"""Services for the server's container: one that lies, one that takes its time, and two that say who talks to whom."""

from __future__ import annotations

import asyncio
import os
from itertools import count

from prefork import Connection, Lines, conversation, reply

EVERY = 200
_numbers = count(1)


@reply(Lines())
def liar(line: bytes) -> bytes:
    """An echo that swaps the first two bytes of one answer in 200."""
    return line[1::-1] + line[2:] if next(_numbers) % EVERY == 0 else line


@reply(Lines())
def me(line: bytes) -> bytes:
    """Says which worker answers, and the line."""
    return b"%d %b" % (os.getpid(), line)


@conversation(Lines())
async def slow(conn: Connection) -> None:
    """Says at once that it works, and two seconds later that it is done."""
    async for _ in conn:
        await conn.send(b"working")
        await asyncio.sleep(2)
        await conn.send(b"done")


@conversation(Lines(newline=b"\n"))
async def who(conn: Connection) -> None:
    """Says who the client is and what it had connected to, and whether a balancer says so."""
    async for _ in conn:
        await conn.send(f"{conn.peer} at {conn.local} {'told' if conn.proxied else 'seen'}".encode())
