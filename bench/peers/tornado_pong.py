"""Tornado's TCPServer, preforked by Tornado: `tornado_pong.py PORT PROCESSES`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import bind_sockets
from tornado.process import fork_processes
from tornado.tcpserver import TCPServer

if TYPE_CHECKING:
    import socket


class Pong(TCPServer):
    """Answers each line."""

    async def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:  # noqa: ARG002
        """Serve one connection."""
        stream.set_nodelay(True)
        try:
            while True:
                await stream.read_until(b"\n")
                await stream.write(b"+PONG\r\n")
        except StreamClosedError:
            pass


async def serve(sockets: list[socket.socket]) -> None:
    """Serve for ever."""
    Pong().add_sockets(sockets)
    await asyncio.Event().wait()


def main() -> None:
    """Listen, fork, serve."""
    port, processes = (int(word) for word in sys.argv[1:])
    sockets = bind_sockets(port, "127.0.0.1", backlog=2048)
    if processes > 1:
        fork_processes(processes)
    asyncio.run(serve(sockets))


if __name__ == "__main__":
    main()
