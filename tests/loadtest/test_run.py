"""Whole runs of the smoke scenario, small, against servers that behave and servers that do not."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prefork_loadtest.scenarios import SCENARIOS, SUITES
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Any]

BUSY = ("--users", "16", "--rate", "200", "--duration", "3")


LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
LOCUST = (sys.executable, "-m", "locust", "-f", str(LOCUSTFILE))


def free_port() -> int:
    """Both sides have to be told the port before either of them runs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def load_workers(pid: int) -> list[int]:
    """The Locust workers that a run has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [int(child) for child in children if b"--worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_good_echo_passes_and_leaves_the_whole_report(smoke: Run, peer: Run) -> None:
    with peer("echo") as host:
        outcome = smoke(host)
    assert outcome.code == 0, outcome
    assert "VERDICT  passed" in outcome.out
    assert outcome.figures()["failed"] == 0
    assert {path.name for path in outcome.report.iterdir()} == {
        "index.html",
        "report.json",
        "requests.csv",
        "junit.xml",
    }
    assert {row["name"] for row in [outcome.row("steady", name) for name in ("echo", "echo open", "echo churn")]}


def test_one_wrong_answer_in_a_thousand_is_found_and_named(smoke: Run, peer: Run) -> None:
    with peer("wrong:1000") as host:
        outcome = smoke(host, *BUSY)
    assert outcome.code == 3, outcome
    assert 1 <= outcome.failures["wrong answer"] == outcome.figures()["requests"] // 1000
    assert f"because  {outcome.failures['wrong answer']} of" in outcome.out
    assert "requests: wrong answer" in outcome.out
    example = outcome.table["example"]
    assert example["asked"].startswith("b'PF1 ")
    assert example["expected"] != example["came"]
    assert f"  expected {example['expected']}\n  came     {example['came']}\n" in outcome.out


@pytest.mark.parametrize("behaviour", ["crossed:100", "swapped:100", "stale:10"])
def test_an_answer_to_another_request_is_cross_talk(smoke: Run, peer: Run, behaviour: str) -> None:
    with peer(behaviour) as host:
        outcome = smoke(host)
    assert outcome.code == 3, outcome
    # An answer that is held back for an exchange when the load ends is never given: that one request times out.
    assert set(outcome.failures) - ({"timeout"} if behaviour == "swapped:100" else set()) == {"cross-talk"}
    assert outcome.failures.get("timeout", 0) <= 1
    assert "requests: cross-talk" in outcome.out


def test_an_answer_that_comes_twice_is_wrong(smoke: Run, peer: Run) -> None:
    with peer("duplicated:50") as host:
        outcome = smoke(host)
    assert outcome.code == 3, outcome
    assert set(outcome.failures) == {"wrong answer"}


def test_an_answer_that_comes_too_late_is_a_timeout_and_nobody_elses_answer(smoke: Run, peer: Run) -> None:
    with peer("delayed:40:2") as host:
        outcome = smoke(host, "--reply-timeout", "0.7")
    assert outcome.code == 1, outcome
    assert set(outcome.failures) == {"timeout"}


def test_one_wrong_answer_in_a_hundred_thousand_is_found(start: Run, peer: Run) -> None:
    load = ("--users", "32", "--rate", "10", "--report", "report")
    with peer("wrong:100000") as host:
        process = start("run", "pipelining", "--host", host, "--duration", "110", *load)
        process.hear(" 1 failed")
        process.popen.send_signal(signal.SIGINT)
        outcome = process.end()
    assert outcome.code == 3, outcome
    assert outcome.failures == {"wrong answer": 1}


@pytest.mark.parametrize(
    ("behaviour", "failure", "code"), [("truncated:50", "truncated", 1), ("dropped:50", "unexpected close", 11)]
)
def test_a_lost_answer_fails_its_gate_under_its_own_name(
    smoke: Run, peer: Run, behaviour: str, failure: str, code: int
) -> None:
    with peer(behaviour) as host:
        outcome = smoke(host, "--duration", "1")
    assert outcome.code == code, outcome
    assert set(outcome.failures) == {failure}
    assert "gate steady.failed == 0" in outcome.out


def test_a_server_that_keeps_no_connection_is_found_out(smoke: Run, peer: Run) -> None:
    with peer("closing") as host:
        outcome = smoke(host, "--duration", "1")
    assert outcome.code == 1, outcome
    assert outcome.figures("steady")["reopened"] > 0
    assert "gate steady.reopened == 0" in outcome.out


def test_nothing_listening_is_never_reached(smoke: Run) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # a port of ours on which nobody listens
        outcome = smoke(f"tcp://127.0.0.1:{sock.getsockname()[1]}", "--wait", "0.3")
    assert outcome.code == 5, outcome
    assert "never reached" in outcome.out


@pytest.mark.parametrize("scenario", ["smoke", "oracle"])  # the client package, and plain sockets beside it
def test_a_server_that_never_answers_proves_nothing(start: Run, peer: Run, scenario: str) -> None:
    load = ("--users", "8", "--duration", "1", "--reply-timeout", "0.5", "--report", "report")
    with peer("mute") as host:
        outcome = start("run", scenario, "--host", host, *load).end()
    assert outcome.code == 10, outcome
    assert set(outcome.failures) == {"timeout"}
    assert "no request got an answer" in outcome.out


def test_a_server_that_closes_every_connection_proves_nothing(smoke: Run, peer: Run) -> None:
    with peer("refusing") as host:
        outcome = smoke(host, "--duration", "1")
    assert outcome.code == 11, outcome
    assert set(outcome.failures) == {"unexpected close"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_invalid_and_still_reported(start: Run, peer: Run, number: signal.Signals) -> None:
    with peer("echo") as host:
        process = start("run", "smoke", "--host", host, "--users", "4", "--duration", "60", "--report", "report")
        process.hear("requests")
        process.popen.send_signal(number)
        outcome = process.end()
    assert outcome.code == 8, outcome
    assert "because  interrupted" in outcome.out
    assert outcome.figures()["requests"] > 0
    assert "Traceback" not in outcome.err


def test_a_stall_shows_from_the_intended_start_and_not_in_the_service_time(start: Run, peer: Run) -> None:
    with peer("stall:300:2") as host:
        load = ("--rate", "100", "--duration", "8", "--report", "report")
        outcome = start("run", "steady", "--host", host, *load).end()
    steady = outcome.figures("steady")
    # Two of eight seconds: of the requests that were due, one in four waited, up to two seconds.
    assert steady["p90_intended_ms"] > 500
    assert steady["p90_ms"] < 20
    assert steady["max_ms"] > 1500
    assert outcome.code == 1, outcome
    assert "gate steady.p99_intended_ms < 250" in outcome.out


def test_locust_workers_share_the_load_and_lose_no_sample(smoke: Run, peer: Run) -> None:
    with peer("echo") as host:
        outcome = smoke(host, "--processes", "2")
    assert outcome.code == 0, outcome
    record = outcome.table["record"]
    assert record["ledger"]["begun"] == record["ledger"]["finished"] == outcome.figures()["requests"]
    assert [name for name in record["load"] if name.startswith("load process")] == ["load process 1", "load process 2"]


def test_workers_that_somebody_else_starts_are_waited_for(start: Run, peer: Run) -> None:
    port = str(free_port())
    with peer("echo") as host:
        bind = ("--external-workers", "1", "--bind", f"127.0.0.1:{port}")
        process = start("run", "smoke", "--host", host, "--users", "4", "--duration", "1", "--report", "report", *bind)
        start("--worker", "--master-host", "127.0.0.1", "--master-port", port, command=LOCUST)
        outcome = process.end()
    assert outcome.code == 0, outcome
    assert "1 load workers connected" in outcome.err


def test_locust_workers_hand_a_wrong_answer_on(smoke: Run, peer: Run) -> None:
    with peer("wrong:10") as host:
        outcome = smoke(host, "--workers", "2")
    assert outcome.code == 3, outcome
    assert outcome.table["example"]["came"] in outcome.out


def test_a_load_worker_that_dies_makes_the_run_invalid(start: Run, peer: Run) -> None:
    with peer("echo") as host:
        process = start("run", "smoke", "--host", host, "--duration", "60", "--workers", "2", "--report", "off")
        process.hear("requests")
        workers = load_workers(process.popen.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        outcome = process.end()
    assert outcome.code == 7, outcome
    assert "a load worker was lost" in outcome.out


def test_a_killed_server_worker_costs_at_most_what_it_held(smoke: Run, tmp_path: Path) -> None:
    with Server("echo", "--workers", "2", tmp_path=tmp_path) as server:
        host, port = server.address
        options = ("--control", server.control, "--kill-worker-at", "1", "--duration", "4")
        outcome = smoke(f"tcp://{host}:{port}", *options)
    assert outcome.code == 0, outcome
    kill = outcome.figures("kill")
    assert kill["failed"] <= kill["in_flight"] > 0
    assert kill["replaced_s"] < 5
    shares = outcome.table["record"]["shares"]
    assert sorted(share["alive"] for share in shares) == [False, True, True]
    assert all(share["requests"] > 0 for share in shares)
    assert outcome.out.count("  worker ") == 3


def test_a_kill_that_cannot_be_carried_out_is_no_pass(smoke: Run, peer: Run, tmp_path: Path) -> None:
    with peer("echo") as host:
        outcome = smoke(host, "--control", str(tmp_path / "nobody.sock"), "--kill-worker-at", "1")
    assert outcome.code == 4, outcome
    assert "nobody.sock" in outcome.out


def test_gates_of_a_file_replace_the_scenarios(smoke: Run, peer: Run, tmp_path: Path) -> None:
    gates = tmp_path / "gates.toml"
    gates.write_text('gates = ["steady.p99_us < 1", "steady.failed == 0"]\n', "utf-8")
    with peer("echo") as host:
        outcome = smoke(host, "--gates", str(gates), "--duration", "1")
    assert outcome.code == 1, outcome
    assert "FAIL  steady.p99_us < 1" in outcome.out
    assert "ok    steady.failed == 0" in outcome.out


def test_json_is_all_that_standard_output_holds_and_can_be_judged_again(start: Run, peer: Run) -> None:
    with peer("echo") as host:
        options = ("--users", "4", "--duration", "1", "--report", "report", "--json")
        outcome = start("run", "smoke", "--host", host, *options).end()
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["verdict"]["name"] == "passed"
    again = start("verdict", "report").end()
    assert again.code == 0, again
    assert "VERDICT  passed" in again.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run", "smok"), "'smok'"),
        (("run", "smoke", "--host", "127.0.0.1"), "no port"),
        (("run", "smoke", "--host", "tcp://127.0.0.1:0"), "nothing to connect to"),
        (("run", "smoke", "--users", "0"), "--users"),
        (("run", "smoke", "--rate", "0"), "--rate"),
        (("run", "smoke", "--duration", "-1"), "--duration"),
        (("run", "smoke", "--duration", "nan"), "--duration"),
        (("run", "smoke", "--host", "tcp://127.0.0.1:9", "--kill-worker-at", "1"), "--control"),
        (("run", "smoke", "--fault", "hup"), "KIND@SECONDS"),
        (("run", "smoke", "--fault", "hup@99"), "before --duration"),
        (("run", "smoke", "--count", "bits"), "--count"),
        (("run", "smoke", "--count", "frames", "--host", "tcp://127.0.0.1:9"), "--control"),
        (("run", "tls", "--tls-ca", "missing.pem"), "No such file"),
        (("run", "tls", "--tls-ca", __file__), "no certificate"),
        (("run", "smoke", "--without", "tls"), "--without"),
        (("run", "full", "--host", "tcp://127.0.0.1:9"), "--host"),
        (("run", "full", "--without", "nothing"), "'nothing'"),
        (("run", "smoke", "--gates", "missing.toml"), "No such file"),
        (("run", "smoke", "--bind", "nowhere", "--external-workers", "1"), "HOST:PORT"),
        (("run", "smoke", "--report", "/proc/none"), "--report"),
        (("run", "smoke", "--no-such-option"), "--no-such-option"),
        (("verdict", "missing"), "No such file"),
        (("nothing",), "nothing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(start: Run, arguments: tuple[str, ...], complaint: str) -> None:
    outcome = start(*arguments).end()
    assert outcome.code == 2, outcome
    assert complaint in outcome.err
    assert len(outcome.err.splitlines()) == 1, outcome.err


def test_without_a_command_the_help_is_shown_as_with_help(start: Run) -> None:
    outcome, helped = start().end(), start("--help").end()
    assert (outcome.code, helped.code) == (2, 0), outcome
    assert outcome.err == helped.out
    assert "  1  a gate did not hold         7  a load worker was lost\n" in outcome.err
    assert "\b" not in outcome.err
    assert "\\" not in outcome.err


@pytest.mark.parametrize("log", ["text", "json"])
def test_a_server_that_does_not_start_is_told_with_its_error(start: Run, log: str) -> None:
    outcome = start("chaos", "nosuch:x", "--bind", "127.0.0.1:0", "--duration", "60", "--log-format", log).end()
    assert outcome.code == 5, outcome
    assert len(outcome.err.splitlines()) == 1, outcome
    assert "the server ended with exit code 3: " in outcome.err
    assert "cannot load 'nosuch:x': there is no module 'nosuch' here" in outcome.err


def test_a_report_that_cannot_be_written_is_no_pass_and_the_verdict_is_said(
    smoke: Run, peer: Run, tmp_path: Path
) -> None:
    (tmp_path / "report" / "index.html").mkdir(parents=True)
    with peer("echo") as host:
        outcome = smoke(host)
    assert outcome.code == 4, outcome
    assert "VERDICT  passed" in outcome.out
    assert outcome.err.splitlines()[-1] == "prefork-loadtest: report 'report': Is a directory; it is not whole"


def test_the_environment_gives_options_too(start: Run) -> None:
    outcome = start("run", "smoke", PREFORK_LOADTEST_USERS="none").end()
    assert outcome.code == 2, outcome
    assert "PREFORK_LOADTEST_USERS" in outcome.err


def test_list_has_a_line_for_each_scenario(start: Run) -> None:
    outcome = start("list").end()
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == [*SCENARIOS, *SUITES]
