"""Locust's own command line, with the users of the kit."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def free_port() -> int:
    """Locust's processes have to be told their port: 0 is not passed on to the workers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


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
    assert "wrong answer: the reply is not the one this request asks for" in outcome.err


def test_nothing_listening_is_not_exit_0(start: Run) -> None:
    outcome = start("--host", "tcp://127.0.0.1:1", "-u", "1", command=LOCUST).end()
    assert outcome.code == 5, outcome
    assert "refused" in outcome.out


def test_master_and_workers_lose_no_sample(start: Run, peer: Run) -> None:
    with peer("echo") as host:
        options = ("--host", host, "-u", "4", "-r", "4", "--processes", "2")
        port = str(free_port())
        ports = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port)
        outcome = start(*options, *ports, "OpenEchoUser", "ChurnUser", command=LOCUST).end()
    assert outcome.code == 0, outcome
    assert "echo open" in outcome.out
    assert "from the intended start" in outcome.out


def test_the_users_of_the_built_in_services_find_their_answers_right(start: Run, tmp_path: Path) -> None:
    # In one process: six that start at once leave none of them the processor that it needs to be believed.
    lines = ["from prefork_loadtest import entry"]
    with ExitStack() as stack:
        for service, user in SERVICES.items():
            folder = tmp_path / service
            folder.mkdir()
            server = stack.enter_context(Server(service, "--workers", "1", tmp_path=folder))
            host, port = server.address
            lines += [f"class {user}(entry.{user}):", f"    host = 'tcp://{host}:{port}'"]
        (tmp_path / "services.py").write_text("\n".join(lines), "utf-8")
        options = ("--headless", "--only-summary", "-t", "4s", "-u", "12", "-r", "12")
        outcome = start(*options, command=(sys.executable, "-m", "locust", "-f", "services.py")).end()
    assert outcome.code == 0, outcome
    for service in SERVICES:
        assert f"  {service}  " in outcome.out


def test_the_user_of_another_service_finds_its_answers_wrong(start: Run, tmp_path: Path) -> None:
    with Server("daytime", "--workers", "1", tmp_path=tmp_path) as server:
        host, port = server.address
        outcome = start("--host", f"tcp://{host}:{port}", "-u", "1", "TimeUser", command=LOCUST).end()
    assert outcome.code == 3, outcome
