from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from prefork_loadtest import suite
from prefork_loadtest.scenarios import SCENARIOS, SUITES, Suite
from prefork_loadtest.suite import Outcome, whole
from prefork_loadtest.verdict import UNAVAILABLE, Code

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Any]

FEW = Suite("few", "two of them", ("steady", "proxy"))


def outcome(code: Code | None) -> Outcome:
    return Outcome("steady", code, "", (), 1.0)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((Code.PASSED, Code.PASSED), Code.PASSED),
        ((Code.PASSED, None), Code.PASSED),
        ((Code.PASSED, Code.GATE_FAILED), Code.GATE_FAILED),
        ((Code.GATE_FAILED, Code.INVALID), Code.INVALID),
        ((Code.INVALID, Code.INTERRUPTED), Code.INTERRUPTED),
        ((Code.SATURATED, Code.WORKER_LOST), Code.WORKER_LOST),
        ((Code.INVALID, Code.WRONG_ANSWERS), Code.WRONG_ANSWERS),
        ((Code.NEVER_REACHED, Code.PASSED), Code.NEVER_REACHED),
        ((None, None), Code.INVALID),
        ((Code.PASSED,), Code.INVALID),
        ((), Code.INVALID),
    ],
)
def test_a_suite_is_as_good_as_its_worst_and_what_did_not_run_has_not_passed(
    codes: tuple[Code | None, ...], expected: Code
) -> None:
    assert whole([outcome(code) for code in codes], 2) is expected


def test_full_has_every_scenario() -> None:
    assert set(SUITES["full"].scenarios) == set(SCENARIOS)
    assert sum(SCENARIOS[name].duration_s + 5 for name in SUITES["full"].scenarios) < 600


def test_a_run_without_a_report_of_its_own_has_not_passed(tmp_path: Path) -> None:
    assert suite._read("steady", tmp_path, 0, 1.0).code is Code.INVALID
    (tmp_path / "report.json").write_text(json.dumps({"verdict": {"code": 0, "headline": "", "reasons": []}}), "utf-8")
    assert suite._read("steady", tmp_path, 0, 1.0).code == 0
    assert suite._read("steady", tmp_path, 1, 1.0).code == 1
    assert suite._read("steady", tmp_path, -9, 1.0).code is Code.INVALID


def test_every_built_in_service_is_run_and_reported(start: Run) -> None:
    left_out = "echo,discard,daytime,time,chargen"
    done = start("run", "services", "--without", left_out, "--report", "report").end()
    assert done.code == 0, done
    assert "ok    greet" in done.out
    assert "left  echo" in done.out
    table = json.loads((done.report / "suite.json").read_text("utf-8"))
    assert [each["code"] for each in table["scenarios"]] == [None, None, None, None, 0, None, 0]
    suites = ET.parse(done.report / "junit.xml").getroot()  # noqa: S314 - our own file
    assert [each.attrib["failures"] for each in suites] == ["0", "0"]
    assert 'href="greet/index.html"' in (done.report / "index.html").read_text("utf-8")


def test_what_cannot_be_written_is_no_pass_and_the_verdict_is_said(start: Run, tmp_path: Path) -> None:
    (tmp_path / "report" / "index.html").mkdir(parents=True)
    (tmp_path / "report" / "greet").write_text("no folder", "utf-8")
    done = start("run", "services", "--without", "discard,daytime,time,chargen", "--report", "report").end()
    assert done.code == 4, done
    assert "ok    echo" in done.out
    assert "FAIL  greet" in done.out
    assert "report/greet: File exists" in done.out
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1] == "prefork-loadtest: report 'report': Is a directory; it is not whole"


def test_what_is_not_available_is_named_and_never_passes(start: Run) -> None:
    done = start("run", "rolling", "--report", "report", PATH="/nowhere").end()
    assert done.code == 4, done
    assert UNAVAILABLE in done.out
    assert "no haproxy" in done.out
    case = ET.parse(done.report / "junit.xml").getroot().find("testcase")  # noqa: S314 - our own file
    assert case is not None
    assert case.find("skipped") is not None
