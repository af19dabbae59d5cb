"""What a request proves: it names its sender, its place, its length and its checksum, and so does the right answer.

Pure: bytes in, a class of failure out. A request is one line of printable bytes without a line end, so that any framing
carries it and any echo, of bytes, lines or frames, can be asked:

    PF1 <nonce, 16 hex> <sequence, 8 hex> <length, 6 digits> <filler> <CRC-32 of all before, 8 hex>
"""

from __future__ import annotations

import re
import zlib
from itertools import cycle
from typing import TYPE_CHECKING, Protocol

from prefork_loadtest.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = re.compile(rb"PF1 ([0-9a-f]{16}) ([0-9a-f]{8}) (\d{6}) ")
_CHECKSUM_BYTES = 9  # a space and eight hexadecimal digits
_HEAD_BYTES = 37

LEAST_BYTES = _HEAD_BYTES + _CHECKSUM_BYTES
"""The shortest request: head and checksum with no filler."""
MOST_BYTES = 999_999
"""The longest: what six digits of length can say."""

PROBE_ARROW = "=>"

SIZES = (64, 64, 64, 256, 64, 64, 1024, 64, 64, 4096)
"""Bytes of ten requests in turn: mostly small, as protocols are, with one beyond a network packet."""


def build(nonce: int, sequence: int, size: int) -> bytes:
    """One request of exactly `size` bytes.

    Args:
        nonce: 64 bits that no other user has.
        sequence: the number of the request within its user; its low 32 bits are sent.
        size: bytes, from `LEAST_BYTES` to `MOST_BYTES`.

    Raises:
        ValueError: the size is out of range.
    """
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise ValueError(f"a request has {LEAST_BYTES} to {MOST_BYTES} bytes, not {size}")
    return _build(b"%016x" % nonce, sequence, size)


def _build(nonce: bytes, sequence: int, size: int) -> bytes:
    """One request, of figures that are right. The nonce is given as it is sent."""
    head = b"PF1 %b %08x %06d " % (nonce, sequence & 0xFFFFFFFF, size)
    # The filler differs between requests too: a buffer mixed up in its middle shows as well as one at its start.
    room = size - LEAST_BYTES
    seed = b"%08x%b" % (zlib.crc32(head), nonce)
    body = head + (seed * (room // len(seed) + 1))[:room]
    return b"%b %08x" % (body, zlib.crc32(body))


def sender(message: bytes) -> tuple[int, int] | None:
    """Whose request this is: `(nonce, sequence)`, or None unless it is a whole and sound request."""
    head = _HEAD.match(message)
    if head is None or int(head[3]) != len(message) or len(message) < LEAST_BYTES:
        return None
    body, checksum = message[:-_CHECKSUM_BYTES], message[-_CHECKSUM_BYTES:]
    if checksum != b" %08x" % zlib.crc32(body):
        return None
    return int(head[1], 16), int(head[2], 16)


def check(request: bytes, answer: bytes) -> Failure | None:
    """None if `answer` is the echo of `request`; else the class of failure.

    An answer that is a sound request of somebody else, or an earlier one of the same user, is cross-talk; anything
    else that differs, in a single bit or in its length, is a wrong answer.
    """
    if answer == request:
        return None
    return Failure.WRONG_ANSWER if sender(answer) is None else Failure.CROSS_TALK


class Proof(Protocol):
    """The requests of one user, and what their answers must be."""

    nonce: int
    sequence: int

    def next(self) -> bytes:
        """The next request of this user."""

    def check(self, request: bytes, answer: bytes) -> Failure | None:
        """None if `answer` is right; else the class of failure."""

    def expected(self, request: bytes) -> bytes | None:
        """The right answer to the last request; None if it cannot be told before it comes."""


class Prover:
    """The requests of one user, one after another: its nonce, the next sequence and the next size."""

    def __init__(self, nonce: int, sizes: Sequence[int] = SIZES) -> None:
        self.nonce = nonce
        self.sequence = 0
        self._hex = b"%016x" % nonce
        self._sizes = cycle(sizes)

    def next(self) -> bytes:
        """The next request of this user."""
        self.sequence += 1
        return _build(self._hex, self.sequence, next(self._sizes))

    def check(self, request: bytes, answer: bytes) -> Failure | None:
        """None if `answer` is right; else the class of failure."""
        return check(request, answer)

    def expected(self, request: bytes) -> bytes:
        """The right answer."""
        return request


class Probe:
    """The requests of one user to a service that is no echo: a line, and the line that must be the answer.

    Every `{n}` in both stands for a number that no other request has. Where the service gives it back, an answer to
    somebody else is found out; a probe without one can only tell right from wrong.

    Args:
        text: `SEND=>EXPECT`.
        nonce: 64 bits that no other user has.

    Raises:
        ValueError: the text is not of this form.
    """

    def __init__(self, text: str, nonce: int) -> None:
        send, arrow, expect = text.partition(PROBE_ARROW)
        if not arrow or not send or not text.isprintable():
            raise ValueError(f"{text!r}: write SEND{PROBE_ARROW}EXPECT, one line each, such as 'ping=>pong'")
        self.nonce = nonce
        self.sequence = 0
        self._send, self._expect = send, expect

    def __str__(self) -> str:
        return f"{self._send}{PROBE_ARROW}{self._expect}"

    def next(self) -> bytes:
        """The next request of this user."""
        self.sequence += 1
        return self._with_number(self._send)

    def check(self, request: bytes, answer: bytes) -> Failure | None:
        """None if `answer` is what the last request must be answered with; else the class of failure."""
        return None if answer == self.expected(request) else Failure.WRONG_ANSWER

    def expected(self, request: bytes) -> bytes:
        """The right answer to the last request."""
        del request  # there is one at a time, and its number is known
        return self._with_number(self._expect)

    def _with_number(self, text: str) -> bytes:
        return text.replace("{n}", f"{self.nonce}{self.sequence:08d}").encode()
