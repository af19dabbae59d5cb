"""What a certificate says of itself: the names it is for, and when it expires (RFC 5280, section 4).

The standard library decodes a certificate only once a peer has shown it. This reads the few fields that a server wants
to know of its own; it verifies nothing. Pure: bytes in, values out.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# tags of DER (X.690, section 8)
_UTC_TIME: Final = 0x17
_DNS_NAME: Final = 0x82
_EXTENSIONS: Final = 0xA3
_VERSION: Final = 0xA0

_SUBJECT_ALT_NAME: Final = bytes.fromhex("0603551d11")  # its object identifier, 2.5.29.17, as DER


class Facts(NamedTuple):
    """What a certificate says of itself."""

    names: tuple[str, ...]
    """DNS names of its subjectAltName, in small letters, such as `example.org` or `*.example.org`."""
    expires: float
    """notAfter, in seconds since the epoch."""


def read(pem: bytes) -> Facts:
    """Return what the first certificate in `pem` says: the server's own, before its chain.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no certificate")
    try:
        der = ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))
        return _read(der)
    except (ValueError, IndexError, StopIteration) as error:
        raise ValueError("not a certificate") from error


def _read(der: bytes) -> Facts:
    _, certificate = next(_parts(der))
    _, body = next(_parts(certificate))
    parts = [part for part in _parts(body) if part[0] != _VERSION]
    # serial number, signature, issuer, validity, subject, key; then what is optional
    _, (tag, not_after) = _parts(parts[3][1])
    extensions = next((value for tag, value in parts[6:] if tag == _EXTENSIONS), b"")
    return Facts(_names(extensions), _seconds(tag, not_after))


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each value of DER in `data`."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:  # the length is longer than one byte
            width = size & 0x7F
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        if at + size > len(data):
            raise IndexError
        yield tag, data[at : at + size]
        at += size


def _names(extensions: bytes) -> tuple[str, ...]:
    for _, sequence in _parts(extensions):
        for _, extension in _parts(sequence):
            if extension.startswith(_SUBJECT_ALT_NAME):
                *_, (_, value) = _parts(extension)  # behind the identifier and maybe "critical"
                _, names = next(_parts(value))
                return tuple(name.decode("ascii", "replace").lower() for tag, name in _parts(names) if tag == _DNS_NAME)
    return ()


def _seconds(tag: int, text: bytes) -> float:
    """Return a time: UTCTime has two digits of the year, and means 1950 to 2049."""
    digits = text.decode("ascii")
    if tag == _UTC_TIME:
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
