"""Clients that nobody here wrote: found on the path, run to their end, or talked to like a person would."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from types import TracebackType


def find(name: str) -> str:
    """Return the path of a client; skip the test where it is not installed, and fail it in CI."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and in CI it must be")
        pytest.skip(reason)
    return path


def ask(name: str, *arguments: str, stdin: bytes = b"", timeout: float = 60.0) -> bytes:
    """Run a client to its end, which must be a good one, and return what it printed."""
    done = subprocess.run(
        [find(name), *arguments], input=stdin, capture_output=True, timeout=timeout, check=False
    )  # fmt: skip
    assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr!r} {done.stdout!r}"
    return done.stdout


class Dialogue:
    """A client that is talked to over its standard input and output, a line at a time."""

    def __init__(self, name: str, *arguments: str) -> None:
        self._command = [find(name), *arguments]
        self.heard = b""
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def say(self, line: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def hear(self, expected: str, seconds: float = 10.0) -> None:
        """Wait until `expected` has been printed; what is heard next must come after it."""
        deadline = time.monotonic() + seconds
        while expected.encode() not in self.heard:
            assert self._read(deadline), f"{self._command[0]} ended; {expected!r} was not in {self.heard!r}"
        self.heard = self.heard.partition(expected.encode())[2]

    def ended(self, seconds: float = 10.0) -> int:
        """Wait for the client's end, without closing its input, and return its exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"{self._command[0]} said no more than {self.heard!r}"
        data = os.read(self.process.stdout.fileno(), 65536)
        self.heard += data
        return bool(data)
