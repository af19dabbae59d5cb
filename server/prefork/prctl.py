"""Two things that Linux alone does for a family of processes: prctl(2). Elsewhere they are not done.

It owns the calls. What happens to a process afterwards is the kernel's.
"""

from __future__ import annotations

import ctypes  # here and not where it is used: a worker that has become another user may not be able to read it
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> bool:
    """Let orphaned descendants become children of this process, as they do of PID 1; return whether that is so now."""
    return os.getpid() == 1 or _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Let the kernel send TERM to this process when its parent, `parent`, dies; at once if it has died already.

    The main thread of the parent must be the one that forked. A change of user undoes this, so that comes first.
    """
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _prctl(option: int, argument: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(option, argument, 0, 0, 0) == 0)
