r"""The log: one line per record, text or JSON, bounded, and with no control byte of a stranger in it.

It owns how a record looks and where it goes. A line that cannot be written now (full disk, closed pipe, a reader that
does not read) is dropped and counted, never raised and never waited for: a server does not die of its log. When lines
can be written again, the first one says how many were lost. Every process writes whole lines with one write(2), so the
lines of the workers never mix on a pipe or an O_APPEND file.

What it cannot promise: a regular file has no "would block". A disk that hangs holds whoever writes to it.

Fields are given as `extra={"fields": {...}}`, best through `logger.info(..., extra=fields(pid=1))`.
"""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import select
import socket
import stat
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import MutableSequence

LOGGER: Final = logging.getLogger("prefork")
ACCESS: Final = logging.getLogger("prefork.access")

MAX_MESSAGE: Final = 2048
MAX_FIELD: Final = 256
MAX_TRACEBACK: Final = 16384

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final[tuple[Level, ...]] = ("debug", "info", "warning", "error")
Format = Literal["text", "json"]
FORMATS: Final[tuple[Format, ...]] = ("text", "json")


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return `values` in the shape that `extra=` of a logging call wants."""
    return {"fields": values}


def escape(text: str, limit: int = MAX_FIELD) -> str:
    r"""Return `text` with every control and undecodable character written as `\x..`, cut to `limit` characters."""
    cut = len(text) > limit
    text = text[:limit]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)
    return text[: limit - 1] + "…" if cut or len(text) > limit else text


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Return the lines of a record's traceback, or of the stacks given to it as `extra={"trace": ...}`, escaped."""
    text = formatter.formatException(record.exc_info) if record.exc_info else str(getattr(record, "trace", ""))
    return [escape(line, MAX_MESSAGE) for line in text[-MAX_TRACEBACK:].splitlines()]


def _quoted(shown: str) -> str:
    """Return a field's value so that where it ends is plain, whatever is in it."""
    return json.dumps(shown, ensure_ascii=False) if not shown or any(c in shown for c in ' "=') else shown


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = (
            f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower():<7} {escape(record.getMessage(), MAX_MESSAGE)}"
        )
        shown = getattr(record, "fields", {})
        for name, value in shown.items():
            line += f" {name}={_quoted(escape(str(value)))}"
        if "connection" in shown:  # which every worker counts for itself
            line += f" pid={record.process}"
        # a traceback is many lines by nature; each is escaped on its own, so none can pass for a record
        return line + "".join(f"\n    {part}" for part in _trace(self, record))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": escape(record.getMessage(), MAX_MESSAGE),
            "pid": record.process,
        }
        for name, value in getattr(record, "fields", {}).items():
            entry[name] = value if isinstance(value, int | float | bool | None) else escape(str(value))
        if trace := _trace(self, record):
            entry["traceback"] = "\n".join(trace)
        return json.dumps(entry, ensure_ascii=False)


class LogHandler(logging.Handler):
    """Writes each record with one write(2) to standard error or to a file that can be reopened.

    Whatever it writes to, it does not wait: a pipe or a terminal is opened anew, non-blocking, a socket is sent to so,
    and what cannot be opened anew is asked for room first. The flag is never set on what was inherited: others share
    that, and would meet it.
    """

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._path = path
        self._fd = self._open()
        kind = os.fstat(self._fd).st_mode
        self._socket = socket.socket(fileno=os.dup(self._fd)) if stat.S_ISSOCK(kind) else None
        self._may_block = not stat.S_ISREG(kind) and self._socket is None and os.get_blocking(self._fd)
        self._counter: MutableSequence[int] | memoryview = [0]
        self._missed = 0  # lines dropped since the last that was written
        self._why = ""  # the last of them
        self._torn = mmap.mmap(-1, 1)  # shared by all who write here: one may tear a line, and another write the next

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        if self._path is not None:
            try:
                return os.open(self._path, flags | os.O_CREAT | os.O_APPEND, 0o640)
            except OSError as error:
                if error.errno == errno.ENXIO:  # fifo(7)
                    raise OSError(error.errno, "nobody reads this pipe; start its reader first") from error
                raise
        if sys.stderr is None:  # it was closed before we began, and its number may be anybody's by now
            return os.open(os.devnull, flags)
        fd = sys.stderr.fileno()
        kind = os.fstat(fd).st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
            try:
                return os.open(f"/proc/self/fd/{fd}", flags)  # the same thing with flags of its own: proc(5)
            except OSError:
                pass  # no /proc, or somebody else's pipe
        return fd

    @property
    def dropped(self) -> int:
        """How many lines this process could not write."""
        return self._counter[0]

    def count_in(self, counter: MutableSequence[int] | memoryview) -> None:
        """Count in the first of these integers from now on: a worker does in its row of the scoreboard."""
        self._counter = counter
        self._missed = 0  # what the master has missed is the master's to say

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; drop and count it when that fails."""
        try:
            line = self.format(record)
            if self._missed:
                self._write(self.format(self._confession()))
                self._missed = 0
            self._write(line)
        except OSError as error:
            self._drop("nobody reads them" if isinstance(error, BlockingIOError) else error.strerror or "unknown")
        except Exception as error:  # noqa: BLE001 - such as a `__str__` that raises: whoever logs must not fail by it
            self._drop(f"no line could be made of one: {type(error).__name__}")

    def _drop(self, why: str) -> None:
        self._counter[0] += 1
        self._missed += 1
        self._why = why

    def _confession(self) -> logging.LogRecord:
        extra = fields(dropped=self._missed)
        message = f"{self._missed} log lines of pid {os.getpid()} were dropped: {self._why}"
        return LOGGER.makeRecord(LOGGER.name, logging.WARNING, "", 0, message, (), None, extra=extra)

    def _write(self, line: str) -> None:
        """Write a line, whole if there is room for it.

        Raises:
            OSError: it could not be written; if a part of it was, the next line of any process begins on its own.
        """
        whole = data = (line + "\n").encode("utf-8", "backslashreplace")
        if self._torn[0]:
            whole = data = b"\n" + data
        try:
            while data:
                data = data[self._write_some(data) :]
                self._torn[0] = 0
        except OSError:
            if len(data) < len(whole):
                self._torn[0] = 1
            raise

    def _write_some(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if not self._may_block:
            return os.write(self._fd, data)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self._fd, data[: select.PIPE_BUF])  # a pipe has room for so much

    def reopen(self) -> None:
        """Open the file anew, after a rotation; keeps the old one when that fails.

        Raises:
            OSError: the file could not be opened; the old one is still written to.
        """
        if self._path is None:
            return
        fresh = self._open()
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)

    def close(self) -> None:
        """Let go of what was opened for it; nothing can be written any more."""
        if self._socket is not None:
            self._socket.close()
        super().close()

    @property
    def fd(self) -> int:
        """The descriptor that is written to, for what must be written by C code (a stack dump)."""
        return self._fd


def configure(level: Level, form: Format, path: str | None, *, access: bool) -> LogHandler:
    """Set the program's log up and return its handler.

    Args:
        level: the least severe level that is written.
        form: `text` or `json`.
        path: a file to append to, or None for standard error.
        access: whether a line per connection is written, whatever the level.

    Raises:
        OSError: the file cannot be opened.
    """
    handler = LogHandler(path)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    for old in LOGGER.handlers[:]:
        LOGGER.removeHandler(old)
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    # what a library logs and nobody has configured, such as asyncio's complaints, goes the same way: logging's own last
    # resort would wait for whoever does not read standard error
    logging.lastResort = handler
    set_levels(level, access=access)
    return handler


def set_levels(level: Level, *, access: bool) -> None:
    """Set what is written from now on, by this process: the settings of a new generation may say something else."""
    LOGGER.setLevel(level.upper())
    ACCESS.setLevel(logging.INFO if access else logging.CRITICAL + 1)
