"""What a fuzzer gives: bytes, of which the first few decide and the rest is the matter.

The same bytes always make the same input, with a fuzzer or without.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Given:
    """The bytes of one run."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1; 0 once there are no bytes."""
        self._at += 1
        return self._data[self._at - 1] % limit if self._at <= len(self._data) else 0

    def rest(self) -> bytes:
        """Return all that is left."""
        return self._data[self._at :]


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """Yield `data` as a network might cut it: 0 whole, 1 byte by byte, else in pieces of many sizes."""
    if seed == 0:
        yield data
        return
    sizes = random.Random(seed)  # noqa: S311 - nobody is to be surprised
    at = 0
    while at < len(data):
        end = at + (1 if seed == 1 else sizes.choice((1, 1, 2, 3, 7, 20, 300, 5000)))
        yield data[at:end]
        at = end
