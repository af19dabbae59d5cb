"""Scenarios whose server has to defend itself, and the same against servers that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from prefork_loadtest.needs import make_certificate
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Any]

BRIEF = ("--users", "9", "--rate", "20", "--duration", "4", "--report", "report")
LINES = "prefork_loadtest.targets:lines"


@pytest.mark.parametrize("scenario", ["slowloris", "slow-reader", "half-open", "big"])
def test_attacks_meet_a_limit_and_normal_users_notice_nothing(start: Run, scenario: str) -> None:
    outcome = start("run", scenario, *BRIEF).end()
    assert outcome.code == 0, outcome
    assert outcome.figures("hostile")["requests"] > 0
    assert outcome.figures("steady")["failed"] == 0


@pytest.mark.parametrize("scenario", ["slowloris", "slow-reader", "half-open"])
def test_a_server_without_a_deadline_fails_the_gate_on_attacks(start: Run, tmp_path: Path, scenario: str) -> None:
    patient = ("--frame-timeout", "60", "--write-timeout", "60")
    with Server(LINES, "--workers", "1", *patient, tmp_path=tmp_path) as server:
        host, port = server.address
        outcome = start("run", scenario, "--host", f"tcp://{host}:{port}", *BRIEF, "--reply-timeout", "1").end()
    assert outcome.code == 1, outcome
    assert "gate hostile.failed == 0" in outcome.out
    assert outcome.figures("steady")["failed"] == 0


def test_a_server_that_closes_what_is_idle_fails_its_gate(start: Run, tmp_path: Path) -> None:
    with Server(LINES, "--workers", "1", "--idle-timeout", "1", tmp_path=tmp_path) as server:
        host, port = server.address
        outcome = start("run", "idle", "--host", f"tcp://{host}:{port}", *BRIEF, "--duration", "6").end()
    assert outcome.code == 1, outcome
    assert "gate hostile.failed == 0" in outcome.out


def test_a_limit_that_is_larger_than_was_said_is_a_wrong_answer(start: Run, tmp_path: Path) -> None:
    (tmp_path / "lax.py").write_text(
        "from prefork import Lines, reply\n\n\n"
        "@reply(Lines(max_length=9000))\ndef service(line: bytes) -> bytes:\n    return line\n"
    )
    with Server("lax:service", "--workers", "1", tmp_path=tmp_path, cwd=tmp_path) as server:
        host, port = server.address
        outcome = start("run", "big", "--host", f"tcp://{host}:{port}", *BRIEF).end()
    assert outcome.code == 3, outcome


def test_a_service_that_never_says_that_it_is_full_fails_the_overload(start: Run, tmp_path: Path) -> None:
    with Server(LINES, "--workers", "1", tmp_path=tmp_path) as server:
        host, port = server.address
        outcome = start("run", "overload", "--host", f"tcp://{host}:{port}", "--users", "8", *BRIEF[2:]).end()
    assert outcome.code == 1, outcome
    assert "gate overload.busy > 0" in outcome.out


@pytest.mark.parametrize("scenario", ["tls", "oracle", "fragmentation", "churn"])
def test_other_ways_to_ask_find_their_answers_right_and_are_all_counted(start: Run, scenario: str) -> None:
    outcome = start("run", scenario, "--users", "6", "--rate", "20", "--duration", "2", "--report", "report").end()
    assert outcome.code == 0, outcome
    assert outcome.figures()["sent"] == outcome.figures()["served"] > 0


def test_a_certificate_that_nobody_vouches_for_is_refused(start: Run, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    files = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    load = ("--users", "2", "--duration", "1", "--report", "report")
    with Server(LINES, "--workers", "1", *files, tmp_path=tmp_path) as server:
        host, port = server.address
        address = ("--host", f"tcp://{host}:{port}")
        trusted = start("run", "tls", *address, *load, "--tls-ca", str(tmp_path / "cert.pem")).end()
        assert trusted.code == 0, trusted
        outcome = start("run", "tls", *address, *load).end()
    assert outcome.code == 10, outcome
    assert set(outcome.failures) == {"refused"}


def test_a_fault_of_the_command_line_is_struck_in_its_phase(start: Run) -> None:
    load = ("--users", "8", "--rate", "20", "--duration", "5", "--report", "report")
    outcome = start("run", "steady", *load, "--fault", "hup@1", "--fault", "ttin@3.5").end()
    assert outcome.code == 0, outcome
    assert outcome.figures("reload")["struck"] == 1
    assert "ok    reload.failed == 0" in outcome.out
    assert outcome.figures("ttin")["struck"] == 1


def test_a_gate_on_a_phase_that_the_run_will_not_have_is_refused_before_it(start: Run, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text('gates = ["spike.recovery_s < 5"]\n', "utf-8")
    outcome = start("run", "steady", "--gates", "gates.toml").end()
    assert outcome.code == 2, outcome
    assert "no phase 'spike'" in outcome.err
