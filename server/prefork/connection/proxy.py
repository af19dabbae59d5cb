"""The PROXY protocol, versions 1 and 2: what a balancer says of the client, before the client's first byte (sans-IO).

Source: "The PROXY protocol", versions 1 & 2, by Willy Tarreau (HAProxy's doc/proxy-protocol.txt). A header is read
strictly or refused; nothing is guessed, and no byte behind it is touched. What cannot be an address here (LOCAL, a
family or transport that is left unspecified, datagrams) leaves the connection its own address.

This file opens no socket and does not know who may be believed: `admission` does.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_LINE: Final = b"PROXY "
MAX_LINE: Final = 107
"""Bytes of a version 1 header, its CRLF included: the specification's own bound."""

MAX_HEADER: Final = 4096
"""Bytes of a version 2 header, where its length field would allow 65,551; nginx stops there, too."""

_FIXED: Final = 16  # bytes of a version 2 header before its addresses
_MAX_PORT: Final = 65535

# version 2: the version and its two commands
_LOCAL: Final = 0x20
_PROXY: Final = 0x21

# version 2: family and transport, how the two addresses are laid out
_STREAM_V4: Final = 0x11
_STREAM_V6: Final = 0x21
_STREAM_UNIX: Final = 0x31
_MOST_FAMILIES: Final = 0x3
_MOST_TRANSPORTS: Final = 0x2
_LAYOUT: Final = {
    _STREAM_V4: struct.Struct("!4s4sHH"),
    _STREAM_V6: struct.Struct("!16s16sHH"),
    _STREAM_UNIX: struct.Struct("108s108s"),
}

_ALPN: Final = 0x01
_AUTHORITY: Final = 0x02
_CRC32C: Final = 0x03
_UNIQUE_ID: Final = 0x05
_SSL: Final = 0x20
_SSL_VERSION: Final = 0x21
_SSL_CN: Final = 0x22
_SSL_CIPHER: Final = 0x23
_CLIENT_SSL: Final = 0x01
_CLIENT_CERT: Final = 0x06  # in this connection, or in the session that it continues

Endpoint = tuple[str, int] | str
"""Host and port, or a unix socket's path."""


class HeaderError(Exception):
    """What came is no PROXY header that is accepted here. The text holds no byte of the peer's."""


class ProxiedTls(NamedTuple):
    """The TLS that the client spoke with the balancer."""

    version: str
    """Such as TLSv1.3."""
    cipher: str | None
    client: str | None
    """The common name in the client's certificate, if it showed one and the balancer could verify it."""


class Proxied(NamedTuple):
    """What a balancer says of a connection: `conn.proxied`, which is None for one that no balancer speaks for."""

    source: Endpoint
    destination: Endpoint
    """Where the client had connected to."""
    authority: str | None = None
    """The host name that the client asked for: with TLS, its server name (SNI)."""
    alpn: str | None = None
    """The protocol chosen by ALPN (RFC 7301)."""
    tls: ProxiedTls | None = None
    unique_id: bytes | None = None
    """The balancer's own number of the connection, up to 128 bytes."""


class Header:
    """Reads one header, in as many pieces as it comes.

    Args:
        versions: which are accepted, `v1`, `v2` or `any`.

    Attributes:
        done: the header is complete.
        proxied: what it says; None if it leaves the connection its own address.
    """

    def __init__(self, versions: str) -> None:
        self._versions = versions
        self._held = b""
        self.done = False
        self.proxied: Proxied | None = None

    @property
    def begun(self) -> bool:
        """Whether any of it has come."""
        return bool(self._held)

    def feed(self, data: bytes) -> int:
        """Take of `data` what belongs to the header, and return how many bytes that is.

        Raises:
            HeaderError: it is none, or none that is accepted.
        """
        before = len(self._held)
        self._held += data[:MAX_HEADER]
        held = self._held
        if self._begins(held, SIGNATURE, "v2"):
            size = _size(held)
        elif self._begins(held, _LINE, "v1"):
            size = _line_size(held)
        else:
            raise HeaderError("no PROXY header")
        if size is None or size > len(held):
            return len(held) - before
        self.done = True
        self.proxied = _parse(held[:size]) if held.startswith(SIGNATURE) else _parse_line(held[:size])
        return size - before

    def _begins(self, held: bytes, mark: bytes, version: str) -> bool:
        if held[: len(mark)] != mark[: len(held)]:
            return False
        if self._versions not in {version, "any"} and len(held) >= len(mark):
            raise HeaderError(f"a PROXY header of {version}, and only {self._versions} is accepted")
        return True


def _line_size(held: bytes) -> int | None:
    """Return the length of a version 1 header, CRLF included; None if its end has not come."""
    end = held.find(b"\r\n", 0, MAX_LINE)
    text = held[:end] if end >= 0 else held[:MAX_LINE].removesuffix(b"\r")
    if b"\r" in text or b"\n" in text:
        raise HeaderError("a PROXY line that does not end in CRLF")
    if end < 0 and len(held) >= MAX_LINE:
        raise HeaderError(f"a PROXY line longer than {MAX_LINE} bytes")
    return end + 2 if end >= 0 else None


def _parse_line(line: bytes) -> Proxied | None:
    kind, *words = line.removesuffix(b"\r\n").decode("latin-1").split(" ")[1:]
    if kind == "UNKNOWN":
        return None  # whatever follows it is to be ignored
    if kind not in {"TCP4", "TCP6"} or len(words) != 4:  # noqa: PLR2004 - two addresses, two ports
        raise HeaderError("a PROXY line that is malformed")
    family = socket.AF_INET if kind == "TCP4" else socket.AF_INET6
    source, destination, source_port, destination_port = words
    return Proxied((_host(family, source), _port(source_port)), (_host(family, destination), _port(destination_port)))


def _host(family: socket.AddressFamily, text: str) -> str:
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):
        raise HeaderError("a PROXY line whose address is malformed") from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or text != str(int(text)):  # noqa: PLR2004 - 65535
        raise HeaderError("a PROXY line whose port is malformed")
    if int(text) > _MAX_PORT:
        raise HeaderError("a PROXY line whose port is malformed")
    return int(text)


def _size(held: bytes) -> int | None:
    """Return the length of a version 2 header; None if too little of it has come."""
    if len(held) > len(SIGNATURE) and held[12] not in {_LOCAL, _PROXY}:
        raise HeaderError("a PROXY header of an unknown version or command")
    if len(held) < _FIXED:
        return None
    size = _FIXED + int.from_bytes(held[14:16], "big")
    if size > MAX_HEADER:
        raise HeaderError(f"a PROXY header longer than {MAX_HEADER} bytes")
    return size


def _parse(header: bytes) -> Proxied | None:
    if header[12] == _LOCAL:
        return None  # whatever family stands there is to be ignored
    if header[13] >> 4 > _MOST_FAMILIES or header[13] & 0xF > _MOST_TRANSPORTS:
        raise HeaderError("a PROXY header of an unknown family or transport")
    layout = _LAYOUT.get(header[13])
    if layout is None:
        return None
    if len(header) < _FIXED + layout.size:
        raise HeaderError("a PROXY header too short for its addresses")
    source, destination = _endpoints(header[13], layout.unpack_from(header, _FIXED))
    known: dict[int, bytes] = {}
    for kind, start, value in _tlvs(header, _FIXED + layout.size):
        known.setdefault(kind, value)
        if kind == _CRC32C and not _is_intact(header, start, value):
            raise HeaderError("a PROXY header whose checksum is wrong")
    return Proxied(
        source, destination, _text(known.get(_AUTHORITY)), _text(known.get(_ALPN)), _tls(known.get(_SSL)),
        known[_UNIQUE_ID][:128] if _UNIQUE_ID in known else None,
    )  # fmt: skip


def _endpoints(family: int, parts: tuple[bytes, bytes, int, int] | tuple[bytes, bytes]) -> tuple[Endpoint, Endpoint]:
    if len(parts) == 2:  # noqa: PLR2004 - two paths
        source, destination = (part.partition(b"\0")[0].decode("utf-8", "backslashreplace") for part in parts)
        return source, destination
    kind = socket.AF_INET if family == _STREAM_V4 else socket.AF_INET6
    return (socket.inet_ntop(kind, parts[0]), parts[2]), (socket.inet_ntop(kind, parts[1]), parts[3])


def _tlvs(data: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, place and value of each of the vectors that `data` holds from `at` to its end."""
    while at < len(data):
        start = at + 3
        size = int.from_bytes(data[at + 1 : start], "big")
        if start + size > len(data):
            raise HeaderError("a PROXY header with a TLV that is longer than it")
        yield data[at], start, data[start : start + size]
        at = start + size


def _tls(value: bytes | None) -> ProxiedTls | None:
    if value is None:
        return None
    if len(value) < 5:  # noqa: PLR2004 - one byte of flags, four that say whether the certificate is good
        raise HeaderError("a PROXY header whose TLS part is too short")
    known = {kind: part for kind, _, part in _tlvs(value, 5)}
    if not value[0] & _CLIENT_SSL:
        return None
    good = bool(value[0] & _CLIENT_CERT) and not any(value[1:5])
    return ProxiedTls(
        _text(known.get(_SSL_VERSION)) or "",
        _text(known.get(_SSL_CIPHER)),
        _text(known.get(_SSL_CN)) if good else None,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


# CRC-32C (RFC 3720, appendix B.4): the standard library has only the other polynomial. --------------------------------


def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        value = row
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_CRC_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _is_intact(header: bytes, start: int, value: bytes) -> bool:
    """Say whether a header has the checksum in it, which was made with zeros in the checksum's place."""
    return len(value) == 4 and crc32c(header[:start] + bytes(4) + header[start + 4 :]) == int.from_bytes(value, "big")  # noqa: PLR2004
