"""What the built-in services must answer. Pure: bytes in, right or wrong out.

Clocks of two hosts differ, so a time is right within `CLOCKS_S`; a wrong epoch, zone or field is off by far more.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

CLOCKS_S = 300.0
RFC_868_EPOCH = 2_208_988_800
"""Seconds from 1900 to 1970 (RFC 868)."""
TIME_BYTES = 4
QUOTE_BYTES = 512
"""A quote is shorter than this (RFC 865)."""

GREETING = b"Please enter your name now!"
GOODBYE = b"Goodbye!"

_PRINTABLE = bytes(range(32, 127))
_LINE_BYTES = 72
PATTERN_LINES = len(_PRINTABLE)
"""Lines after which the pattern of RFC 864 begins again."""

_DAYTIME = re.compile(rb"([A-Z][a-z]+, [A-Z][a-z]+ \d{2}, \d{4} \d{2}:\d{2}:\d{2})-UTC\r?\n")
_HELLO = re.compile(rb"Hello, user-[0-9a-f]{16}!")


def is_daytime(reply: bytes, now: float) -> bool:
    """One line such as `Sunday, November 22, 2026 20:04:32-UTC`, near `now` (seconds since 1970). RFC 867."""
    match = _DAYTIME.fullmatch(reply)
    if match is None:
        return False
    try:
        said = datetime.strptime(match[1].decode("ascii"), "%A, %B %d, %Y %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return False
    return abs(said.timestamp() - now) <= CLOCKS_S


def is_time(reply: bytes, now: float) -> bool:
    """Four bytes, big endian, seconds since 1900, near `now` (seconds since 1970). RFC 868."""
    if len(reply) != TIME_BYTES:
        return False
    said = int.from_bytes(reply, "big")
    # The four bytes wrap in 2036: compare on the circle.
    ahead = (said - int(now) - RFC_868_EPOCH) % 2**32
    return min(ahead, 2**32 - ahead) <= CLOCKS_S


def is_quote(reply: bytes) -> bool:
    """Something, shorter than 512 bytes. RFC 865."""
    return len(reply.strip()) > 0 and len(reply) < QUOTE_BYTES


def is_pattern(lines: list[bytes]) -> bool:
    """Lines of 72 characters, each one character further into the 95 printable ones. RFC 864."""
    if not lines or len(lines[0]) != _LINE_BYTES or lines[0][0] not in _PRINTABLE:
        return False
    first = _PRINTABLE.index(lines[0][0])
    circle = _PRINTABLE * 3
    return all(
        line == circle[start : start + _LINE_BYTES]
        for number, line in enumerate(lines)
        for start in [(first + number) % len(_PRINTABLE)]
    )


def hello(name: bytes) -> bytes:
    """What the greet service answers to a name."""
    return b"Hello, " + name + b"!"


def is_hello(reply: bytes) -> bool:
    """Whether it greets some load user; if it is not the one who asked, answers were mixed up."""
    return _HELLO.fullmatch(reply) is not None
