r"""The log: one line per record, text or JSON, bounded, and with no control byte of a stranger in it.

It owns how a record looks and where it goes. A line that cannot be written (full disk, closed pipe) is dropped and
counted, never raised: a server does not die of its log. Every process writes whole lines with one write(2), so the
lines of the workers never mix on a pipe or an O_APPEND file.

Fields are given as `extra={"fields": {...}}`, best through `logger.info(..., extra=fields(pid=1))`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any, Final, Literal

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


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = (
            f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower():<7} {escape(record.getMessage(), MAX_MESSAGE)}"
        )
        for name, value in getattr(record, "fields", {}).items():
            shown = escape(str(value))
            line += f" {name}={json.dumps(shown, ensure_ascii=False) if ' ' in shown or not shown else shown}"
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

    `dropped` counts the lines that could not be written by this process.
    """

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._path = path
        self._fd = self._open()
        self.dropped = 0

    def _open(self) -> int:
        if self._path is None:
            return sys.stderr.fileno()
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; drop and count it when that fails."""
        try:
            os.write(self._fd, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
        except (OSError, ValueError):
            self.dropped += 1

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
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False
    ACCESS.setLevel(logging.INFO if access else logging.CRITICAL + 1)
    return handler
