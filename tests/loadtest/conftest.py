from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PEER = Path(__file__).parent / "peer.py"
LOADTEST = (sys.executable, "-c", "from prefork_loadtest.cli import main; main()")
FEW = ("--users", "8", "--rate", "60", "--duration", "2")
DEADLINE = 100


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFORK_", "LOCUST_"))}
    return kept | {"PYTHONUNBUFFERED": "1"}


@dataclass
class Outcome:
    """What a run left: its exit code, what it printed, and its report."""

    code: int
    out: str
    err: str
    report: Path

    @property
    def table(self) -> dict[str, Any]:
        table: dict[str, Any] = json.loads((self.report / "report.json").read_text("utf-8"))
        return table

    @property
    def failures(self) -> dict[str, int]:
        failures: dict[str, int] = self.table["failures"]
        return failures

    def figures(self, phase: str = "run") -> dict[str, float]:
        figures: dict[str, float] = self.table["figures"][phase]
        return figures

    def row(self, phase: str, name: str) -> dict[str, str]:
        with (self.report / "requests.csv").open(encoding="utf-8", newline="") as file:
            return next(row for row in csv.DictReader(file) if (row["phase"], row["name"]) == (phase, name))

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


@dataclass
class Process:
    """A command under way, killed at the end of the test if it still is."""

    popen: subprocess.Popen[str]
    report: Path
    heard: str = ""

    def hear(self, expected: str) -> None:
        """Wait until a line of its progress has `expected`."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.heard += line
            if expected in line:
                return
        pytest.fail(f"{expected!r} was never said\n{self.heard}")

    def end(self) -> Outcome:
        """Wait for its end."""
        try:
            out, err = self.popen.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            out, err = self.popen.communicate()
            pytest.fail(f"no end within {DEADLINE} s\n{out}\n{self.heard}{err}")
        return Outcome(self.popen.returncode, out, self.heard + err, self.report)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a command; `prefork-loadtest` unless another one is named."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, command: tuple[str, ...] = LOADTEST, **env: str) -> Process:
        popen = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=tmp_path,
            env=environment() | env,
        )
        started.append(popen)
        return Process(popen, tmp_path / "report")

    yield begin
    for popen in started:
        popen.kill()
        popen.communicate()


@pytest.fixture
def smoke(start: Callable[..., Process]) -> Callable[..., Outcome]:
    """Run the smoke scenario to its end, small unless told otherwise."""

    def run(host: str, *options: str) -> Outcome:
        return start("run", "smoke", "--host", host, *FEW, "--report", "report", *options).end()

    return run


@pytest.fixture
def peer() -> Callable[[str], Any]:
    """A context manager for a server of the given behaviour; it gives the address."""

    @contextmanager
    def serve(behaviour: str) -> Iterator[str]:
        with subprocess.Popen([sys.executable, str(PEER), behaviour], stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                port = process.stdout.readline().strip()
                assert port, "the peer did not start"
                yield f"tcp://127.0.0.1:{port}"
            finally:
                process.kill()

    return serve
