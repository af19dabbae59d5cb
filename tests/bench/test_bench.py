"""The benchmark itself, with tiny counts: real servers, the real load."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.growth import SLEEPY
from bench.load import FORMS, KEEP_ALIVE, Load, LoadError
from bench.needs import MissingError, Need
from bench.plan import QUICK, Run
from bench.running import Running
from bench.servers import CONVERSATION, LIMIT, PEER_SERVERS, REPLY, Server, find

from bench import __main__ as bench
from bench import bursts, cost, measure, needs
from support import clients
from support.server import alive

ONCE = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
conn, _ = listener.accept()
conn.recv(64)
conn.sendall(b"+PONG\\r\\n")
conn.recv(64)
listener.accept()
"""
"""A server that answers once, and ends when somebody comes again."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled limit; skipped where there is no compiler or no redis-benchmark, and failed in CI."""
    clients.find("redis-benchmark")
    clients.find("cc")
    folder = tmp_path_factory.mktemp("kit")
    needs.compile_c(folder)
    return folder


def test_a_reply_is_measured_beside_the_limit(kit: Path) -> None:
    run = Run(QUICK, kit, [], {})
    table = cost.Comparison(run, "cost", LIMIT, [REPLY]).table({KEEP_ALIVE: FORMS[KEEP_ALIVE]}, 2)
    assert run.missing == {}
    ratio = table[REPLY.name]["forms"][KEEP_ALIVE]["ratio"]
    assert len(ratio["rounds"]) == 2
    assert ratio["low"] > 0.2
    assert table[LIMIT.name]["forms"][KEEP_ALIVE]["us"]["median"] > 0


def test_nothing_of_a_server_is_left_when_it_was_measured(kit: Path) -> None:
    with Running(REPLY, kit, 2) as running:
        assert len(measure.members(running.session)) == 3
    assert measure.members(running.session) == []


def test_cpu_time_is_counted_in_less_than_ticks() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        measure.settle(process.pid)
        before = time.perf_counter()
        used = measure.cpu(process.pid)
        assert used > 0
        assert used != round(used, 2)
        assert measure.cpu(process.pid) - used <= time.perf_counter() - before
        process.communicate(b"\n")


def test_a_peer_that_is_not_installed_is_named_with_its_cure_and_the_others_are_found(kit: Path) -> None:
    absent = Need("Nothing", ("no-such-program-here",), "nowhere")
    ghost = Server("ghost", "C", absent, PEER_SERVERS[0].command)
    versions, missing = find((ghost, REPLY), kit)
    assert missing == {"ghost": "Nothing is not installed: `make bench-peers`, or install nowhere"}
    assert REPLY.name in versions


def test_a_server_that_does_not_start_is_left_out_with_its_last_words(kit: Path) -> None:
    broken = Server("broken", "Python", needs.PYTHON, lambda _: [sys.executable, "-c", "raise SystemExit('no luck')"])
    run = Run(QUICK, kit, [], {})
    table = cost.Comparison(run, "cost", LIMIT, [broken, REPLY]).table({KEEP_ALIVE: FORMS[KEEP_ALIVE]}, 1)
    assert run.missing == {"broken (cost)": "did not start: no luck"}
    assert list(table) == [LIMIT.name, REPLY.name]


def test_a_server_that_ends_on_the_way_is_left_out_and_the_others_are_measured(
    kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.load.TIMEOUT_S", 1)
    short = Server("short", "Python", needs.PYTHON, lambda spot: [sys.executable, "-c", ONCE, str(spot.port)])
    run = Run(QUICK, kit, [], {})
    table = cost.Comparison(run, "cost", LIMIT, [short, REPLY]).table({KEEP_ALIVE: FORMS[KEEP_ALIVE]}, 2)
    assert list(run.missing) == ["short (cost)"]
    assert list(table) == [LIMIT.name, REPLY.name]
    assert len(table[REPLY.name]["forms"][KEEP_ALIVE]["us"]["rounds"]) == 2


def test_a_part_that_breaks_off_is_named_and_the_others_are_reported(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LoadError("nobody answered")

    assert kit.is_dir()
    monkeypatch.setitem(bench.PARTS, "models", (fail, lambda _, __: 0.0))
    assert bench.main(["--quick", "--only", "models,accept", "--output", str(tmp_path)]) == 1
    page = (tmp_path / "README.md").read_text("utf-8")
    assert "- models: was broken off: nobody answered" in page
    assert "## Accepting" in page


def test_without_the_limit_there_is_no_comparison(kit: Path, tmp_path: Path) -> None:
    run = Run(QUICK, tmp_path, [], {})
    with pytest.raises(MissingError):
        cost.Comparison(run, "cost", LIMIT, [REPLY]).table({KEEP_ALIVE: FORMS[KEEP_ALIVE]}, 1)
    assert kit != tmp_path


def test_an_unknown_part_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(["--only", "speed"])
    assert caught.value.code == 2
    assert "--only speed: no such part; there are cost, preforked, memory" in capsys.readouterr().err


def test_the_whole_program_writes_a_report(kit: Path, tmp_path: Path) -> None:
    assert kit.is_dir()
    command = [sys.executable, "-m", "bench", "--quick", "--only", "accept", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(bench.__file__).parents[1], capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "## Accepting" in (tmp_path / "README.md").read_text("utf-8")


def test_a_bench_that_is_told_to_end_leaves_nothing_behind(kit: Path, tmp_path: Path) -> None:
    assert kit.is_dir()
    command = [sys.executable, "-m", "bench", "--quick", "--only", "accept", "--output", str(tmp_path)]
    folder = Path(bench.__file__).parents[1]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "round 1" in line:
                break
        servers = started_by(process.pid)
        assert len(servers) == 2
        process.terminate()
        assert process.stderr.readlines()[-1] == "bench: interrupted; nothing was written\n"
    assert process.returncode == 130
    assert not any(alive(pid) for pid in servers)
    assert list(tmp_path.iterdir()) == []


def started_by(pid: int) -> list[int]:
    """Return the servers, each of which is the head of a session of its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [int(child) for child in children if os.getsid(int(child)) == int(child)]


def test_connections_that_each_process_has_are_counted(kit: Path) -> None:
    with Running(REPLY, kit, 2) as running:
        found = cost.shares(running, 60_000, Load(20))
        assert sum(found) == 20
        assert found == sorted(found)
        assert min(found) > 0  # prefork's are even


def test_two_workers_are_set_apart(kit: Path) -> None:
    cpus = set.union(*measure.sides())
    with Running(REPLY, kit, 2, cpus=cpus) as running:
        measure.set_apart(running.session, cpus)
        master, *workers = (os.sched_getaffinity(pid) for pid in sorted(measure.members(running.session)))
        assert [len(has) for has in (master, *workers)] == [1, 1, 1]
        assert len(set.union(*workers)) == min(2, len(cpus))


def test_a_burst_is_answered_while_the_load_sleeps(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "CONNECTIONS", {True: 50, False: 20})
    with Running(REPLY, kit, 2) as running:
        for load in FORMS.values():
            burst = bursts.Burst(running, load)
            with burst.connected():
                begun = time.perf_counter()
                took = [burst.seconds() for _ in range(2)]
                assert 0 < sum(took) < time.perf_counter() - begun


def test_a_burst_of_which_the_load_has_not_slept_through_all_is_tried_again(
    kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bursts, "CONNECTIONS", {True: 1, False: 1})
    monkeypatch.setattr(bursts, "NAP_S", 0.02)
    with Running(SLEEPY, kit) as running:
        burst = bursts.Burst(running, Load(1), b"SLEEP\r\n")
        with burst.connected():
            assert burst.seconds() >= 0.1
            monkeypatch.setattr(bursts, "TRIES", 1)
            burst = bursts.Burst(running, Load(1), b"SLEEP\r\n")
        with burst.connected(), pytest.raises(LoadError, match="awake again"):
            burst.seconds()


def test_a_wrong_answer_to_a_burst_is_an_error(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "CONNECTIONS", {True: 1, False: 1})
    with Running(REPLY, kit) as running:
        burst = bursts.Burst(running, Load(1, keep=False), b"PING")
        with burst.connected(), pytest.raises(LoadError, match=r"b'' is not what was asked for"):
            burst.seconds()


def test_scaling_is_measured_of_ours_and_those_beside_them(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "CONNECTIONS", {True: 40, False: 20})
    monkeypatch.setattr(bursts, "NAP_S", 0.1)
    run = Run(QUICK, kit, [], {})
    found = bursts.scaling(run)
    if run.missing:
        assert run.missing == {"two workers": "they need two CPUs"}
    else:
        assert set(found) == {REPLY.name, CONVERSATION.name, LIMIT.name}
        assert all(set(forms) == set(FORMS) for forms in found.values())
