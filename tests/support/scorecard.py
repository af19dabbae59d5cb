"""A row of the reliability scorecard: what was measured, its limit, and what must hold after every fault.

A test asks for the `row` fixture, runs its fault within `row.watch(server)`, and says its figures; leaving the block
looks for what a fault may leave behind, and judges. The table is printed at the end, and is kept as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

    from support.load import Load
    from support.server import Server

FULL: Final = os.environ.get("PREFORK_SCORECARD") == "full"
"""Whether faults last as long as the rows say, or only as long as a quick look needs."""

STACKS: Final = r"^(?!\d{4}-\d\d-\d\dT)"
"""What a worker that is killed leaves in the log beside its records: stacks, which are lines without a time."""

_INNOCENT: Final = re.compile(r"^\S+Z (info|debug) |^    |^\S+Z warning +the workers run as root;")
_NAME: Final = re.compile(r"test_(?:row_(?P<row>\d+)|(?P<show>show))_(?P<fault>\w+)(?P<case>\[.*\])?")

Value = float | int | str


@dataclass
class Figure:
    """One thing measured; without a limit it only informs."""

    what: str
    value: Value
    limit: str = ""
    ok: bool = True


@dataclass
class Row:
    """One row as it goes into the table. `form` says how it differs from the row as it is written."""

    row: str
    fault: str
    form: str = ""
    figures: list[Figure] = field(default_factory=list)

    def says(self, what: str, value: Value) -> None:
        """Note a figure that has no limit."""
        self.figures.append(Figure(what, value))

    def at_most(self, what: str, value: float, limit: float) -> None:
        """Note a figure that must not be above its limit."""
        self.figures.append(Figure(what, _short(value), f"<= {_short(limit)}", value <= limit))

    def at_least(self, what: str, value: float, limit: float) -> None:
        """Note a figure that must not be below its limit."""
        self.figures.append(Figure(what, _short(value), f">= {_short(limit)}", value >= limit))

    def is_(self, what: str, value: Value, expected: Value) -> None:
        """Note a figure that must be exactly this."""
        self.figures.append(Figure(what, value, str(expected), value == expected))

    def seconds(self, full: float, short: float) -> float:
        """Return how long the fault lasts: as the row says, or shorter, and then the table says so."""
        if not FULL:
            self.form = f"{short:g} s instead of {full:g} s"
        return full if FULL else short

    def lost_nothing(self, load: Load) -> None:
        """Note what the load has seen, which must be no failure at all."""
        self.says("requests answered", load.replies)
        self.is_("failures", _counted(load), "none")
        self.says("worst newcomer, ms", load.worst_ms())
        self.says("the load's own lag, ms", round(load.lag * 1000))

    def judge(self) -> None:
        """Fail unless every figure is within its limit."""
        bad = [f"{one.what}: {one.value}, not {one.limit}" for one in self.figures if not one.ok]
        assert not bad, f"row {self.row}, {self.fault}: " + "; ".join(bad)

    @contextlib.contextmanager
    def watch(self, server: Server, *, announces: Iterable[str] = (), leak: bool = True) -> Iterator[None]:
        """Run a fault within the block; afterwards nothing may be left of it, and every figure must be good.

        Args:
            server: runs at the beginning, and may have ended at the end.
            announces: patterns of the log's warnings and errors that the fault brings by itself.
            leak: look for descriptors that the master did not have before.
        """
        master = server.status()["pid"]
        before = descriptors(master) - len(_children(master))
        yield
        if server.process.poll() is None:
            until(lambda: not _zombies(server.process.pid), 3, what="no zombie is left")
            if leak:
                same = f"the master has no more descriptors than before, {before} and one per worker"
                until(lambda: descriptors(master) - len(_children(master)) <= before, 5, what=same)
            code = server.stop(timeout=40)
            assert code == 0, f"the server ended with {code}"
        with contextlib.suppress(AssertionError):
            until(lambda: not _session(server.process.pid), 3)
        orphans = "; ".join(map(_describe, _session(server.process.pid)))
        assert not orphans, f"these are left 3 s after the server: {orphans}"
        strange = unexpected(server.log(), announces)
        assert not strange, "the log says what the fault does not announce:\n" + "\n".join(strange[:20])
        self.judge()


def unexpected(log: str, announces: Iterable[str] = ()) -> list[str]:
    """Return the lines that are neither informative nor announced."""
    known = [re.compile(pattern) for pattern in announces]
    lines = (line for line in log.splitlines() if not _INNOCENT.search(line))
    return [line for line in lines if not any(pattern.search(line) for pattern in known)]


def _counted(load: Load) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(load.kinds().items())) or "none"


def _short(value: float) -> float:
    return round(value, 3)


def _stat(pid: int | str) -> list[str]:
    """Return the fields of proc(5) stat behind the command's name: state, parent, group, session …; none if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return []


def _stats() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and (stat := _stat(path.name)):
            yield int(path.name), stat


def _session(leader: int) -> list[int]:
    return [pid for pid, stat in _stats() if int(stat[3]) == leader and stat[0] != "Z"]


def _describe(pid: int) -> str:
    """Return what a process is and where it waits: what there is to say of it when it should not be there."""
    try:
        command, where = (Path(f"/proc/{pid}/{name}").read_text("utf-8", "replace") for name in ("cmdline", "wchan"))
    except OSError:
        return f"pid {pid}, gone by now"
    state, parent = [*_stat(pid), "?", "?"][:2]
    return f"pid {pid} state {state} parent {parent} waits in {where}: {command.replace(chr(0), ' ')[:60]}"


def _zombies(leader: int) -> list[int]:
    return [pid for pid, stat in _stats() if int(stat[3]) == leader and stat[0] == "Z"]


def _children(pid: int) -> list[int]:
    return [child for child, stat in _stats() if int(stat[1]) == pid]


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open for longer than it takes to answer `prefork status`."""
    fewest = _descriptors(pid)
    for _ in range(10):
        time.sleep(0.005)
        fewest = min(fewest, _descriptors(pid))
    return fewest


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_seconds(pid: int) -> float:
    """Return the processor time, user and system, that a process has had."""
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def starved_ms(pids: Iterable[int]) -> float:
    """Return how long these processes have waited for a processor while they could run, in milliseconds."""
    waited = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            waited += int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1])
    return waited / 1e6


# The table. -----------------------------------------------------------------------------------------------------------


def row_of(name: str) -> Row:
    """Return the empty row of a test, by its name."""
    match = _NAME.fullmatch(name)
    assert match is not None, f"{name} names no row: test_row_NN_what_happens"
    fault = match["fault"].replace("_", " ") + (f" {match['case']}" if match["case"] else "")
    return Row(match["row"].lstrip("0") if match["row"] else "-", fault)


def report(reporter: pytest.TerminalReporter, path: Path) -> None:
    """Print the table of this session's rows and write it as JSON."""
    rows = []
    for outcome in ("passed", "failed", "error", "skipped"):
        for one in reporter.stats.get(outcome, []):
            found = dict(getattr(one, "user_properties", ())).get("scorecard")
            if found is not None and (one.when == "call" or outcome == "error"):
                verdict = {"passed": "pass", "skipped": "skipped"}.get(outcome, "FAIL")
                rows.append({**found, "verdict": verdict, "seconds": round(one.duration, 1), "why": _why(one)})
    if not rows:
        return
    rows.sort(key=lambda row: (row["row"] == "-", int(row["row"]) if row["row"].isdigit() else 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    reporter.write_sep("=", "reliability scorecard")
    for row in rows:
        form = f" ({row['form']})" if row["form"] else ""
        reporter.write_line(f"{row['row']:>3}  {row['fault']}{form}: {row['verdict']}, {row['seconds']:g} s")
        for figure in row["figures"]:
            limit = f"  limit {figure['limit']}" if figure["limit"] else ""
            wrong = "" if figure["ok"] else "  <-- FAIL"
            reporter.write_line(f"       {figure['what']:<44} {figure['value']!s:>12}{limit}{wrong}")
        if row["why"]:
            reporter.write_line(f"       {row['why']}")
    passed = sum(row["verdict"] == "pass" for row in rows)
    reporter.write_line(f"{passed} of {len(rows)} rows pass; as JSON in {path}")


def _why(one: pytest.TestReport) -> str:
    """Return why a row failed or was skipped, in one line."""
    if one.outcome == "passed" or one.longrepr is None:
        return ""
    if isinstance(one.longrepr, tuple):
        return one.longrepr[2]
    crash = getattr(one.longrepr, "reprcrash", None)
    return str(crash.message if crash else one.longrepr).partition("\n")[0][:300]
