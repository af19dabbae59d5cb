"""Admission: who may come in, and as whom a connection counts. It stands before TLS and before every kind of service.

At accept, before any work: with `--proxy-protocol` the peer must be a balancer of `--proxy-trust`; without, `--allow`
and `--deny` decide. With a header they decide on the client that it names. Last comes the limit per source. What a
balancer says of no client (LOCAL, no family) is the balancer's own connection, and neither rules nor limit
concern it: whom to trust has been said. Unix sockets have no network and no source.

A connection that is refused is reset, not half-closed: the peer is owed nothing, it learns at once, and the kernel
keeps no state of it, which is the point when thousands come. It is counted, and the log has a line per cause now and
then.

A server without any of these options has no `Admission`, and pays nothing for it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from prefork.connection import edge
from prefork.connection.proxy import Header, HeaderError
from prefork.log import LOGGER, fields
from prefork.networks import Networks, Rules, ip_of
from prefork.scoreboard import Field
from prefork.sources import key_of
from prefork.throttle import Throttle

if TYPE_CHECKING:
    from prefork.connection.proxy import Proxied
    from prefork.scoreboard import Row
    from prefork.settings import Settings
    from prefork.sources import Tally

_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""struct linger: on, for 0 seconds. Closing resets."""

_READ: Final = 4096
"""Bytes looked at in one go: no header is longer."""


class Source:
    """Whose connection it is.

    Attributes:
        address: the client's, where a header names one, or else the socket's own peer, as accept(2) gave it.
        proxied: what the header says; None without one, or where it leaves the connection its own address.
        key: what it is counted under; 0: it is not.
    """

    __slots__ = ("address", "key", "proxied")

    def __init__(self, address: object) -> None:
        self.address = address
        self.proxied: Proxied | None = None
        self.key = 0

    @property
    def name(self) -> str:
        """The address as it is written."""
        return edge.peer_name(self.address)


class Refused(Exception):  # noqa: N818 - it is a decision
    """A connection may not come in. `cause` is one of few words of ours, by which log lines are counted."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class Admission:
    """Decides for one worker.

    Attributes:
        header_timeout: seconds from accept within which a header must have come.
        versions: of the header, or "off".
    """

    def __init__(self, settings: Settings, row: Row, tally: Tally | None) -> None:
        self.versions = settings.proxy_protocol
        secure = bool(settings.tls_cert) and settings.tls_mode == "implicit"
        self.header_timeout = settings.handshake_timeout if secure else settings.first_byte_timeout
        self._timeout_option = "--handshake-timeout" if secure else "--first-byte-timeout"
        self._trusted = Networks(settings.proxy_trust)
        self._rules = Rules(settings.allow, settings.deny)
        self._limit = settings.max_connections_per_source
        self._tally = tally
        self._cells = row.cells
        self._throttle = Throttle()

    @property
    def reads_headers(self) -> bool:
        """Whether a header comes first on every connection."""
        return self.versions != "off"

    def meet(self, address: object) -> Source:
        """Judge a connection as it was accepted; the first thing that is done with it.

        Raises:
            Refused: it may not come in.
        """
        source = Source(address)
        if not self.reads_headers:
            self._admit(source)
        elif not self._trusts(address):
            raise Refused("untrusted", "it is not in --proxy-trust")
        return source

    def take_header(self, source: Source, proxied: Proxied | None) -> None:
        """Judge a connection whose header has been read.

        Raises:
            Refused: its client may not come in.
        """
        if proxied is not None:
            source.address, source.proxied = proxied.source, proxied
            self._admit(source)

    def leave(self, source: Source) -> None:
        """Forget a connection that is gone."""
        key, source.key = source.key, 0
        if key and self._tally is not None:
            self._tally.leave(key)

    def refuse(self, sock: socket.socket, source: object, why: Refused) -> None:
        """Count a connection, say so, and reset it."""
        self._cells[Field.REFUSED] += 1
        if (more := self._throttle.more(why.cause)) is not None:
            LOGGER.warning("refused a connection: %s", why, extra=fields(peer=edge.peer_name(source), **more))
        with contextlib.suppress(OSError):  # some systems have no options for one whose peer has left
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        sock.close()

    def too_late(self) -> Refused:
        """Return what to refuse a connection with whose header has not come in time."""
        return Refused("no header", f"no PROXY header came within {self._timeout_option}")

    def _trusts(self, address: object) -> bool:
        ip = _ip(address)
        return self._trusted.unix if ip is None else self._trusted.prefix(ip) >= 0

    def _admit(self, source: Source) -> None:
        ip = _ip(source.address)
        if ip is None:
            return
        if not self._rules.admit(ip):
            raise Refused("denied", "its network may not come in (--allow, --deny)")
        if self._tally is not None:
            key = key_of(ip)
            count = self._tally.enter(key)
            if count > self._limit:
                self._tally.leave(key)
                raise Refused("full", f"its source has {self._limit} connections (--max-connections-per-source)")
            source.key = key if count else 0


def _ip(address: Any) -> Any:  # noqa: ANN401 - whatever accept(2) gives; an `Ip`, or None
    return ip_of(address[0]) if isinstance(address, tuple) else None


def read_header(sock: socket.socket, header: Header) -> bool:
    """Read what has come of a header and no byte of what is behind it; True once it is complete.

    Raises:
        BlockingIOError: nothing has come.
        EOFError: the peer left before its first byte, as a balancer's bare health check does.
        Refused: what came is no header.
    """
    seen = sock.recv(_READ, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    if not seen:
        if header.begun:
            raise Refused("malformed", "the PROXY header was cut short")
        raise EOFError
    try:
        size = header.feed(seen)
    except HeaderError as error:
        raise Refused("malformed", str(error)) from None
    sock.recv(size)
    return header.done
