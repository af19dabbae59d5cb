"""The PROXY header: read, refused or waited for, the same in any pieces, and never a byte behind it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from fuzz.given import Given, pieces
from prefork.connection import edge
from prefork.connection.proxy import MAX_HEADER, MAX_LINE, SIGNATURE, Header, HeaderError
from prefork.log import escape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefork.connection.proxy import Endpoint, Proxied

LONGEST: Final = 5000
VERSIONS: Final = ("any", "v1", "v2")
WORDS: Final = (
    SIGNATURE, b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"127.0.0.1 ", b"::1 ", b" 65535", b"\r\n", b"\x20\0\0\0",
    b"\x21\x11\0\x0c", b"\x21\x21\0\x24", b"\x21\x31\0\xd8", b"\x20\0\x05", b"\3\0\4", b"\2\0\1a", b"\x21\0\0",
)  # fmt: skip


def check(data: bytes) -> None:
    """Read a header from the rest of `data`."""
    given = Given(data)
    versions = VERSIONS[given.below(len(VERSIONS))]
    seed = given.below(256)
    stream = given.rest()
    expected = _read(versions, stream, [stream])
    for how in (1, seed):
        found = _read(versions, stream, pieces(stream, how))
        assert found == expected, f"cut by {how}: {found}, not {expected}"


def _read(versions: str, stream: bytes, chunks: Iterable[bytes]) -> tuple[str, int, Proxied | None]:
    """Return how it went, how many bytes belong to the header, and what it says."""
    header, taken = Header(versions), 0
    try:
        for chunk in chunks:
            if header.done:
                break
            took = header.feed(chunk)
            assert took == len(chunk) or header.done
            taken += took
    except HeaderError as error:  # in which words may depend on how much had come
        assert str(error).isprintable()
        return "refused", 0, None
    if not header.done:
        assert taken == len(stream) < (MAX_HEADER if stream.startswith(SIGNATURE) else MAX_LINE)
        assert header.begun == bool(stream)
        return "waited for", taken, None
    _is_well_measured(versions, stream, taken)
    _is_credible(header.proxied)
    return "read", taken, header.proxied


def _is_well_measured(versions: str, stream: bytes, taken: int) -> None:
    """Measure the header again by the specification's own words."""
    if stream.startswith(SIGNATURE):
        assert versions != "v1"
        assert taken == 16 + int.from_bytes(stream[14:16], "big") <= MAX_HEADER
    else:
        assert versions != "v2"
        assert stream.startswith(b"PROXY ")
        assert taken == stream.index(b"\r\n") + 2 <= MAX_LINE


def _is_credible(proxied: Proxied | None) -> None:
    """Fail unless what is said can be used and shown by whoever believes it."""
    if proxied is None:
        return
    for end in (proxied.source, proxied.destination):
        _is_endpoint(end)
    assert len(proxied.unique_id or b"") <= 128
    texts = [proxied.authority, proxied.alpn, *(proxied.tls or ())]
    assert all(text is None or text.encode("utf-8") is not None for text in texts)


def _is_endpoint(end: Endpoint) -> None:
    if isinstance(end, tuple):
        assert str(ipaddress.ip_address(end[0]))
        assert 0 <= end[1] <= 65535
    else:
        assert len(end) <= 4 * 108
        assert "\0" not in end
    assert escape(edge.peer_name(end)).isprintable()
