"""One connection, from accept to close: what the edge allows it, and the two faces a handler sees.

    edge        what a connection may wait for and how long (pure)
    link        the asyncio side every connection shares: deadlines, half-close, accounting
    reply       a function per frame, the fastest way
    dialogue    the task of a dialogue; waiter takes its next step at once
    aio         a dialogue, as an `async def` handler sees it
    waiting     replies that wait, as a dialogue
    blocking    the same dialogue over a blocking socket, for sync and threads workers; poll is how these wait
    admission   who may come in, and as whom it counts; before everything else, where an option asks for it
    proxy       the PROXY protocol's header (pure)
    terms       what certificates and keys become; certificate is what one says of itself (pure)
    tls         what a handler sees of TLS, and what a failed handshake means; hello is TLS where plain text is spoken
    journal     what the log says of connections

Nothing here accepts, forks or reads a setting from anywhere but what it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefork.connection.edge import ConnectionEnded

if TYPE_CHECKING:
    from prefork.connection.aio import Connection
    from prefork.connection.blocking import BlockingConnection

__all__ = ["BlockingConnection", "Connection", "ConnectionEnded"]


def __getattr__(name: str) -> object:
    """Import each face only when it is asked for: the blocking one needs no asyncio."""
    if name == "Connection":
        from prefork.connection.aio import Connection  # noqa: PLC0415

        return Connection
    if name == "BlockingConnection":
        from prefork.connection.blocking import BlockingConnection  # noqa: PLC0415

        return BlockingConnection
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
