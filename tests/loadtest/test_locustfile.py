"""Locust's own command line, with the users of the kit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Any]

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
LOCUST = (sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", "-t", "2s")
SERVICES = {
    "discard": "DiscardUser",
    "daytime": "DaytimeUser",
    "time": "TimeUser",
    "qotd": "QotdUser",
    "chargen": "ChargenUser",
    "greet": "GreetUser",
}


def test_the_echo_proof_attacks_unless_another_user_is_named(start: Run, peer: Run) -> None:
    with peer("echo") as host:
        outcome = start("--host", host, "-u", "2", command=LOCUST).end()
    assert outcome.code == 0, outcome
    assert '"EchoUser": 2' in outcome.err
    assert "VERDICT  passed" in outcome.out


def test_wrong_answers_are_failures_of_locust_and_its_exit_code(start: Run, peer: Run) -> None:
    with peer("wrong:10") as host:
        outcome = start("--host", host, "-u", "2", command=LOCUST).end()
    assert outcome.code == 3, outcome
    assert "wrong answer: the reply is not the one this request asks for" in outcome.out


def test_nothing_listening_is_not_exit_0(start: Run) -> None:
    outcome = start("--host", "tcp://127.0.0.1:1", "-u", "1", command=LOCUST).end()
    assert outcome.code == 5, outcome
    assert "refused" in outcome.out


def test_master_and_workers_lose_no_sample(start: Run, peer: Run) -> None:
    with peer("echo") as host:
        options = ("--host", host, "-u", "4", "-r", "4", "--processes", "2", "--master-bind-host", "127.0.0.1")
        ports = ("--master-bind-port", "0")
        outcome = start(*options, *ports, "OpenEchoUser", "ChurnUser", command=LOCUST).end()
    assert outcome.code == 0, outcome
    assert "echo open" in outcome.out
    assert "from the intended start" in outcome.out


@pytest.mark.parametrize("service", SERVICES)
def test_the_user_of_a_built_in_service_finds_its_answers_right(start: Run, tmp_path: Path, service: str) -> None:
    with Server(service, "--workers", "1", tmp_path=tmp_path) as server:
        host, port = server.address
        options = ("--host", f"tcp://{host}:{port}", "-u", "2", "-r", "2", SERVICES[service])
        outcome = start(*options, command=LOCUST).end()
    assert outcome.code == 0, outcome
    assert "VERDICT  passed" in outcome.out


def test_the_user_of_another_service_finds_its_answers_wrong(start: Run, tmp_path: Path) -> None:
    with Server("daytime", "--workers", "1", tmp_path=tmp_path) as server:
        host, port = server.address
        outcome = start("--host", f"tcp://{host}:{port}", "-u", "1", "TimeUser", command=LOCUST).end()
    assert outcome.code == 3, outcome
