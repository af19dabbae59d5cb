"""What Linux alone does for a family of processes: prctl(2) and capget(2). Elsewhere it is not done.

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
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION: Final = 0x20080522  # capget(2): two words of each set


def adopt_orphans() -> bool:
    """Let orphaned descendants become children of this process, as they do of PID 1; return whether that is so now."""
    return os.getpid() == 1 or _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Let the kernel send TERM to this process when its parent, `parent`, dies; at once if it has died already.

    The main thread of the parent must be the one that forked. A change of user undoes this, so that comes first.
    """
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def gain_no_privileges() -> None:
    """Let no program that this process or a child of it executes have more rights than it: PR_SET_NO_NEW_PRIVS."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def has_capabilities() -> bool:
    """Say whether this process has a capability, or could take one that it is permitted (capabilities(7))."""
    if not sys.platform.startswith("linux"):
        return False
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and the same for the upper 32
    if ctypes.CDLL(None).capget(header, sets) != 0:
        return True  # nobody knows, so nobody may rely on it
    effective, permitted, _, effective_above, permitted_above, _ = sets
    return bool(effective | permitted | effective_above | permitted_above)


def _prctl(option: int, argument: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(option, argument, 0, 0, 0) == 0)
