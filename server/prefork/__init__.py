"""prefork: a preforking server for any TCP protocol.

Write what one request or one connection means; this gives you the server::

    from prefork import Lines, reply

    @reply(Lines(max_length=8192))
    def shout(line: bytes) -> bytes:
        return line.upper()

and `prefork serve module:shout` binds once, forks workers that accept on the shared socket, and looks after them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prefork.adapters.listening import Listening
    from prefork.connection import BlockingConnection, Connection, ConnectionEnded
    from prefork.service import Service, conversation, reply
    from prefork_wire import Decoder, Delimited, FixedSize, FrameError, Framing, LengthPrefixed, Lines, Netstring, Raw

_HOMES = {
    **dict.fromkeys(
        ("Decoder", "Delimited", "FixedSize", "FrameError", "Framing", "LengthPrefixed", "Lines", "Netstring", "Raw"),
        "prefork_wire",
    ),
    **dict.fromkeys(("BlockingConnection", "Connection", "ConnectionEnded"), "prefork.connection"),
    "Listening": "prefork.adapters.listening",
    **dict.fromkeys(("Service", "conversation", "reply"), "prefork.service"),
}

__all__ = [
    "BlockingConnection",
    "Connection",
    "ConnectionEnded",
    "Decoder",
    "Delimited",
    "FixedSize",
    "FrameError",
    "Framing",
    "LengthPrefixed",
    "Lines",
    "Listening",
    "Netstring",
    "Raw",
    "Service",
    "__version__",
    "conversation",
    "reply",
]


def __getattr__(name: str) -> object:
    """Import each public name when it is first asked for: `prefork --version` needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    return getattr(importlib.import_module(_HOMES[name]), name)
