"""The small services that every machine once had: RFC 862, 863, 864, 865, 867 and 868, over TCP."""

from __future__ import annotations

import asyncio
import random
import time as clock
from typing import Final

from prefork.connection.aio import Connection  # noqa: TC001 - part of the signature users read
from prefork.service import conversation, reply
from prefork_wire import Raw

_SECONDS_1900_TO_1970: Final = 2_208_988_800  # RFC 868
_PRINTABLE: Final = bytes(range(32, 127))
_LINE: Final = 72  # RFC 864: characters per line
_LINES_PER_SEND: Final = 95  # the pattern repeats after as many lines as there are characters

_QUOTES: Final = (
    "The queue that nobody drains is a cache of complaints.",
    "A worker that cannot be killed cannot be trusted with your work.",
    "Bind once, fork often.",
    "Every timeout names a patience; write down whose.",
    "The kernel keeps better queues than we do.",
    "A signal says that something happened, never how often.",
    "What is closed in anger is reset; what is closed in order is read.",
)


@reply(Raw())
def echo(data: bytes) -> bytes:
    """RFC 862: whatever comes is sent back."""
    return data


@reply(Raw())
def discard(_data: bytes) -> None:
    """RFC 863: whatever comes is thrown away."""


@conversation(Raw())
async def daytime(conn: Connection) -> None:
    """RFC 867: one line with the date and time in UTC, in the form the RFC suggests; then close."""
    await conn.send(clock.strftime("%A, %B %d, %Y %H:%M:%S-UTC\r\n", clock.gmtime()).encode("ascii"))


@conversation(Raw())
async def time(conn: Connection) -> None:
    """RFC 868: seconds since 1900 as a 32-bit big-endian number, which wraps in 2036; then close."""
    await conn.send(((int(clock.time()) + _SECONDS_1900_TO_1970) & 0xFFFFFFFF).to_bytes(4, "big"))


@conversation(Raw())
async def qotd(conn: Connection) -> None:
    """RFC 865: a quotation of fewer than 512 characters; then close."""
    await conn.send(random.choice(_QUOTES).encode("ascii") + b"\r\n")  # noqa: S311 - not a secret


@conversation(Raw())
async def chargen(conn: Connection) -> None:
    """RFC 864: lines of 72 characters of a rotating pattern, until the peer closes; its input is thrown away."""
    while not conn.draining:
        await conn.send(_PATTERN)
        await asyncio.sleep(0)  # a fast reader must not keep the loop to itself


_ring = _PRINTABLE * 2
_PATTERN: Final = b"".join(_ring[first : first + _LINE] + b"\r\n" for first in range(_LINES_PER_SEND))
