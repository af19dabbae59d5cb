"""A scenario for a service of one's own: written by `init`, changed in one line, run, and in Locust itself."""

from __future__ import annotations

import re
import sys
from html import escape
from typing import TYPE_CHECKING, Any

import pytest

from prefork_loadtest.init import FRAMINGS, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Any]

SHOUT = """
from prefork import Lines, reply

@reply(Lines())
def shout(line: bytes) -> bytes:
    return line.upper()
"""
LOAD = ("--users", "6", "--rate", "20", "--duration", "3", "--report", "report")
UNCHANGED, CHANGED = "return answer == request ", "return answer == request.upper() "


def change(path: Path, old: str, new: str) -> None:
    written = path.read_text("utf-8")
    assert written.count(old) == 1
    path.write_text(written.replace(old, new), "utf-8")


def test_what_init_writes_is_wrong_until_it_is_changed_and_right_then(start: Run, tmp_path: Path) -> None:
    (tmp_path / "shouting.py").write_text(SHOUT, "utf-8")
    assert start("init", "load.py", "--target", "shouting:shout").end().code == 0
    wrong = start("run", "load.py", *LOAD).end()
    assert wrong.code == 3, wrong
    assert set(wrong.failures) == {"wrong answer"}
    assert "because  no right answer\n" in wrong.out
    example = wrong.table["example"]
    assert re.fullmatch(r"b'hello \d+'", example["asked"])
    assert (example["came"], example["expected"]) == (example["asked"].replace("hello", "HELLO"), None)
    for name in ("asked", "came"):
        assert f"  {name:<9}{example[name]}\n" in wrong.out
    assert "expected what the scenario's own check takes for right" in wrong.out
    assert escape(example["came"]) in (wrong.report / "index.html").read_text("utf-8")
    assert re.search(r"failed  p50 -  p99 -$", wrong.err, re.MULTILINE), wrong.err
    change(tmp_path / "load.py", UNCHANGED, CHANGED)
    right = start("run", "load.py", *LOAD, "--workers", "2").end()
    assert right.code == 0, right
    assert right.table["example"] is None
    assert right.figures()["sent"] == right.figures()["served"] > 0
    rows = {row for rows in right.table["record"]["ledger"]["phases"].values() for row in rows}
    assert rows == {"load", "load open", "load churn"}


def test_it_runs_against_any_server_and_in_locust_itself(start: Run, peer: Run) -> None:
    assert start("init", "load.py").end().code == 0
    refused = start("run", "load.py", *LOAD).end()
    assert refused.code == 2, refused
    assert "give --host" in refused.err
    with peer("echo") as host:
        done = start("run", "load.py", "--host", host, *LOAD).end()
        assert done.code == 0, done
        locust = (sys.executable, "-m", "locust", "-f", "load.py", "--headless", "--only-summary")
        users = ("--host", host, "-u", "3", "-t", "2s")
        done = start(*users, command=locust).end()
    assert done.code == 0, done
    assert "load churn" in done.out


def test_another_requests_answer_is_found(start: Run, peer: Run) -> None:
    start("init", "load.py").end()
    with peer("crossed:20") as host:
        outcome = start("run", "load.py", "--host", host, *LOAD).end()
    assert outcome.code == 3, outcome


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("target", [None, "app:service"])
def test_every_file_it_writes_is_python_and_says_what_to_change(framing: str, target: str | None) -> None:
    written = text("load", framing, target)
    compile(written, "load.py", "exec")
    assert written.count("# CHANGE") == 4
    assert FRAMINGS[framing] in written


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "it has no SCENARIO"),
        ("1 +", "SyntaxError"),
        ("raise ValueError('no')", "ValueError: no"),
        ("from prefork_loadtest.own import *\nSCENARIO = Scenario('x', 'y', (Crew('Nobody', 1),), ())", "'Nobody'"),
        (text("load", "lines", None).replace("steady.p99_intended_ms", "steady.p98_ms"), "p98_ms"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_in_one_line(
    start: Run, tmp_path: Path, content: str, complaint: str
) -> None:
    (tmp_path / "load.py").write_text(content, "utf-8")
    outcome = start("run", "load.py", "--host", "tcp://127.0.0.1:9", *LOAD).end()
    assert outcome.code == 2, outcome
    assert complaint in outcome.err
    assert len(outcome.err.splitlines()) == 1, outcome.err


def test_init_overwrites_nothing(start: Run, tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text("mine", "utf-8")
    outcome = start("init", "load.py").end()
    assert outcome.code == 2, outcome
    assert (tmp_path / "load.py").read_text("utf-8") == "mine"
    assert start("run", "missing.py").end().code == 2
