"""WebSockets: the `websockets` library accepts by itself, and is handed the listening sockets.

Run it, then talk to it:

    pip install websockets
    prefork serve chat:serve --chdir examples --bind 127.0.0.1:8765 --workers 4
    python -m websockets ws://127.0.0.1:8765

An `async def` with one parameter is given a `Listening`. On a reload or a stop the library says goodbye to each client
in its own way, code 1001, "going away", and clients come back to another worker. Those in the middle of their opening
handshake are told 503. The workers share nothing: one client hears itself alone.
"""

import asyncio

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as open_server

from prefork import Listening


async def serve(listener: Listening) -> None:
    """Send each message back in capitals, until the worker is to leave."""

    async def client(connection: ServerConnection) -> None:
        with listener.connection():
            async for message in connection:
                listener.count_request()
                await connection.send(message.upper())

    servers = [await open_server(client, sock=sock) for sock in listener.sockets]
    listener.ready()
    await listener.draining()
    for server in servers:
        server.close()
    await asyncio.gather(*(server.wait_closed() for server in servers))
