"""TLS: what the settings make of certificate and key, what a handler sees of it, and what a failed handshake means.

The context is made in the master, once per generation and before the fork, so that workers share the keys of session
tickets and that a file nobody can use is refused before anything old is touched. This file never opens a socket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prefork.errors import SettingsError
from prefork.log import LOGGER, fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefork.settings import Settings

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_PLAIN: Final = frozenset({"HTTP_REQUEST", "WRONG_VERSION_NUMBER", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL"})
"""OpenSSL's reasons for bytes that are no TLS at all."""


class Terms(NamedTuple):
    """How a server's connections speak TLS."""

    context: ssl.SSLContext
    implicit: bool
    """From the first byte, or else when the handler says so."""
    handshake_timeout: float
    """Seconds from the accept, or from the handler's word, to the end of the handshake."""


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


def terms(settings: Settings) -> Terms:
    """Return what the certificate and key that the settings name make of a server.

    Raises:
        SettingsError: a file cannot be read or used, and which.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = _VERSIONS[settings.tls_min_version]
    made.options |= ssl.OP_NO_RENEGOTIATION  # of TLS 1.2: work for us that costs the peer nothing
    _load_pair(made, settings.tls_cert or "", settings.tls_key)
    if settings.tls_client_ca is not None:
        _readable("--tls-client-ca", settings.tls_client_ca)
        try:
            made.load_verify_locations(settings.tls_client_ca)
        except (ssl.SSLError, ValueError) as error:
            raise SettingsError([f"--tls-client-ca {settings.tls_client_ca!r}: holds no certificate (PEM)"]) from error
        made.verify_mode = ssl.CERT_REQUIRED
    if settings.tls_alpn:
        made.set_alpn_protocols(settings.tls_alpn)
    return Terms(made, settings.tls_mode == "implicit", settings.handshake_timeout)


def _load_pair(made: ssl.SSLContext, cert: str, key: str | None) -> None:
    text = _readable("--tls-cert", cert)
    key_text = _readable("--tls-key", key) if key is not None else text
    where = f"--tls-key {key!r}" if key is not None else f"--tls-cert {cert!r}"
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise SettingsError([f"--tls-cert {cert!r}: holds no certificate (PEM)"])
    if b"PRIVATE KEY-----" not in key_text:
        cure = "" if key is not None else "; name its file with --tls-key"
        raise SettingsError([f"{where}: holds no private key (PEM){cure}"])
    asked = []

    def password() -> bytes:
        asked.append(True)
        return b""

    try:
        made.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        if asked:
            raise SettingsError([f"{where}: the key is encrypted, and nobody is there to type its password"]) from error
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError([f"{where}: is not the key of the certificate in {cert!r}"]) from error
        raise SettingsError([f"{where}: cannot be used: {_reason(error)}"]) from error


def _readable(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError([f"{option} {path!r}: {error.strerror or os.strerror(error.errno or 0)}"]) from error


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


def report(error: OSError, peer: str) -> str:
    """Log why a handshake failed and return it, or "" for a peer that merely left, as health checks do."""
    why = _why(error)
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError) or error.errno == errno.ENOTCONN:
        LOGGER.debug("a TLS handshake was left: %s", why, extra=fields(peer=peer))
        return ""
    LOGGER.warning("a TLS handshake failed: %s", why, extra=fields(peer=peer))
    return why


def _why(error: OSError) -> str:
    """Return in a few words why a handshake failed, without a byte of the peer's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        if error.reason in _PLAIN:
            return "the peer speaks plain text, and this port TLS"
        return _reason(error)
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "it was not done within --handshake-timeout"
    return "the peer closed" if isinstance(error, ConnectionError) else str(error.strerror or type(error).__name__)


def _reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's own name for what went wrong, in small letters."""
    return (error.reason or type(error).__name__).replace("_", " ").lower()
