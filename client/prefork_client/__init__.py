"""Clients for framed TCP protocols that never hand out somebody else's answer. Standard library only.

This package owns the client's side of a connection: `Client` blocks, `AsyncClient` awaits, `ping` checks a service's
health, and `prefork-client` does it from a shell. It never imports the server, and asyncio only for AsyncClient.
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

if TYPE_CHECKING:
    from prefork_client.aio import AsyncClient

__all__ = [
    "AsyncClient",
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


def __getattr__(name: str) -> object:
    # asyncio takes longer to import than all the rest, and a gevent program must not have it at all.
    if name == "AsyncClient":
        return import_module("prefork_client.aio").AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
