"""The one fork of the program, what surrounds it, and the reaping of what it made."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn, Protocol

from prefork.log import LOGGER
from prefork.signals import forget_inherited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGESIZE")

CRASHED: Final = 1
"""Exit code of a child whose own code raised."""


class Closeable(Protocol):
    """Anything of the parent's that a child must not keep."""

    def close(self) -> None:
        """Close it."""
        ...


def fork(child: Callable[[], int], not_its_own: Iterable[Closeable]) -> int:
    """Fork, run `child` in the new process, and return its pid in the old one.

    Signals are blocked around the fork, so that none reaches the child before it has its own handlers. The child closes
    `not_its_own` and leaves by `os._exit` with what `child` returned.

    Raises:
        OSError: the kernel has no room for another process (EAGAIN, ENOMEM); nothing has changed.
    """
    gc.freeze()  # what is here now is never looked at again by the child's collector: its pages stay shared
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(child, not_its_own, mask)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _be_child(child: Callable[[], int], not_its_own: Iterable[Closeable], mask: Iterable[int]) -> NoReturn:
    code = CRASHED
    try:
        forget_inherited()
        for thing in not_its_own:
            thing.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = child()
    except SystemExit as error:  # the service called exit(): its code, as a program's own would be
        code = error.code if isinstance(error.code, int) else CRASHED
    except BaseException:  # noqa: BLE001 - a child never returns into its parent's code
        LOGGER.exception("worker pid %d crashed", os.getpid())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # nobody reads what the service printed
        os._exit(code)


def reap() -> Iterator[tuple[int, int]]:
    """Yield the pid and the wait status of every child that has ended, as PID 1 also of children never forked here.

    Several SIGCHLDs arrive as one: this asks until there is nothing left to ask for.
    """
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a child that has not been reaped: its pid cannot have become somebody else's."""
    with contextlib.suppress(ProcessLookupError):  # a zombie; the reaping will tell
        os.kill(pid, number)


def rss_bytes(pid: int) -> int:
    """Return a process's resident memory in bytes (proc(5), statm), 0 where that is not told."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def scratch() -> BinaryIO | None:
    """Return a nameless file in memory for a child to write its last words into, or None where there are none."""
    try:
        return os.fdopen(os.memfd_create("stacks"), "w+b", buffering=0)
    except (AttributeError, OSError):
        return None


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used, user and system (proc(5), stat), 0.0 where that is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, ValueError, IndexError):
        return 0.0


def how_it_ended(status: int) -> str:
    """Return a wait status in words: `exited with code 3`, `was killed by SIGKILL`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
