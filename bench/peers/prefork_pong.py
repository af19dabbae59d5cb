"""What prefork serves here: `prefork serve prefork_pong:pong`, and the others by their names."""

from __future__ import annotations

import time

from prefork import BlockingConnection, Connection, FixedSize, Lines, Service, conversation, reply


@reply(Lines())
def pong(line: bytes) -> bytes:  # noqa: ARG001 - every line has the same answer
    """Answer each line."""
    return b"+PONG"


@conversation(Lines())
async def talk(conn: Connection) -> None:
    """Answer each line, in a dialogue."""
    async for _ in conn:
        await conn.send(b"+PONG")


@conversation(Lines())
def sleepy(conn: BlockingConnection) -> None:
    """Answer each line; one that says so blocks for 100 ms first."""
    for line in conn:
        if line == b"SLEEP":
            time.sleep(0.1)
        conn.send(b"+PONG")


def __getattr__(name: str) -> Service:
    """Make a service that gives frames back: `pong_4096` and `talk_4096`, and so for every other size in bytes."""
    kind, _, size = name.partition("_")
    if kind not in {"pong", "talk"} or not size.isdecimal():
        raise AttributeError(name)
    framing = FixedSize(int(size))
    if kind == "pong":
        return reply(framing)(lambda frame: frame)

    async def dialogue(conn: Connection) -> None:
        async for frame in conn:
            await conn.send(frame)

    return conversation(framing)(dialogue)
