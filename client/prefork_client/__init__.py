"""Clients for framed TCP protocols that never hand out somebody else's answer. Standard library only.

This package owns the client's side of a connection: `Client` blocks, `AsyncClient` awaits, `Pool` and `AsyncPool` keep
connections between requests, `ping` checks a service's health, and `prefork-client` does it from a shell. It never
imports the server, and asyncio only for what begins with Async.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from prefork_client.client import Client
from prefork_client.errors import (
    BadAddress,
    BadFrame,
    BadPayload,
    ClientBusy,
    ClientClosed,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    NameNotFound,
    PeerClosed,
    PeerClosedIdle,
    PeerError,
    PeerReset,
    ProtocolError,
    Refused,
    ReplyTimeout,
    Truncated,
    UnexpectedData,
    Unreachable,
    UsageError,
    WrongReply,
)
from prefork_client.ping import Timing, ping
from prefork_client.pool import Pool

if TYPE_CHECKING:
    from prefork_client.aio import AsyncClient
    from prefork_client.aiopool import AsyncPool

__all__ = [
    "AsyncClient",
    "AsyncPool",
    "BadAddress",
    "BadFrame",
    "BadPayload",
    "Client",
    "ClientBusy",
    "ClientClosed",
    "ClientError",
    "ConnectFailed",
    "ConnectTimeout",
    "ConnectionLost",
    "NameNotFound",
    "PeerClosed",
    "PeerClosedIdle",
    "PeerError",
    "PeerReset",
    "Pool",
    "ProtocolError",
    "Refused",
    "ReplyTimeout",
    "Timing",
    "Truncated",
    "UnexpectedData",
    "Unreachable",
    "UsageError",
    "WrongReply",
    "ping",
]


_WITH_ASYNCIO = {"AsyncClient": "prefork_client.aio", "AsyncPool": "prefork_client.aiopool"}


def __getattr__(name: str) -> object:
    # asyncio takes longer to import than all the rest, and a gevent program must not have it at all.
    if name in _WITH_ASYNCIO:
        return getattr(import_module(_WITH_ASYNCIO[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
