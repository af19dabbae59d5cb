"""The PROXY header's parser: whole, byte by byte, with what follows; and nothing that is malformed gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.connection.proxy import MAX_HEADER, MAX_LINE, SIGNATURE, Header, HeaderError, Proxied, ProxiedTls, crc32c
from support import proxying
from support.proxying import LOCAL, block, tlv, v1, v2

FOUR = Proxied(("192.0.2.7", 4711), ("198.51.100.1", 443))
SIX = Proxied(("2001:db8::7", 4711), ("2001:db8::1", 443))
UNKNOWN = (
    b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
)
PATHS = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")

GOOD = {
    "v1 over IPv4": (v1(), FOUR),
    "v1 over IPv6": (v1("2001:DB8::7", 4711, "2001:db8:0::1"), SIX),
    "v1 unknown, short": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown, as long as can be": (UNKNOWN, None),
    "v1 unknown, with nonsense behind": (b"PROXY UNKNOWN \xff\0 whatever\r\n", None),
    "v2 over IPv4": (v2(), FOUR),
    "v2 over IPv6": (v2("2001:db8::7", 4711, "2001:db8::1"), SIX),
    "v2 over a unix socket": (block(0x31, PATHS), Proxied("/run/client", "/run/server")),
    "v2 local": (LOCAL, None),
    "v2 local with an address all the same": (block(0x11, bytes(12), command=0x20), None),
    "v2 of no family": (block(0x00, b""), None),
    "v2 of no family with something in it": (block(0x00, b"\1\2\3"), None),
    "v2 local of a family that nobody knows": (block(0xFF, bytes(7), command=0x20), None),
    "v2 over IPv4 and no transport": (block(0x10, bytes(7)), None),
    "v2 over UDP": (block(0x12, bytes(12)), None),
    "v2 with padding": (v2(tlvs=tlv(4, bytes(9)) + tlv(4, b"")), FOUR),
    "v2 as long as can be": (v2(tlvs=tlv(4, bytes(MAX_HEADER - 16 - 12 - 3))), FOUR),
}
BAD = {
    "another protocol": (b"GET / HTTP/1.1\r\n", "no PROXY header"),
    "a single wrong byte": (b"X", "no PROXY header"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", "no PROXY header"),
    "v1 ended by LF": (v1().replace(b"\r", b""), "CRLF"),
    "v1 with CR in it": (v1().replace(b" 443", b"\r443"), "CRLF"),
    "v1 too long": (UNKNOWN.replace(b"\r\n", b" \r\n"), f"longer than {MAX_LINE} bytes"),
    "v1 that never ends": (b"PROXY TCP4 " + b"1" * 200, f"longer than {MAX_LINE} bytes"),
    "v1 in small letters": (b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", "no PROXY header"),
    "v1 of another family": (b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", "malformed"),
    "v1 without words": (b"PROXY \r\n", "malformed"),
    "v1 with two spaces": (b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n", "malformed"),
    "v1 with a word more": (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", "malformed"),
    "v1 with a space at its end": (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", "malformed"),
    "v1 with IPv6 in TCP4": (b"PROXY TCP4 ::1 2.2.2.2 1 2\r\n", "address is malformed"),
    "v1 with IPv4 in TCP6": (b"PROXY TCP6 1.1.1.1 ::1 1 2\r\n", "address is malformed"),
    "v1 with a leading zero": (b"PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n", "address is malformed"),
    "v1 with a zone": (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "address is malformed"),
    "v1 with a NUL": (b"PROXY TCP4 1.1.1.1\0 2.2.2.2 1 2\r\n", "address is malformed"),
    "v1 with a port too high": (b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n", "port is malformed"),
    "v1 with a port too long": (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 999999\r\n", "port is malformed"),
    "v1 with a port with a zero": (b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", "port is malformed"),
    "v1 with a signed port": (b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n", "port is malformed"),
    "v1 without a port": (b"PROXY TCP4 1.1.1.1 2.2.2.2  2\r\n", "port is malformed"),
    "v2 of version 1": (SIGNATURE + b"\x11\x11\0\0", "unknown version or command"),
    "v2 of version 3": (SIGNATURE + b"\x31", "unknown version or command"),
    "v2 with another command": (SIGNATURE + b"\x22\x11\0\x0c" + bytes(12), "unknown version or command"),
    "v2 of a family that nobody knows": (block(0x41, bytes(7)), "unknown family"),
    "v2 of a transport that nobody knows": (block(0x13, bytes(7)), "unknown family or transport"),
    "v2 too long": (SIGNATURE + b"\x21\x11\xff\xff", f"longer than {MAX_HEADER} bytes"),
    "v2 too short for IPv4": (block(0x11, bytes(11)), "too short for its addresses"),
    "v2 too short for IPv6": (block(0x21, bytes(12)), "too short for its addresses"),
    "v2 too short for paths": (block(0x31, bytes(215)), "too short for its addresses"),
    "v2 with half a TLV": (v2(tlvs=b"\x04"), "TLV"),
    "v2 with a TLV beyond its end": (v2(tlvs=b"\x04\0\x02\0"), "TLV"),
    "v2 whose TLS part is too short": (v2(tlvs=tlv(0x20, b"\1\0\0\0")), "too short"),
    "v2 with half a TLV in its TLS part": (v2(tlvs=tlv(0x20, b"\1\0\0\0\0\x21\0")), "TLV"),
    "v2 with a checksum of the wrong size": (v2(tlvs=tlv(3, b"\0")), "checksum"),
    "v2 with a wrong checksum": (v2(tlvs=tlv(3, b"\1\2\3\4")), "checksum"),
}
each_good = pytest.mark.parametrize(("data", "expected"), GOOD.values(), ids=GOOD)


def read(data: bytes, pieces: int = 1 << 20, versions: str = "any") -> tuple[Header, int]:
    """Feed `data` in pieces, as a reader does that takes no byte behind the header; return how many it took."""
    header, taken = Header(versions), 0
    while taken < len(data) and not header.done:
        taken += header.feed(data[taken : taken + pieces])
    return header, taken


@each_good
def test_whole_header_is_read_and_no_byte_behind_it(data: bytes, expected: Proxied | None) -> None:
    for behind in (b"", b"\r\n", b"PROXY ", SIGNATURE, b"hello\r\n" * 2000):
        header, taken = read(data + behind)
        assert (header.done, header.proxied, taken) == (True, expected, len(data))


@each_good
def test_header_may_come_byte_by_byte(data: bytes, expected: Proxied | None) -> None:
    header, taken = read(data + b"hello", 1)
    assert (header.done, header.proxied, taken) == (True, expected, len(data))


@each_good
def test_header_that_is_cut_short_is_waited_for(data: bytes, expected: Proxied | None) -> None:
    del expected
    for end in range(0, len(data), 1 + len(data) // 200):
        header, taken = read(data[:end])
        assert (header.done, header.begun, taken) == (False, end > 0, end)


@pytest.mark.parametrize(("data", "why"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("pieces", [1, 1 << 20], ids=["byte by byte", "whole"])
def test_malformed_header_is_refused_in_words_of_our_own(data: bytes, why: str, pieces: int) -> None:
    with pytest.raises(HeaderError, match=why) as caught:
        read(data, pieces)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("versions", "data"), [("v1", v2()), ("v2", v1()), ("v1", LOCAL)])
def test_version_that_is_not_asked_for_is_refused(versions: str, data: bytes) -> None:
    with pytest.raises(HeaderError, match=f"only {versions} is accepted"):
        read(data, versions=versions)


def test_what_the_balancer_tells_besides_is_kept() -> None:
    told = (
        tlv(2, b"mail.example") + tlv(1, b"smtp") + proxying.tls(b"TLSv1.3", b"ada") + tlv(5, b"\0\1") + tlv(0xE0, b"?")
    )
    header, _ = read(v2(tlvs=told))
    assert header.proxied == FOUR._replace(
        authority="mail.example", alpn="smtp", tls=ProxiedTls("TLSv1.3", "AES256", "ada"), unique_id=b"\0\1"
    )


def test_name_in_a_certificate_that_could_not_be_verified_is_not_told() -> None:
    header, _ = read(v2(tlvs=proxying.tls(b"TLSv1.2", b"ada", verified=False)))
    assert header.proxied is not None
    assert header.proxied.tls == ProxiedTls("TLSv1.2", "AES256", None)


def test_text_that_is_no_utf_8_does_no_harm() -> None:
    header, _ = read(v2(tlvs=tlv(2, b"\xff\0\n")))
    assert header.proxied is not None
    assert header.proxied.authority == "\\xff\0\n"


def test_checksum_is_that_of_rfc_3720() -> None:
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4, in the order of an integer's bytes
    assert crc32c(b"123456789") == 0xE3069283


def test_right_checksum_is_accepted_wherever_it_stands() -> None:
    for before, behind in ((b"", b""), (tlv(4, b"x"), tlv(2, b"name"))):
        empty = v2(tlvs=before + tlv(3, bytes(4)) + behind)
        at = empty.index(b"\3\0\4") + 3
        summed = empty[:at] + crc32c(empty).to_bytes(4, "big") + empty[at + 4 :]
        header, taken = read(summed + b"more")
        assert (header.done, taken) == (True, len(summed))
        with pytest.raises(HeaderError, match="checksum"):
            read(summed[:16] + b"\7" + summed[17:])


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(lambda rest: b"PROXY " + rest + b"\r\n"),
        st.binary(max_size=300).map(lambda rest: SIGNATURE + rest),
        st.tuples(st.integers(0, 255), st.binary(max_size=300)).map(lambda it: block(it[0], it[1])),
        st.binary(max_size=300).map(lambda rest: v2(tlvs=rest)),
        st.binary(max_size=300).map(lambda rest: v2(tlvs=tlv(0x20, rest))),
    ),
    st.integers(1, 60),
)
def test_whatever_comes_is_read_refused_or_waited_for_and_the_same_in_pieces(data: bytes, pieces: int) -> None:
    results: list[object] = []
    for size in (pieces, 1 << 20):
        try:
            header, taken = read(data, size)
        except HeaderError as error:
            results.append(str(error))
        else:
            assert taken == len(data) or header.done
            results.append((header.done, header.proxied, taken))
    if isinstance(results[0], str):  # why may depend on how much had come, that may not
        assert results[0].isprintable()
        assert isinstance(results[1], str)
    else:
        assert results[0] == results[1]
