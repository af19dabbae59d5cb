"""TLS on a port that speaks plain text: how it is recognised, and the one line that says so.

A ClientHello passes most framings for a moment: as a line it ends at some byte of it, as a length it is a long wait. So
the first bytes of a connection are compared with how every one begins (RFC 8446, sections 4 and 5.1), and whoever runs
the server is told what happens here. Nothing else is done: a protocol may carry TLS inside its own.
"""

from __future__ import annotations

from typing import Final

from prefork.log import LOGGER, fields
from prefork.throttle import Throttle

HANDSHAKE: Final = 0x16
"""The first byte of TLS: a record of the handshake. Looked for before anything is called."""

_MAJOR: Final = 3  # of the version, in all versions of TLS
_CLIENT_HELLO: Final = 1
_HEADERS: Final = 9  # bytes of a record's header and of a handshake message's

_THROTTLE: Final = Throttle()


def is_hello(data: bytes) -> bool:
    """Say whether these first bytes begin a ClientHello; a plain protocol's own are not taken for one."""
    if len(data) < _HEADERS or (data[0], data[1], data[5]) != (HANDSHAKE, _MAJOR, _CLIENT_HELLO):
        return False
    return int.from_bytes(data[6:9], "big") + 4 >= int.from_bytes(data[3:5], "big") > 4  # noqa: PLR2004 - its own header


def report(peer: str, *, starttls: bool) -> None:
    """Log that a peer speaks TLS here, once in a span of time."""
    if (more := _THROTTLE.more("tls")) is None:
        return
    cure = "--tls-mode is starttls" if starttls else "give --tls-cert, or the client another port"
    LOGGER.warning("the peer speaks TLS, and this port plain text (%s)", cure, extra=fields(peer=peer, **more))
