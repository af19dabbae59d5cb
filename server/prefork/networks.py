"""Networks of IP addresses: `10.0.0.0/8`, `2001:db8::/32`, a lone address, and which of several an address lies in.

Addresses are compared as numbers. An IPv4 address that a dual-stack socket writes as `::ffff:10.0.0.1` is that IPv4
address. This file decides nothing about a connection and never looks a name up.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

V4: Final = 32
V6: Final = 128
_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291, section 2.5.5.2


class Ip(NamedTuple):
    """An address as a number of so many bits: 32 or 128."""

    bits: int
    value: int


class Network(NamedTuple):
    """The addresses of `bits` bits whose first `prefix` bits are `head`; of 0 bits: unix sockets, which have none."""

    bits: int
    prefix: int
    head: int


UNIX: Final = Network(0, 0, 0)


def ip_of(host: str) -> Ip | None:
    """Return an address as a number, without its zone; None for what is no address, such as a unix socket's path."""
    try:
        if ":" not in host:
            return Ip(V4, int.from_bytes(socket.inet_pton(socket.AF_INET, host), "big"))
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):  # ValueError: a NUL, or what no encoding has
        return None
    if packed.startswith(_MAPPED):
        return Ip(V4, int.from_bytes(packed[12:], "big"))
    return Ip(V6, int.from_bytes(packed, "big"))


def parse(text: str) -> Network:
    """Return the network that `text` names.

    Raises:
        ValueError: it names none, and what to write instead.
    """
    host, slash, length = text.partition("/")
    ip = ip_of(host)
    if ip is None or "%" in host:
        raise ValueError("must be a network, such as 10.0.0.0/8 or 2001:db8::/32, or one address")
    if ip.bits == V4 and ":" in host:
        raise ValueError("must be written as IPv4: a client of that kind is compared as an IPv4 address")
    if not slash:
        return Network(ip.bits, ip.bits, ip.value)
    if not (length.isascii() and length.isdigit()) or len(length) > 3 or int(length) > ip.bits:  # noqa: PLR2004 - 128
        raise ValueError(f"must have a prefix length from 0 to {ip.bits} behind the slash")
    rest = ip.bits - int(length)
    head = ip.value >> rest
    if head << rest != ip.value:
        family = socket.AF_INET if ip.bits == V4 else socket.AF_INET6
        begin = socket.inet_ntop(family, (head << rest).to_bytes(ip.bits // 8, "big"))
        raise ValueError(f"has bits set behind the prefix; the network is {begin}/{length}")
    return Network(ip.bits, int(length), head)


class Networks:
    """Several networks, asked for the most specific one that holds an address."""

    def __init__(self, networks: Iterable[Network]) -> None:
        heads: dict[tuple[int, int], set[int]] = {}
        for one in networks:
            heads.setdefault((one.bits, one.prefix), set()).add(one.head)
        self.unix = (0, 0) in heads
        self._heads = sorted(heads.items(), key=lambda item: -item[0][1])

    def prefix(self, ip: Ip) -> int:
        """Return the prefix length of the most specific network that holds `ip`; -1 if none does."""
        for (bits, prefix), heads in self._heads:
            if bits == ip.bits and ip.value >> (bits - prefix) in heads:
                return prefix
        return -1


class Rules:
    """Which addresses may come in: the most specific network decides, and of two the same the one that denies.

    What no network holds may come in, unless there is one that allows: then only what is allowed may.
    """

    def __init__(self, allow: Iterable[Network], deny: Iterable[Network]) -> None:
        allowed = tuple(allow)
        self._allow = Networks(allowed)
        self._deny = Networks(deny)
        self._only = bool(allowed)

    def admit(self, ip: Ip) -> bool:
        """Say whether `ip` may come in."""
        denied = self._deny.prefix(ip)
        allowed = self._allow.prefix(ip)
        return allowed > denied or (denied < 0 and not self._only)
