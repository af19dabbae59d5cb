"""How many connections each source holds, over all workers and without a lock: a table of counts per worker.

One anonymous shared mapping, made by the master before it forks the first worker that counts, has a part per row of the
scoreboard. A worker writes its own part alone and reads all: it counts a newcomer first and adds up then, so that two
workers who each take the last free place at once both see one too many, and a limit is never exceeded.

A part is a hash table of fixed size: buckets of `WAYS` keys and their counts. A source whose bucket is full is not
counted. Which sources share a bucket depends on bytes drawn at the start, and goes through Python's keyed hash: no peer
can choose it, and neighbours in a network do not crowd together. The master clears the part of a worker that has ended.
This file decides nothing.
"""

from __future__ import annotations

import mmap
import secrets
import sys
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Final

from prefork.networks import V4
from prefork.scoreboard import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork.networks import Ip

WAYS: Final = 8
"""Sources that a bucket can hold."""

SPARE: Final = 4
"""Places in a part for each connection that a worker may hold: a bucket is a quarter full, and rarely overflows."""

FEWEST: Final = 512
MOST: Final = 1 << 15
"""Buckets of a part: 64 KiB to 4 MiB of address space, of which only what is used takes memory."""

_SIZE: Final = 2 * WAYS
_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)  # by name from Python 3.13 on


def key_of(ip: Ip) -> int:
    """Return what an address is counted under, never 0: itself for IPv4, its /64 for IPv6 (one customer's network)."""
    if ip.bits == V4:
        return 0xFFFF << 32 | ip.value  # 0:ffff:…/64 is no network that anybody has
    return ip.value >> 64 or 1


def buckets(connections: int) -> int:
    """Return how many buckets a part has where a worker may hold so many connections: a power of 2."""
    count = FEWEST
    while count * WAYS < connections * SPARE and count < MOST:
        count *= 2
    return count


class Sources:
    """The whole mapping.

    Args:
        connections: what a worker may hold.
        used: how many rows of the scoreboard, from the first, may hold a living worker.
    """

    def __init__(self, connections: int, used: Callable[[], int]) -> None:
        self.buckets = buckets(connections)
        self.used = used
        self.width = self.buckets * _SIZE
        self.salt = secrets.token_bytes(8)

    @cached_property
    def cells(self) -> memoryview:
        """The mapping. It is made when the first tally is: a server without a limit has none."""
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | (_NORESERVE if sys.platform == "linux" else 0)
        return memoryview(mmap.mmap(-1, ROWS * self.width * 8, flags=flags)).cast("Q")

    def clear(self, row: int) -> None:
        """Forget what the worker of this row has counted: the master does, when the worker has ended."""
        self.cells[row * self.width : (row + 1) * self.width] = memoryview(bytes(self.width * 8)).cast("Q")

    def tally(self, row: int) -> Tally:
        """Return what the worker of this row counts with."""
        return Tally(self, row)


class Tally:
    """One worker's part, and its view of the others'. Its own threads take turns."""

    def __init__(self, sources: Sources, row: int) -> None:
        self._cells = sources.cells
        self._used = sources.used
        self._width = sources.width
        self._own = row * sources.width
        self._salt = sources.salt
        self._mask = sources.buckets - 1
        self._turn = threading.Lock()

    def enter(self, key: int) -> int:
        """Count one connection more and return how many the source has over all workers; 0: it cannot be counted."""
        bucket = self._bucket(key)
        cells, at = self._cells, self._own + bucket
        with self._turn:
            keys = cells[at : at + WAYS].tolist()
            if key in keys:
                place = at + keys.index(key)
            elif 0 in keys:
                place = at + keys.index(0)
                cells[place + WAYS] = 0
                cells[place] = key
            else:
                return 0
            cells[place + WAYS] += 1
        count = 0
        for start in range(bucket, bucket + self._used() * self._width, self._width):
            keys = cells[start : start + WAYS].tolist()
            if key in keys:
                count += cells[start + WAYS + keys.index(key)]
        return count

    def leave(self, key: int) -> None:
        """Count one connection less; it must have been counted."""
        cells, at = self._cells, self._own + self._bucket(key)
        with self._turn:
            place = at + cells[at : at + WAYS].tolist().index(key)
            cells[place + WAYS] -= 1
            if not cells[place + WAYS]:
                cells[place] = 0

    def _bucket(self, key: int) -> int:
        """Return where a key's bucket begins in every part."""
        return (hash(self._salt + key.to_bytes(8, "big")) & self._mask) * _SIZE
