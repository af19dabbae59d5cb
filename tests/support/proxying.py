"""PROXY headers as a balancer would send them, made here by the specification and not by the code under test."""

from __future__ import annotations

import socket
import struct
from typing import Final

SIGNATURE: Final = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL: Final = SIGNATURE + b"\x20\0\0\0"


def v1(source: str = "192.0.2.7", port: int = 4711, destination: str = "198.51.100.1", to: int = 443) -> bytes:
    """Return a version 1 header for a TCP client."""
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {port} {to}\r\n".encode()


def v2(
    source: str = "192.0.2.7", port: int = 4711, destination: str = "198.51.100.1", to: int = 443, tlvs: bytes = b""
) -> bytes:
    """Return a version 2 header for a TCP client."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    hosts = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    kind = 0x21 if ":" in source else 0x11
    return block(kind, hosts + struct.pack("!HH", port, to) + tlvs)


def block(kind: int, rest: bytes, command: int = 0x21) -> bytes:
    """Return a version 2 header of any kind."""
    return SIGNATURE + bytes([command, kind]) + struct.pack("!H", len(rest)) + rest


def tlv(kind: int, value: bytes) -> bytes:
    """Return one type-length-value vector."""
    return bytes([kind]) + struct.pack("!H", len(value)) + value


def tls(version: bytes, name: bytes, *, verified: bool = True) -> bytes:
    """Return the vector that says what TLS the client spoke, and with which certificate."""
    flags = b"\x03" + struct.pack("!I", 0 if verified else 1)
    return tlv(0x20, flags + tlv(0x21, version) + tlv(0x22, name) + tlv(0x23, b"AES256"))
