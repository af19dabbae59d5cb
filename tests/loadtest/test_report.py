from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from prefork_loadtest import page, record, report, summary
from prefork_loadtest.balance import Share
from prefork_loadtest.failure import Failure
from prefork_loadtest.faults import Mark
from prefork_loadtest.ledger import DRAIN, KILL, RAMP, STEADY, Ledger, Sample
from prefork_loadtest.record import Record, Span

if TYPE_CHECKING:
    from pathlib import Path

START = 1_000_000.25


def a_record(failure: Failure | None = None) -> Record:
    ledger = Ledger()
    ledger.connect()
    for number in range(400):
        ledger.begin()
        phase = STEADY if number < 300 else KILL
        at = START + number / 100
        ledger.add(Sample("echo", phase, phase, at, 100.0 + number, 200.0 + number))
    ledger.begin()
    ledger.add(Sample("echo", KILL, KILL, START + 3, 1.0, failure=failure))
    return Record(
        scenario="smoke",
        target="tcp://<script>alert(1)</script>:7",
        started_at=START,
        settings={"users": "1"},
        machine={"python": "3"},
        gates=["steady.failed == 0", "kill.failed <= kill.in_flight"],
        reached=True,
        finished=True,
        spans=[Span(RAMP, 0, 0), Span(STEADY, 0, 3), Span(KILL, 3, 4), Span(DRAIN, 4, 4.1)],
        marks=[Mark(3.0, "kill -9 of worker 0")],
        faults={KILL: {"in_flight": 2.0, "replaced_s": 0.1}},
        shares=[Share(0, 10, 1, False, 2, 5, 300, 0), Share(0, 11, 1, True, 2, 5, 101, 0)],
        ledger=ledger.encode(),
    )


def test_the_page_needs_nothing_else_and_trusts_no_text() -> None:
    found = a_record()
    html = page.draw(found, found.verdict())
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://|<script", html)
    assert "&lt;script&gt;" in html
    assert html.count("<svg") == html.count("</svg>") == 4
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ET.fromstring(svg)  # noqa: S314 - our own drawing


def test_the_verdict_comes_first() -> None:
    found = a_record(Failure.UNEXPECTED_CLOSE)
    html = page.draw(found, found.verdict())
    body = html.partition("<body>")[2]
    assert body.index("Passed: every gate held") < body.index("<svg")


def test_a_run_without_a_sample_still_has_a_page() -> None:
    empty = Record("smoke", "tcp://127.0.0.1:7", START, {}, {}, ["steady.failed == 0"])
    html = page.draw(empty, empty.verdict())
    assert "never reached" in html
    assert "Nothing was measured." in html


def test_the_file_gives_the_same_verdict_again(tmp_path: Path) -> None:
    for failure in (None, Failure.UNEXPECTED_CLOSE, Failure.CROSS_TALK):
        before = a_record(failure)
        report.write(before, before.verdict(), tmp_path)
        after = record.load(tmp_path / "report.json")
        assert after.verdict() == before.verdict()
        assert summary.lines(after, after.verdict()) == summary.lines(before, before.verdict())


def test_a_table_line_for_each_phase_and_name() -> None:
    rows = list(csv.DictReader(io.StringIO(report.requests_csv(a_record(Failure.TIMEOUT)))))
    assert [(row["phase"], row["requests"], row["failed"]) for row in rows] == [
        ("steady", "300", "0"),
        ("kill", "101", "1"),
    ]
    assert float(rows[0]["p99_us"]) == 396.0
    assert float(rows[0]["p99_intended_us"]) == 496.0


def test_a_failed_gate_is_a_failed_test_case() -> None:
    found = a_record()
    found.gates = ["steady.failed == 0", "steady.p99_us < 10"]
    suite = ET.fromstring(report.junit(found, found.verdict()))  # noqa: S314 - our own file
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["steady.p99_us < 10"]
