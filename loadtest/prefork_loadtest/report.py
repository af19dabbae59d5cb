"""The report of a run in one folder: index.html for a person, report.json, requests.csv and junit.xml for programs.

All four are drawn from the same record, so that they cannot disagree.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from prefork_loadtest import figures, page

if TYPE_CHECKING:
    from pathlib import Path

    from prefork_loadtest.record import Record
    from prefork_loadtest.verdict import Verdict

COLUMNS = (
    *("phase", "name", "requests", "failed", "reopened", "rate"),
    *("p50_us", "p90_us", "p99_us", "p999_us", "max_us"),
    *("p50_intended_us", "p90_intended_us", "p99_intended_us", "p999_intended_us", "max_intended_us"),
)


def write(record: Record, verdict: Verdict, folder: Path) -> Path:
    """Write the whole report and return the path of its page.

    Raises:
        OSError: the folder cannot be written to.
    """
    index = folder / "index.html"
    for path, text in (
        (folder / "report.json", json.dumps(table(record, verdict), indent=1)),
        (folder / "requests.csv", requests_csv(record)),
        (folder / "junit.xml", junit(record, verdict)),
        (index, page.draw(record, verdict)),
    ):
        path.write_text(text, encoding="utf-8")
    return index


def table(record: Record, verdict: Verdict) -> dict[str, Any]:
    """The verdict and its figures as plain data, with the record they come from."""
    return {
        "verdict": {
            "code": verdict.code.value,
            "name": verdict.code.name.lower(),
            "headline": verdict.headline,
            "reasons": list(verdict.reasons),
            "gates": [
                {"gate": result.gate, "passed": result.passed, "detail": result.detail} for result in verdict.results
            ],
        },
        "figures": record.figures(),
        "failures": dict(record.books().total().failures),
        "example": record.books().example,
        "record": record.encode(),
    }


def requests_csv(record: Record) -> str:
    """One line for each phase and name; a cell without a measurement is empty."""
    books = record.books()
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for phase, seconds in record.durations.items():
        for name, row in books.by_name(phase).items():
            writer.writerow({"phase": phase, "name": name, **figures.of_row(row, seconds)})
    return text.getvalue()


def junit(record: Record, verdict: Verdict) -> str:
    """A test suite: one case for the run as a whole, one for each gate; every figure is a property."""
    if verdict.unavailable:
        return _skipped(record, verdict)
    cases = [("the run is valid and every answer right", verdict.code.value in {0, 1}, "; ".join(verdict.reasons))]
    cases += [(result.gate, result.passed, result.detail) for result in verdict.results]
    failed = sum(not passed for _, passed, _ in cases)
    seconds = f"{sum(record.durations.values()):.3f}"
    name = f"prefork-loadtest {record.scenario}"
    suite = ET.Element("testsuite", name=name, tests=str(len(cases)), failures=str(failed), time=seconds)
    properties = ET.SubElement(suite, "properties")
    for phase, measured in record.figures().items():
        for figure, value in measured.items():
            ET.SubElement(properties, "property", name=f"{phase}.{figure}", value=f"{value:.6g}")
    for case, passed, detail in cases:
        element = ET.SubElement(suite, "testcase", classname=record.scenario, name=case)
        if not passed:
            ET.SubElement(element, "failure", message=detail)
    return _xml(suite)


def _skipped(record: Record, verdict: Verdict) -> str:
    """What could not be run is neither passed nor failed."""
    name = f"prefork-loadtest {record.scenario}"
    suite = ET.Element("testsuite", name=name, tests="1", failures="0", skipped="1", time="0")
    case = ET.SubElement(suite, "testcase", classname=record.scenario, name="the scenario is available")
    ET.SubElement(case, "skipped", message="; ".join(verdict.reasons))
    return _xml(suite)


def _xml(suite: ET.Element) -> str:
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
