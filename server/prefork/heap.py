"""How much memory that is free again a worker keeps for what comes next: mallopt(3).

A large frame is a few large blocks of memory. glibc gives such blocks back to the kernel as soon as they are free, or
does not, by what was free before; and the next frame pays for each of their pages again, which may cost three times
what all else does. So the bounds are set here. Other C libraries have no such bounds, and nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

from prefork import environment

KEPT: Final = 16 * 2**20
"""Bytes that are free at the heap's end and are kept; what is more goes back."""
LARGEST: Final = 4 * 2**20
"""Bytes of the largest block that comes from the heap; a larger one is the kernel's, and goes back when it is free."""

ARENAS: Final = 1
"""Heaps of a process. By default each thread gets one, which would keep as much again; under Python's lock, which lets
one thread run at a time, few want the one at once."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def keep() -> None:
    """Keep so much, unless the environment says something else to the C library."""
    if environment.tunes_malloc():
        return
    with contextlib.suppress(AttributeError, OSError):  # there is no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(_M_MMAP_THRESHOLD, LARGEST):  # refused where a heap has no room for such a block
            mallopt(_M_TRIM_THRESHOLD, KEPT)
            mallopt(_M_ARENA_MAX, ARENAS)
