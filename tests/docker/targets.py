"""Services for the server's container: one lies, one leaks, one takes its time, and two say who talks to whom."""

from __future__ import annotations

import asyncio
import os
from itertools import count

from prefork import Connection, Lines, conversation, reply

EVERY = 200
LEAK = 256 << 10
_numbers = count(1)
_hoard: list[bytes] = []


@reply(Lines())
def liar(line: bytes) -> bytes:
    """An echo that swaps the first two bytes of one answer in 200."""
    return line[1::-1] + line[2:] if next(_numbers) % EVERY == 0 else line


@reply(Lines())
def me(line: bytes) -> bytes:
    """Says which worker answers, and the line."""
    return b"%d %b" % (os.getpid(), line)


@reply(Lines())
def leaky(line: bytes) -> bytes:
    """An echo that never forgets: each request costs 256 KiB for good."""
    _hoard.append(b"x" * LEAK)
    return line


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
