"""What the control groups of this process allow it: processors and memory, of version 2 and of version 1.

It reads cgroups(7) and decides nothing. Where there are none, or they cannot be read, there is no limit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path("/sys/fs/cgroup")
_NO_LIMIT: Final = 1 << 60
"""Bytes that no machine has: what version 1 says for none is the greatest number of pages."""


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, cut by the cgroup's quota (cpu.max), at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_ROOT / "cpu.max").read_text("ascii").split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no cgroup v2, or not ours to read
    return max(1, count)


def memory_limit(root: Path = _ROOT, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the bytes of memory beyond which the kernel kills something here, or None.

    It is the least of this process's group and of all groups above it.

    Args:
        root: where the tree of groups is mounted.
        own: what names this process's place in it.
    """
    limits = []
    for path in _memory_files(root, own):
        try:
            limits.append(int(path.read_text("ascii")))
        except (OSError, ValueError):
            continue  # no such group in this view of the tree, or "max"
    least = min(limits, default=_NO_LIMIT)
    return least if least < _NO_LIMIT else None


def _memory_files(root: Path, own: Path) -> Iterator[Path]:
    """Yield where a limit may stand, for the group of this process and each above it."""
    try:
        lines = own.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        tree, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        inner = Path(group.lstrip("/"))
        # in a container the tree may begin with its own group, whose name is that in the whole tree: the top counts
        yield from (tree / one / name for one in (inner, *inner.parents))
