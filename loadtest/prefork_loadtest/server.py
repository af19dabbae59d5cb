"""A server that the kit starts itself: `prefork serve` as anyone would run it, in a session of its own, and its log.

It is stopped with TERM in the end, and with KILL, all of its session, if it does not obey.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from prefork_loadtest import control
from prefork_loadtest.census import Census, Local, Remains

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path
    from types import TracebackType

START_S = 15.0
STOP_S = 40.0
"""Seconds for a graceful stop: longer than the server's own drain timeout, which it must keep."""
GONE_S = 5.0
"""Seconds from the end of the first process until all of its session must be gone."""
POLL_S = 0.05

_TEXT_ERROR = re.compile(r"\S+Z (?:error|critical) ")


class StartFailed(Exception):  # noqa: N818 - the text is the one line that a person reads
    """The server did not start, so that there is nothing to judge."""


class OwnServer:
    """A context manager around one server.

    Args:
        arguments: of `prefork serve`: the target and any options but `--control`.
        path: of its control socket.
        log: where its log goes.

    Attributes:
        pid: its first process, the leader of its session.
        address: where it serves, as a load test takes it; known once it is `ready`.
        exit_code: known once the context is left.
        remains: who of its session was still there when it had ended.
    """

    def __init__(self, arguments: Iterable[str], path: Path, log: Path) -> None:
        self._command = [sys.executable, "-m", "prefork", "serve", *arguments, "--control", str(path)]
        self._path = path
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.exit_code: int | None = None
        self.remains = Remains()

    @property
    def pid(self) -> int:
        """Its first process."""
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process.pid

    def __enter__(self) -> Self:
        # The kit's own variables are no settings of the server's.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFORK_LOADTEST_")}
        with self._log.open("wb") as output:
            # A session of its own: an interrupt from the keyboard ends the run first, and then the server in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own words, and the user's
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=kept, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def _wait_until_ready(self) -> None:
        """Wait until all workers serve.

        Raises:
            StartFailed: they do not, in one line.
        """
        process = self._process
        deadline = time.monotonic() + START_S
        while process is not None and time.monotonic() < deadline and process.poll() is None:
            try:
                status = control.ask(self._path)
            except control.ControlError:
                pass  # not there yet
            else:
                if status.state == "running" and status.addresses:
                    self.address = url(status.addresses[0])
                    return
            time.sleep(POLL_S)
        code = process.poll() if process is not None else None
        ending = "did not get ready" if code is None else f"ended with exit code {code}"
        raise did_not_start(f"the server {ending}", self._log)

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        census = Census(Local(), process.pid)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.exit_code = process.wait(STOP_S)
        deadline = time.monotonic() + GONE_S
        while (remains := census.remains(None)) and self.exit_code is not None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.remains = remains
        for pid in remains.orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()

    def errors(self, announced: Collection[int]) -> list[str]:
        """The lines of the log that are errors, but for those that name a pid of `announced`."""
        return [line for line in _lines(self._log) if is_error(line) and not _names(line, announced)]


def did_not_start(what: str, log: Path) -> StartFailed:
    """Return the refusal of what does not come up: what happened, its last error or word, and where to read more."""
    lines = _lines(log)
    # of a traceback the last line says what it was, not the first
    errors = [line for line in lines if is_error(line) and not line.startswith("Traceback ")]
    said = " ".join((errors or lines)[-1:])[:300]
    return StartFailed(f"{what}: {said or 'it said nothing'}; its log is {log}")


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def url(address: str) -> str:
    """An address of the server's status as a load test takes it."""
    return address if address.startswith("unix:") else f"tcp://{address}"


def is_error(line: str) -> bool:
    """Whether a line of the server's log, text or JSON, reports an error; or is a traceback that nobody caught."""
    if line.startswith("{"):
        with suppress(ValueError):
            entry = json.loads(line)
            return isinstance(entry, dict) and entry.get("level") in {"error", "critical"}
    return _TEXT_ERROR.match(line) is not None or line.startswith("Traceback ")


def _names(line: str, pids: Collection[int]) -> bool:
    return any(int(pid) in pids for pid in re.findall(r"\bpid (\d+)\b", line))
