"""TLS on one connection: what a handler sees of it, its face as a socket, and what a failed handshake means.

What certificates and keys become is in `terms`. This file never opens a socket.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prefork.log import LOGGER, fields
from prefork.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN: Final = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL"})
"""OpenSSL's reasons for bytes that are no TLS at all."""


class Tls(NamedTuple):
    """What is known of a connection's TLS: `conn.tls`, which is None on a plain connection."""

    version: str
    """Such as TLSv1.3."""
    cipher: str
    alpn: str | None
    """The protocol chosen by ALPN (RFC 7301), if any."""
    certificate: dict[str, Any] | None
    """The client's certificate as `ssl.SSLSocket.getpeercert` gives it, if one was asked for and verified."""


def describe(connection: ssl.SSLObject | ssl.SSLSocket) -> Tls:
    """Return what is known after the handshake."""
    cipher = connection.cipher()
    return Tls(
        connection.version() or "",
        cipher[0] if cipher else "",
        connection.selected_alpn_protocol(),
        connection.getpeercert() or None,
    )


class TlsSocket:
    """The server's side of TLS over a non-blocking socket, with a plain socket's face.

    What would have to wait raises BlockingIOError; `events` then says for what, as poll(2) has it.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.events = select.POLLIN

    def describe(self) -> Tls:
        """Return what is known after the handshake."""
        return describe(self._wrapped)

    def shake_hands(self) -> None:
        """Go on with the handshake."""
        with self._waiting():
            self._wrapped.do_handshake()

    def say_goodbye(self) -> None:
        """Send TLS's own end and wait for the peer's (RFC 8446, section 6.1)."""
        with self._waiting():
            self._wrapped.unwrap()

    def plain(self) -> socket.socket:
        """Return the socket underneath, without TLS from here on."""
        return socket.socket(fileno=self._wrapped.detach())

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._wrapped.fileno()

    def getsockname(self) -> Any:  # noqa: ANN401 - a tuple, or a path
        """Return this side's address."""
        return self._wrapped.getsockname()

    def pending(self) -> int:
        """Return how many bytes are here that no poll would tell of."""
        return self._wrapped.pending()

    def recv(self, size: int, /) -> bytes:
        """Return what has come, at most `size` bytes; none at the peer's end."""
        with self._waiting():
            return self._wrapped.recv(size)

    def send(self, data: memoryview, /) -> int:
        """Send what can be sent now and return how much."""
        with self._waiting():
            return self._wrapped.send(data)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLWantReadError:
            self.events = select.POLLIN
            raise BlockingIOError from None
        except ssl.SSLWantWriteError:
            self.events = select.POLLOUT
            raise BlockingIOError from None


_THROTTLE: Final = Throttle()


def report(error: OSError, peer: str) -> str:
    """Log why a handshake failed and return it, or "" for a peer that merely left, as health checks do.

    Each reason is one line in a span of time: a stranger can fail as often as he likes.
    """
    why = _why(error)
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError) or error.errno == errno.ENOTCONN:
        LOGGER.debug("a TLS handshake was left: %s", why, extra=fields(peer=peer))
        return ""
    more = _THROTTLE.more(why)  # OpenSSL's reasons and our own words: few, and none of the peer's
    if more is not None:
        LOGGER.warning("a TLS handshake failed: %s", why, extra=fields(peer=peer, **more))
    return why


def _why(error: OSError) -> str:
    """Return in a few words why a handshake failed, without a byte of the peer's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        if error.reason in _PLAIN:
            return "the peer speaks plain text, and this port TLS"
        return reason_of(error)
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "it was not done within --handshake-timeout"
    return "the peer closed" if isinstance(error, ConnectionError) else str(error.strerror or type(error).__name__)


def reason_of(error: ssl.SSLError) -> str:
    """Return OpenSSL's own name for what went wrong, in small letters."""
    return (error.reason or type(error).__name__).replace("_", " ").lower()
