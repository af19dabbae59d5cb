"""Several scenarios one after another, each as a run of its own, and one verdict over all of them, fail-closed.

Each run is a process: what breaks one leaves the others alone, and Locust keeps nothing from one to the next.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import click

from prefork_loadtest.scenarios import SCENARIOS
from prefork_loadtest.verdict import HEADLINES, UNAVAILABLE, WORST_FIRST, Code, not_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from prefork_loadtest.scenarios import Suite

ROOM_S = 120.0
"""Seconds that a run may take beyond its duration: server, load workers, drain, and the server's own stop."""
COMMAND = (sys.executable, "-c", "from prefork_loadtest.cli import main; main()", "run")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one scenario; `code` is None where it was left out, as asked."""

    scenario: str
    code: int | None
    headline: str
    reasons: tuple[str, ...]
    seconds: float


def run(suite: Suite, left_out: Collection[str], folder: Path, workers: int, say: Callable[[str], None]) -> int:
    """Run a suite, write its reports, print its table and return the exit code of the whole.

    Args:
        suite: the scenarios.
        left_out: those that are not wanted; they are named in the table.
        folder: a folder for each scenario's report goes there, and the suite's own.
        workers: Locust workers for each run; 0 makes the load in one process.
        say: takes one line of progress at a time.
    """
    outcomes = []
    for number, name in enumerate(suite.scenarios, 1):
        if name in left_out:
            outcomes.append(Outcome(name, None, "left out, as asked", (), 0.0))
            continue
        say(f"{number}/{len(suite.scenarios)}  {name}: {SCENARIOS[name].summary}")
        outcomes.append(outcome := _one(name, folder / name, workers))
        say(f"    {outcome.headline}, {outcome.seconds:.0f} s")
        if outcome.headline == INTERRUPTED:
            break
    code = whole(outcomes, len(suite.scenarios))
    click.echo("\n".join(lines(suite, outcomes, code)))
    try:
        _write(suite, outcomes, code, folder)
    except OSError as error:  # a full disk; what the runs have shown has been said
        say(not_whole(folder, error))
        return code or Code.INVALID
    click.echo(f"report  {folder / 'index.html'}")
    return code


INTERRUPTED = "interrupted"


def whole(outcomes: Sequence[Outcome], planned: int) -> Code:
    """The code of the whole: the worst of all. What did not run has not passed, and nor has a suite without any."""
    codes = [Code(outcome.code) for outcome in outcomes if outcome.code is not None]
    if not codes or len(outcomes) < planned:
        codes.append(Code.INVALID)
    return min(codes, key=WORST_FIRST.index)


def _one(name: str, folder: Path, workers: int) -> Outcome:
    start = time.monotonic()
    try:
        folder.mkdir(exist_ok=True)
        (folder / "report.json").unlink(missing_ok=True)  # of an earlier run
        log_file = (folder / "run.log").open("wb")
    except OSError as error:
        return Outcome(name, Code.INVALID, "no report", (f"{error.filename}: {error.strerror}",), 0.0)
    command = [*COMMAND, name, "--report", str(folder), "--workers", str(workers)]
    with log_file as log, subprocess.Popen(command, stdout=log, stderr=log) as process:  # noqa: S603 - ours
        try:
            code = process.wait(SCENARIOS[name].duration_s + ROOM_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            return Outcome(name, Code.INVALID, "it did not end", (f"see {log.name}",), time.monotonic() - start)
        except KeyboardInterrupt:
            process.terminate()
            return Outcome(name, Code.INTERRUPTED, INTERRUPTED, (), time.monotonic() - start)
    return _read(name, folder, code, time.monotonic() - start)


def _read(name: str, folder: Path, code: int, seconds: float) -> Outcome:
    """What a run has left. A report that says another thing than the exit code is none."""
    try:
        verdict = json.loads((folder / "report.json").read_text("utf-8"))["verdict"]
    except (OSError, ValueError, KeyError):
        verdict = {"code": None}
    if verdict["code"] != code or code not in set(Code):
        worst = code if code in set(Code) and code != Code.PASSED else Code.INVALID
        return Outcome(name, worst, "no report", (f"exit code {code}; see {folder / 'run.log'}",), seconds)
    return Outcome(name, code, verdict["headline"], tuple(verdict["reasons"]), seconds)


def lines(suite: Suite, outcomes: Sequence[Outcome], code: Code) -> list[str]:
    """The table, line by line, the judgement first."""
    passed = sum(outcome.code == Code.PASSED for outcome in outcomes)
    text = [f"VERDICT  {suite.name}: {HEADLINES[code]} ({passed} of {len(suite.scenarios)} passed, exit {code.value})"]
    for outcome in outcomes:
        mark = "ok  " if outcome.code == Code.PASSED else "-   " if outcome.headline == UNAVAILABLE else "FAIL"
        mark = "left" if outcome.code is None else mark
        text.append(f"  {mark}  {outcome.scenario:<14} {outcome.seconds:5.0f} s  {outcome.headline}")
        text += [f"        because  {reason}" for reason in outcome.reasons]
    return text


def _write(suite: Suite, outcomes: Sequence[Outcome], code: Code, folder: Path) -> None:
    """The suite's own report: suite.json, one junit.xml of all, and a page that links theirs."""
    table = {"suite": suite.name, "code": code.value, "scenarios": [asdict(outcome) for outcome in outcomes]}
    (folder / "suite.json").write_text(json.dumps(table, indent=1), "utf-8")
    root = ET.Element("testsuites", name=f"prefork-loadtest {suite.name}")
    for outcome in outcomes:
        try:
            root.append(ET.parse(folder / outcome.scenario / "junit.xml").getroot())  # noqa: S314 - our own file
        except (OSError, ET.ParseError):
            if outcome.code is not None:
                case = ET.SubElement(
                    ET.SubElement(root, "testsuite", name=outcome.scenario), "testcase", name="a report"
                )
                ET.SubElement(case, "failure", message="; ".join(outcome.reasons))
    (folder / "junit.xml").write_text(ET.tostring(root, encoding="unicode"), "utf-8")
    (folder / "index.html").write_text(_page(suite, outcomes, code), "utf-8")


def _page(suite: Suite, outcomes: Sequence[Outcome], code: Code) -> str:
    from prefork_loadtest.page import TONES, table, whole_page  # noqa: PLC0415 - heavy, and only needed here

    rows = "".join(
        f'<tr><td class="{"ok" if outcome.code == Code.PASSED else "quiet" if outcome.code is None else "bad"}">'
        f'{escape(outcome.headline)}</td><td><a href="{outcome.scenario}/index.html">{outcome.scenario}</a></td>'
        f'<td class="number">{outcome.seconds:.0f} s</td>'
        f'<td class="wide quiet">{escape("; ".join(outcome.reasons) or SCENARIOS[outcome.scenario].summary)}</td></tr>'
        for outcome in outcomes
    )
    headline = HEADLINES[code][:1].upper() + HEADLINES[code][1:]
    body = (
        f'<header class="verdict {TONES.get(code, "invalid")}"><h1>{escape(headline)}</h1>'
        f"<p>{escape(suite.name)}: {escape(suite.summary)}, exit code {code.value}</p></header>"
        f"<section>{table(('', 'scenario', '#time', ''), rows)}</section>"
    )
    return whole_page(f"{headline} · {suite.name}", body)
