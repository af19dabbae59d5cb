"""Signals as bytes in a pipe: a context manager sets handlers and wake-up fd, and puts back what it found.

It owns how signals are heard, for the master and for workers without an event loop. What a signal means is a table in
the file that acts on it. A handler here does nothing at all: the wake-up descriptor ends the wait, and the loop reads
which signals came.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType, TracebackType


class SignalWatch:
    """While entered, the given signals do nothing but make `fileno()` readable."""

    def __init__(self, watched: Iterable[signal.Signals]) -> None:
        self._watched = frozenset(watched)
        self._found: dict[signal.Signals, Any] = {}
        self._found_fd = -1
        # a pipe has room for 65,536 of them; a socket for a few hundred, and then a TERM behind as many HUPs is lost
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def __enter__(self) -> Self:
        """Set the handlers and the wake-up descriptor."""
        # a full pipe means that the loop has signals to read already: no warning needed
        self._found_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._watched:
            self._found[number] = signal.signal(number, _heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put back what was found."""
        for number, handler in self._found.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._found_fd)
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a signal has come."""
        return self._reader

    def read(self) -> list[signal.Signals]:
        """Return the watched signals that have come since the last call, oldest first, without waiting."""
        with contextlib.suppress(BlockingIOError):
            return [signal.Signals(number) for number in os.read(self._reader, 65536) if number in self._watched]
        return []

    def close(self) -> None:
        """Close the pipe, once: for a forked child, which must never write into its parent's."""
        if self._reader >= 0:
            os.close(self._reader)
            os.close(self._writer)
        self._reader = self._writer = -1


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor has been written to."""


def forget_inherited() -> None:
    """Give a freshly forked child default handlers and no wake-up descriptor, before its signals are unblocked.

    A wake-up descriptor inherited over fork would deliver the child's signals to the parent.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C goes to the group; the master decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
