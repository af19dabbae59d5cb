"""What makes a verdict worth something: three counts that agree, true times, and no way to pass by accident."""

from __future__ import annotations

import csv
import json
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from support.server import Server
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.conftest import Outcome

    Run = Callable[..., Any]

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
LOCUST = (sys.executable, "-m", "locust", "--headless", "--only-summary")
LINES = "prefork_loadtest.targets:lines"
RAISING = """
from prefork import Lines, reply

@reply(Lines())
def service(line: bytes) -> bytes:
    if {condition}:
        raise RuntimeError("this handler raises")
    return line
"""
NEVER = """
from prefork_loadtest.entry import USERS
from prefork_loadtest.users import TcpUser
from locust import task

class NeverUser(TcpUser):
    @task
    def nothing(self):
        pass
"""
BUSY = """
import time
from prefork_loadtest.own import Closed, Crew, Scenario

class Busy(Closed):
    def request(self, number):
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass
        return number.encode()

    def is_right(self, request, answer):
        return answer == request

SCENARIO = Scenario("busy", "thinks with the processor", (Crew("Busy", 1),), ("steady.failed == 0",), think_s=0.001)
"""
BREAKING = """
from prefork_loadtest.own import Closed, Crew, Scenario

class Working(Closed):
    abstract = True

    def request(self, number):
        return number.encode()

    def is_right(self, request, answer):
        return answer == request

class Breaking(Working):
    calls = 0

    def METHOD(self, *given):
        Breaking.calls += 1
        if Breaking.calls == 4:
            raise RuntimeError("as asked")
        return super().METHOD(*given)

SCENARIO = Scenario("breaking", "its own code raises once", (Crew("Breaking", 1),), ("steady.failed == 0",), users=4)
"""
RECORDER = """
import atexit, json
from prefork_loadtest import entry
from prefork_loadtest.collector import _collectors
from locust import events

samples = []

@events.request.add_listener
def note(response_time, context, name, **_):
    phase = next(iter(_collectors.values())).phase
    samples.append((phase, name, response_time * 1000, context["intended_us"]))

atexit.register(lambda: open("samples.json", "w").write(json.dumps(samples)))
from prefork_loadtest.cli import main
main()
"""


def counts(outcome: Outcome) -> tuple[float, ...]:
    """Requests begun by the workers, finished, merged by the master, sent on the wire, counted by the server."""
    ledger, figures = outcome.table["record"]["ledger"], outcome.figures()
    return ledger["begun"], ledger["finished"], figures["requests"], figures["sent"], figures["served"]


def test_load_workers_master_and_server_count_the_same(start: Run) -> None:
    load = ("--users", "8", "--rate", "60", "--duration", "3", "--workers", "2", "--report", "report")
    outcome = start("run", "smoke", *load).end()
    assert outcome.code == 0, outcome
    assert len(set(counts(outcome))) == 1, counts(outcome)
    assert counts(outcome)[0] > 100


def test_a_request_that_somebody_else_made_is_noticed(start: Run, tmp_path: Path) -> None:
    with Server(LINES, "--workers", "1", tmp_path=tmp_path) as server:
        host, port = server.address
        load = ("--users", "4", "--rate", "20", "--duration", "3", "--control", server.control)
        verdicts = {}
        for count in ("frames", "off"):
            process = start(
                "run", "steady", "--host", f"tcp://{host}:{port}", *load, "--count", count, "--report", "off"
            )
            process.hear("users on")
            with socket.create_connection((host, port)) as sock:
                sock.sendall(b"somebody else\n")
                assert sock.recv(100) == b"somebody else\r\n"
            verdicts[count] = process.end()
    assert verdicts["frames"].code == 4, verdicts["frames"]
    assert "the counts differ" in verdicts["frames"].out
    assert verdicts["off"].code == 0, verdicts["off"]


def test_the_built_in_echo_knows_no_lines_and_is_compared_by_bytes(smoke: Run, tmp_path: Path) -> None:
    with Server("echo", "--workers", "2", tmp_path=tmp_path) as server:
        host, port = server.address
        outcome = smoke(f"tcp://{host}:{port}", "--control", server.control)
    assert outcome.code == 0, outcome
    assert outcome.figures()["sent"] == outcome.figures()["served"] > 0
    assert re.search(r"counted by the server   [\d,]+ bytes; [\d,]+ sent", outcome.out)


@pytest.mark.parametrize("condition", ["line[27:29] == b'05'", "True"], ids=["each fifth", "always"])
def test_a_handler_that_raises_is_a_failure_with_a_code_of_its_own(start: Run, tmp_path: Path, condition: str) -> None:
    (tmp_path / "raising.py").write_text(RAISING.format(condition=condition), "utf-8")
    with Server("raising:service", "--workers", "1", tmp_path=tmp_path, cwd=tmp_path) as server:
        host, port = server.address
        load = ("--users", "4", "--rate", "40", "--duration", "2", "--report", "report", "--control", server.control)
        outcome = start("run", "steady", "--host", f"tcp://{host}:{port}", *load).end()
    assert outcome.code == 11, outcome
    assert set(outcome.failures) == {"unexpected close"}
    failed = outcome.failures["unexpected close"]
    assert f"closed instead of an answer; the server counts {failed} errors" in outcome.out


@pytest.mark.parametrize(("method", "workers"), [("request", "0"), ("is_right", "1"), ("on_start", "0")])
def test_a_load_user_that_raises_has_a_code_of_its_own(
    start: Run, peer: Run, tmp_path: Path, method: str, workers: str
) -> None:
    (tmp_path / "breaking.py").write_text(BREAKING.replace("METHOD", method), "utf-8")
    with peer("echo") as host:
        load = ("--duration", "1", "--workers", workers, "--report", "off")
        outcome = start("run", "breaking.py", "--host", host, *load).end()
    assert outcome.code == 12, outcome
    assert "a load user raised" in outcome.out
    assert "as asked" in outcome.err


def test_a_run_without_a_request_proves_nothing(start: Run, peer: Run, tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text(NEVER, "utf-8")
    with peer("echo") as host:
        outcome = start("-f", "never.py", "--host", host, "-u", "1", "-t", "1s", "NeverUser", command=LOCUST).end()
    assert outcome.code == 6, outcome
    assert "no request was made" in outcome.out


def test_a_generator_without_room_is_invalid(start: Run, tmp_path: Path) -> None:
    # Its own users leave it none: a mere rate is as likely to be more than the server can do.
    (tmp_path / "busy.py").write_text(BUSY, "utf-8")
    outcome = start("run", "busy.py", "--duration", "4", "--report", "report").end()
    assert outcome.code == 9, outcome
    assert "generator saturated: its loop had no room left" in outcome.out


def test_a_generator_that_stood_still_is_invalid(start: Run) -> None:
    process = start("run", "steady", "--users", "4", "--rate", "20", "--duration", "6", "--report", "report")
    process.hear("requests")
    process.popen.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: time.monotonic() - stopped > 3, what="the generator has stood still for three seconds")
    process.popen.send_signal(signal.SIGCONT)
    outcome = process.end()
    assert outcome.code == 9, outcome
    assert "generator saturated: its loop stood still" in outcome.out


def test_a_load_worker_of_somebody_else_that_dies_makes_the_run_invalid(start: Run, peer: Run) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    with peer("echo") as host:
        bind = ("--external-workers", "2", "--bind", f"127.0.0.1:{port}")
        process = start("run", "smoke", "--host", host, "--users", "4", "--duration", "60", "--report", "report", *bind)
        worker = ("-f", str(LOCUSTFILE), "--worker", "--master-host", "127.0.0.1", "--master-port", port)
        workers = [start(*worker, command=(sys.executable, "-m", "locust")) for _ in range(2)]
        process.hear(" requests ")
        workers[0].popen.kill()
        outcome = process.end()
    assert outcome.code == 7, outcome
    assert "a load worker was lost" in outcome.out


def rank(samples: list[float], percent: float) -> float:
    return sorted(samples)[max(0, -int(-percent * len(samples) // 100) - 1)]


def test_percentiles_are_those_of_the_raw_samples_in_every_output(start: Run, peer: Run, tmp_path: Path) -> None:
    load = ("--users", "4", "--rate", "200", "--duration", "5", "--report", "report")
    with peer("varied") as host:
        outcome = start("run", "steady", "--host", host, *load, command=(sys.executable, "-c", RECORDER)).end()
    raw = [tuple(sample) for sample in json.loads((tmp_path / "samples.json").read_text("utf-8"))]
    assert len(raw) == outcome.figures()["requests"] > 800
    whole = {"": [sample[2] for sample in raw], "_intended": [sample[3] for sample in raw]}
    steady = [sample[2] for sample in raw if sample[0] == "steady"]

    def close(value: float, samples: list[float], percent: float) -> None:
        assert value == pytest.approx(rank(samples, percent), rel=0.01, abs=1)

    suite = ET.parse(outcome.report / "junit.xml").getroot()  # noqa: S314 - our own file
    junit = {item.attrib["name"]: float(item.attrib["value"]) for item in suite.iter("property")}
    with (outcome.report / "requests.csv").open(encoding="utf-8", newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["phase"] == "steady"]
    page = (outcome.report / "index.html").read_text("utf-8")
    console = re.findall(r"p50 ([\d,]+) us   p90 ([\d,]+) us   p99 ([\d,]+) us   max ([\d,]+) us", outcome.out)
    for place, (name, percent) in enumerate({"p50": 50, "p90": 90, "p99": 99, "max": 100}.items()):
        for number, (kind, samples) in enumerate(whole.items()):
            close(outcome.figures()[f"{name}{kind}_us"], samples, percent)
            close(junit[f"run.{name}{kind}_us"], samples, percent)
            close(float(console[number][place].replace(",", "")), samples, percent)
        close(float(row[f"{name}_us"]), steady, percent)
    for name, percent in {"p50": 50, "p99": 99, "slowest": 100}.items():
        value, unit = re.search(rf"<b>([\d.]+) (µs|ms|s)</b><span>{name}</span>", page).groups()  # type: ignore[union-attr]
        close(float(value) * {"µs": 1, "ms": 1e3, "s": 1e6}[unit], whole[""], percent)
