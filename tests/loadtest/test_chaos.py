"""Whole chaos runs. The long one is the short form of `make chaos`: every kind of fault once, seeded, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prefork_loadtest.census import Census, Local, look
from prefork_loadtest.control import ControlError, Status
from prefork_loadtest.failure import Failure
from prefork_loadtest.faultplan import Kind
from prefork_loadtest.proof import Probe
from prefork_loadtest.reach import Here
from prefork_loadtest.server import OwnServer, is_error
from support.server import Server
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Any]

SHORT = ("--seed", "1", "--duration", "30")
# One user keeps the rate: with less than a quarter of a second between its requests it would keep a retiring worker as
# long as it may.
BRIEF = ("--users", "6", "--rate", "4", "--report", "report")


def test_a_minute_of_everything_loses_nothing_but_what_a_killed_worker_held(start: Run) -> None:
    outcome = start("chaos", "echo", "--workers", "3", *SHORT, "--report", "report").end()
    assert outcome.code == 0, outcome
    figures = outcome.table["figures"]
    for kind in Kind:
        assert figures[kind.phase]["struck"] == 1, outcome
        assert f"{kind.value} settled after" in outcome.err
    texts = [mark["text"] for mark in outcome.table["record"]["marks"]]
    assert all(text in outcome.err for text in texts)
    page = (outcome.report / "index.html").read_text("utf-8")
    assert page.count('class="lane"') == len(Kind)
    assert "seed 1" in outcome.table["record"]["settings"]["faults"]


def test_a_server_that_runs_is_found_by_its_control_socket_and_left_running(start: Run, tmp_path: Path) -> None:
    faults = ("--faults", "usr2,kill,hup", "--duration", "14", "--seed", "5")
    with Server("echo", "--workers", "2", tmp_path=tmp_path) as server:
        first = server.status()["pid"]
        outcome = start("chaos", "--control", server.control, *faults, *BRIEF).end()
        assert outcome.code == 0, outcome
        after = server.status()
        assert (after["state"], len(after["workers"])) == ("running", 2)
        assert after["pid"] != first == server.process.pid
        assert server.process.poll() is None


def test_a_service_that_is_no_echo_is_asked_by_a_probe(start: Run, tmp_path: Path) -> None:
    (tmp_path / "shouting.py").write_text(
        "from prefork import Lines, reply\n\n\n"
        "@reply(Lines())\ndef shout(line: bytes) -> bytes:\n    return line.upper()\n"
    )
    faults = ("--faults", "hup", "--duration", "6")
    refused = start("chaos", "shouting:shout", *faults, *BRIEF).end()
    assert refused.code == 2, refused
    assert "--probe 'SEND=>EXPECT'" in refused.err
    outcome = start("chaos", "shouting:shout", *faults, *BRIEF, "--probe", "hello {n}=>HELLO {n}").end()
    assert outcome.code == 0, outcome


def test_a_server_that_does_not_come_up_is_never_reached(start: Run) -> None:
    outcome = start("chaos", "nothing:here", "--report", "off").end()
    assert outcome.code == 5, outcome
    assert "the server ended with exit code 3" in outcome.err


def test_the_plan_is_printed_and_nothing_is_done(start: Run) -> None:
    first, again = (start("chaos", "--plan", *SHORT).end() for _ in range(2))
    assert first.code == 0, first
    assert first.out == again.out
    assert len(first.out.splitlines()) == len(Kind)
    assert first.err == ""


def test_an_interrupted_run_leaves_nothing_stopped_and_no_server(start: Run) -> None:
    process = start("chaos", "--faults", "stop", "--hold", "4", "--duration", "30", *BRIEF)
    process.hear("STOP of worker")
    process.popen.send_signal(signal.SIGINT)
    outcome = process.end()
    assert outcome.code == 8, outcome
    assert outcome.figures()["exit_code"] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--faults", "term"), "'term'"),
        (("--faults", "ttin"), "both"),
        (("--duration", "5"), "7 kinds of faults need 29 s"),
        (("--hold", "6"), "--reply-timeout"),
        (("--probe", "ping"), "SEND=>EXPECT"),
        (("--host", "tcp://127.0.0.1:7"), "--control"),
        (("--no-such-option",), "no such option"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(start: Run, arguments: tuple[str, ...], complaint: str) -> None:
    outcome = start("chaos", *arguments, "--report", "off").end()
    assert outcome.code == 2, outcome
    assert complaint in outcome.err.splitlines()[-1]


def test_a_control_socket_that_nobody_answers_is_never_reached(start: Run, tmp_path: Path) -> None:
    outcome = start("chaos", "--control", str(tmp_path / "none"), "--report", "off").end()
    assert outcome.code == 5, outcome


def test_a_probe_knows_its_own_answer_from_another() -> None:
    one, other = Probe("get {n}=>got {n}", 1), Probe("get {n}=>got {n}", 2)
    request, stranger = one.next(), other.next()
    assert request != stranger
    assert one.check(request, request.replace(b"get", b"got")) is None
    assert one.check(request, stranger.replace(b"get", b"got")) is Failure.WRONG_ANSWER
    assert one.next() != request


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-01-01T00:00:00.000Z error   worker 1 gen 2 pid 77 was killed by SIGKILL", True),
        ("2026-01-01T00:00:00.000Z info    error: said a peer", False),
        (json.dumps({"time": "t", "level": "error", "message": "m"}), True),
        (json.dumps({"time": "t", "level": "info", "message": "error"}), False),
        ("Traceback (most recent call last):", True),
        ("{", False),
    ],
)
def test_errors_of_a_log_are_found_in_both_formats(line: str, expected: bool) -> None:  # noqa: FBT001 - a table
    assert is_error(line) is expected


def test_an_error_that_a_kill_announced_is_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("2026-01-01T00:00:00.000Z error   worker 1 gen 2 pid 77 was killed by SIGKILL\n", "utf-8")
    server = OwnServer(("echo",), tmp_path / "control", log)
    assert server.errors([77]) == []
    assert len(server.errors([7])) == 1


def status(pid: int) -> Status:
    return Status("running", "0", pid, 1, (), ())


def test_the_census_finds_a_zombie_and_who_was_left_behind() -> None:
    script = "import os, sys, time\nif os.fork() == 0:\n    os._exit(0)\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as leader:
        try:
            assert leader.stdout is not None
            leader.stdout.readline()
            census = Census(Local(), leader.pid)
            (zombie,) = until(lambda: census.remains(status(leader.pid)).zombies, what="the child has ended")
            assert not census.remains(status(leader.pid)).orphans
            assert census.remains(None).orphans == (leader.pid,)
            found = look(Local(), zombie)
            assert found is not None
            assert found.is_zombie
        finally:
            leader.kill()


def test_whoever_was_in_the_status_once_and_lives_on_is_left_behind() -> None:
    census = Census(Local())
    census.see(status(os.getpid()))
    assert not census.remains(status(os.getpid()))
    assert census.remains(status(1)).orphans == (os.getpid(),)


def test_a_server_whose_pids_mean_others_here_is_refused(tmp_path: Path) -> None:
    with Server("echo", "--workers", "1", tmp_path=tmp_path) as server:
        here = Here(Path(server.control))
        here.prove(status(server.process.pid))
        with pytest.raises(ControlError, match="strike where the server runs"):
            here.prove(status(1))


def test_who_started_the_serving_master_stands_in_front_of_it_and_is_not_left_behind() -> None:
    script = "import sys\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as successor:
        assert successor.stdout is not None
        successor.stdout.readline()
        census = Census(Local())
        for pid in (os.getpid(), successor.pid):
            census.see(status(pid))
        assert not census.remains(status(successor.pid))
        assert census.remains(status(os.getpid())).orphans == (successor.pid,)
