from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from prefork_loadtest import faultplan, gates
from prefork_loadtest.faultplan import Kind
from prefork_loadtest.ledger import PHASES
from prefork_loadtest.scenarios import CHAOS, SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

FIGURES = {"steady": {"failed": 0.0, "p99_us": 900.0}, "kill": {"failed": 3.0, "in_flight": 4.0}}


def passed(text: str) -> bool:
    return gates.judge(gates.parse(text, PHASES), FIGURES).passed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steady.failed == 0", True),
        ("steady.failed != 0", False),
        ("steady.p99_us < 900", False),
        ("steady.p99_us <= 900", True),
        ("steady.p99_us > 899.5", True),
        ("steady.p99_us >= 901", False),
        ("kill.failed <= kill.in_flight", True),
        ("kill.failed>kill.in_flight", False),
        ("kill.failed >= 0.75 * kill.in_flight", True),
        ("kill.failed >= 0.8*kill.in_flight", False),
    ],
)
def test_comparisons(text: str, expected: bool) -> None:  # noqa: FBT001 - a table
    assert passed(text) is expected


@pytest.mark.parametrize("text", ["ramp.failed == 0", "steady.max_us < 9", "steady.failed <= 2 * kill.replaced_s"])
def test_what_was_not_measured_does_not_pass(text: str) -> None:
    result = gates.judge(gates.parse(text, PHASES), FIGURES)
    assert not result.passed
    assert "the run has no" in result.detail


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("steady.failed", "write it as"),
        ("steady.failed = 0", "write it as"),
        ("steady.failed == zero", "write it as"),
        ("stedy.failed == 0", "no phase 'stedy'"),
        ("steady.fails == 0", "no figure 'fails'"),
        ("steady.failed <= kill.held", "no figure 'held'"),
        ("steady.replaced_s < 1", "steady has no replaced_s"),
        ("kill.exit_code == 0", "kill has no exit_code"),
        ("steady.recovery_s < 1", "steady has no recovery_s"),
        ("steady.failed <= 2 * 3", "write it as"),
        ("", "write it as"),
    ],
)
def test_a_bad_gate_is_refused_in_one_line_that_names_it(text: str, complaint: str) -> None:
    with pytest.raises(gates.GateError, match=complaint) as caught:
        gates.parse(text, PHASES)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "at least one gate"),
        ("gates = []", "at least one gate"),
        ("gates = 'steady.failed == 0'", "at least one gate"),
        ("gates = ['steady.failed == 0']\nother = 1", "one key"),
        ("gates = [1]", "write it as"),
        ("gates = [", "gates file"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(content, "utf-8")
    with pytest.raises(gates.GateError, match=complaint):
        gates.load(path, PHASES)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gates.GateError, match="No such file"):
        gates.load(tmp_path / "none.toml", PHASES)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text('gates = [\n  "steady.failed == 0",\n  "run.p99_intended_ms < 20",\n]\n', "utf-8")
    assert [gate.text for gate in gates.load(path, PHASES)] == ["steady.failed == 0", "run.p99_intended_ms < 20"]


def test_the_scenarios_own_gates_can_be_read() -> None:
    for scenario in (*SCENARIOS.values(), CHAOS):
        for text in (*scenario.gates, *faultplan.gates(Kind)):
            gates.parse(text, PHASES)
