"""The link of a `@reply`, accepted by the event loop's own `create_server`: `create_server_pong.py PORT 1`.

It is what accepting by ourselves is compared with. Nothing of a worker is here but its loop, its links and its clock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import forking
from prefork.connection.link import Hub
from prefork.connection.reply import ReplyLink
from prefork.scoreboard import Field, Scoreboard
from prefork.settings import Settings
from prefork.worker.aio import new_loop
from prefork_wire import Lines

if TYPE_CHECKING:
    import socket


async def serve(listener: socket.socket) -> None:
    """Serve for ever."""
    loop = asyncio.get_running_loop()
    row = Scoreboard().row(0)
    hub = Hub(Settings(), Lines(), row, loop)

    def link() -> ReplyLink:
        row.cells[Field.CONNECTIONS] += 1
        return ReplyLink(hub, lambda _: b"+PONG", None)

    def tick() -> None:
        hub.sweep()
        loop.call_later(0.25, tick)

    tick()
    server = await loop.create_server(link, sock=listener, backlog=2048)
    await server.serve_forever()


def main() -> None:
    """Serve on the very loop that workers use."""
    listener = forking.listen()
    with asyncio.Runner(loop_factory=new_loop()) as runner:
        runner.run(serve(listener))


if __name__ == "__main__":
    main()
