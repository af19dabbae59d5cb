"""The chapter's own service: it asks for a name and greets whoever answers, line by line.

`quit` ends that conversation alone: no peer can end the server.
"""

from __future__ import annotations

from prefork.connection.aio import Connection  # noqa: TC001 - part of the signature users read
from prefork.service import conversation
from prefork_wire import Lines


@conversation(Lines())
async def greet(conn: Connection) -> None:
    """Ask for a name, greet each that comes, and part on `quit`."""
    await conn.send(b"Please enter your name now!")
    async for line in conn:
        name = line.strip()
        if name == b"quit":
            await conn.send(b"Goodbye!")
            return
        await conn.send(b"Hello, " + name + b"!" if name else b"Please enter your name now!")
