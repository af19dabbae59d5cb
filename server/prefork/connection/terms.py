"""The terms of TLS: what the settings make of certificates and keys.

The contexts are made in the master, once per generation and before the fork, so that workers share the keys of session
tickets and that a file nobody can use is refused before anything old is touched. As long as nothing has changed they
are made once only: then the tickets of one generation are good in the next. With several certificates, the first one's
context is that of every connection, tickets included, and the name that the client asks for (RFC 6066, section 3)
exchanges the certificate. This file never sees a connection.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from prefork.connection import certificate
from prefork.connection.tls import reason_of
from prefork.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prefork.settings import Settings

    SniCallback = Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Certificate(NamedTuple):
    """A certificate that is served, and what it says of itself."""

    file: str
    names: tuple[str, ...]
    expires: float
    """In seconds since the epoch."""


class Terms(NamedTuple):
    """How a server's connections speak TLS."""

    context: ssl.SSLContext
    implicit: bool
    """From the first byte, or else when the handler says so."""
    handshake_timeout: float
    """Seconds from the accept, or from the handler's word, to the end of the handshake."""
    certificates: tuple[Certificate, ...]
    made_of: bytes
    """A digest of everything that the context was made of."""


def terms(settings: Settings, before: Terms | None = None) -> Terms:
    """Return what the certificates and keys that the settings name make of a server.

    Args:
        settings: name at least one certificate.
        before: the terms that are to be replaced. Their context is kept if it was made of the same, and so are the keys
            of its tickets.

    Raises:
        SettingsError: a file cannot be read or used, and which; or it is a new one and has expired already.
    """
    keys = settings.tls_key or (None,) * len(settings.tls_cert)
    pairs = tuple(zip(settings.tls_cert, keys, strict=True))
    certificates = tuple(_certificate(cert) for cert in settings.tls_cert)
    made_of = _digest(settings)
    if before is not None and before.made_of == made_of:
        return before._replace(implicit=settings.tls_mode == "implicit", handshake_timeout=settings.handshake_timeout)
    if before is not None:
        _refuse_expired(certificates, before.certificates)
    contexts = [_context(settings, cert, key) for cert, key in pairs]
    if len(contexts) > 1:
        contexts[0].sni_callback = _chooser(certificates, contexts)
    return Terms(contexts[0], settings.tls_mode == "implicit", settings.handshake_timeout, certificates, made_of)


def _certificate(path: str) -> Certificate:
    text = _readable("--tls-cert", path)
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise SettingsError([f"--tls-cert {path!r}: holds no certificate (PEM)"])
    try:
        return Certificate(path, *certificate.read(text))
    except ValueError as error:
        raise SettingsError([f"--tls-cert {path!r}: cannot be used: {error}"]) from error


def _refuse_expired(new: tuple[Certificate, ...], old: tuple[Certificate, ...]) -> None:
    """Refuse to give up certificates that are valid for some that are not."""
    now = time.time()
    late = [one for one in new if one.expires <= now]
    if late and all(one.expires > now for one in old):
        raise SettingsError([
            f"--tls-cert {one.file!r}: expired on {day_of(one.expires)}; put a valid one there, and its key"
            for one in late
        ])  # fmt: skip


def day_of(moment: float) -> str:
    """Return a moment's day as a person reads it, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def _digest(settings: Settings) -> bytes:
    digest = hashlib.sha256(repr((settings.tls_min_version, settings.tls_alpn)).encode())
    ca = (settings.tls_client_ca,) if settings.tls_client_ca is not None else ()
    for option, paths in (("cert", settings.tls_cert), ("key", settings.tls_key), ("client-ca", ca)):
        for path in paths:
            content = _readable(f"--tls-{option}", path)
            digest.update(f"{option} {len(content)} ".encode() + content)
    return digest.digest()


def _context(settings: Settings, cert: str, key: str | None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = _VERSIONS[settings.tls_min_version]
    made.options |= ssl.OP_NO_RENEGOTIATION  # of TLS 1.2: work for us that costs the peer nothing
    _load_pair(made, cert, key)
    if settings.tls_client_ca is not None:
        try:
            made.load_verify_locations(settings.tls_client_ca)
        except (ssl.SSLError, ValueError) as error:
            raise SettingsError([f"--tls-client-ca {settings.tls_client_ca!r}: holds no certificate (PEM)"]) from error
        made.verify_mode = ssl.CERT_REQUIRED
    if settings.tls_alpn:
        made.set_alpn_protocols(settings.tls_alpn)
    return made


def _load_pair(made: ssl.SSLContext, cert: str, key: str | None) -> None:
    key_text = _readable("--tls-key", key) if key is not None else _readable("--tls-cert", cert)
    where = f"--tls-key {key!r}" if key is not None else f"--tls-cert {cert!r}"
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
        raise SettingsError([f"{where}: cannot be used: {reason_of(error)}"]) from error


def _readable(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError([f"{option} {path!r}: {error.strerror or os.strerror(error.errno or 0)}"]) from error


def _chooser(certificates: tuple[Certificate, ...], contexts: list[ssl.SSLContext]) -> SniCallback:
    """Return what exchanges a connection's certificate for that of the name it asks for; the first one is the default.

    Raises:
        SettingsError: a certificate would never be chosen.
    """
    # the first one's own names stand for None: a context that its own callback held would never be let go
    by_name: dict[str, ssl.SSLContext | None] = {}
    for one, context in zip(certificates, contexts, strict=True):
        fresh = [name for name in one.names if name not in by_name]
        if not fresh and context is not contexts[0]:
            why = "every name in it is in an earlier one" if one.names else "it names no host (subjectAltName)"
            raise SettingsError([f"--tls-cert {one.file!r}: would never be chosen: {why}; drop it"])
        by_name.update(dict.fromkeys(fresh, None if context is contexts[0] else context))

    def choose(connection: ssl.SSLObject, name: str | None, _first: ssl.SSLContext) -> None:
        found = _match(name, by_name) if name else None
        if found is not None:
            connection.context = found

    return choose


def _match(name: str, by_name: Mapping[str, ssl.SSLContext | None]) -> ssl.SSLContext | None:
    """Return what is for `name`: by its full name, or by a wildcard in place of its first label (RFC 6125, 6.4.3)."""
    name = name.lower().rstrip(".")
    return by_name[name] if name in by_name else by_name.get("*." + name.partition(".")[2])
