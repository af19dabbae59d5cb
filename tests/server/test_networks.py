from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.networks import Networks, Rules, ip_of, parse


def holds(network: str, host: str) -> bool:
    ip = ip_of(host)
    assert ip is not None
    return Networks([parse(network)]).prefix(ip) >= 0


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
        ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
        ("fe80::/10", "fe80::1%eth0", "fec0::1"),
        ("::/0", "::1", "127.0.0.1"),
        ("::1", "::1", "::2"),
    ],
)
def test_network_holds_its_addresses_and_no_other(network: str, inside: str, outside: str) -> None:
    assert holds(network, inside)
    assert not holds(network, outside)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_membership_is_that_of_the_standard_library(
    host: ipaddress.IPv4Address | ipaddress.IPv6Address,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
    prefix: int,
) -> None:
    network = ipaddress.ip_network(f"{other}/{min(prefix, other.max_prefixlen)}", strict=False)
    if getattr(host, "ipv4_mapped", None) or getattr(network.network_address, "ipv4_mapped", None):
        return
    assert holds(str(network), str(host)) == (host in network)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", "must be a network, such as 10.0.0.0/8"),
        ("localhost", "must be a network"),
        ("10.0.0/8", "must be a network"),
        ("fe80::1%eth0", "must be a network"),
        ("10.0.0.0/33", "a prefix length from 0 to 32"),
        ("10.0.0.0/", "a prefix length from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "a prefix length from 0 to 32"),
        ("::/129", "a prefix length from 0 to 128"),
        ("10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("2001:db8::1/32", "the network is 2001:db8::/32"),
        ("::ffff:10.0.0.0/104", "must be written as IPv4"),
    ],
)
def test_what_is_no_network_is_refused_with_the_cure(text: str, cure: str) -> None:
    with pytest.raises(ValueError, match=cure):
        parse(text)


def test_unix_path_is_no_address() -> None:
    assert ip_of("/run/x") is None


@pytest.mark.parametrize(
    ("allow", "deny", "admitted", "refused"),
    [
        ([], [], ["10.0.0.1", "::1"], []),
        ([], ["10.0.0.0/8"], ["11.0.0.1", "::1"], ["10.0.0.1"]),
        (["10.0.0.0/8"], [], ["10.0.0.1"], ["11.0.0.1", "::1"]),
        (["10.1.0.0/16"], ["10.0.0.0/8"], ["10.1.0.1"], ["10.2.0.1", "11.0.0.1"]),
        (["10.0.0.0/8"], ["10.1.0.0/16"], ["10.2.0.1"], ["10.1.0.1", "11.0.0.1"]),
        (["10.0.0.0/8"], ["10.0.0.0/8"], [], ["10.0.0.1"]),
        (["10.0.0.0/8", "10.1.2.3"], ["10.1.0.0/16"], ["10.1.2.3", "10.9.9.9"], ["10.1.2.4"]),
    ],
)
def test_most_specific_network_decides_and_of_two_the_same_the_one_that_denies(
    allow: list[str], deny: list[str], admitted: list[str], refused: list[str]
) -> None:
    rules = Rules(map(parse, allow), map(parse, deny))
    decided = {host: rules.admit(ip) for host in [*admitted, *refused] if (ip := ip_of(host)) is not None}
    assert decided == {**dict.fromkeys(admitted, True), **dict.fromkeys(refused, False)}
