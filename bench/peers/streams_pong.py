"""asyncio's streams, preforked by hand: `streams_pong.py stock|uvloop PORT PROCESSES`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import forking

if TYPE_CHECKING:
    import socket


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line."""
    with contextlib.suppress(OSError):
        while await reader.readline():
            writer.write(b"+PONG\r\n")
            await writer.drain()
    writer.close()


async def serve(listener: socket.socket) -> None:
    """Serve for ever."""
    server = await asyncio.start_server(talk, sock=listener, backlog=2048)
    await server.serve_forever()


def main() -> None:
    """Serve on the loop that was asked for."""
    factory = None
    if sys.argv[1] == "uvloop":
        import uvloop  # noqa: PLC0415 - the stock loop does without

        factory = uvloop.new_event_loop
    listener = forking.listen()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(listener))


if __name__ == "__main__":
    main()
