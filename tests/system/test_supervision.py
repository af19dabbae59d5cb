"""What the master does for its workers, and what a client sees of it: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.server import Server, alive, clean_environment, exchange, read_all, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS = ("async", "sync", "threads")

SLOW = """
    import time
    from prefork import Lines, reply

    @reply(Lines(newline=b"\\n"))
    def service(line: bytes) -> bytes:
        time.sleep(float(line))
        return line
"""


@pytest.mark.parametrize("model", MODELS)
def test_killed_worker_is_replaced_within_a_second_and_the_others_never_stop(
    start: Callable[..., Server], model: str
) -> None:
    with start("echo", "--workers", "3", "--model", model) as server:
        before = server.workers()
        os.kill(before[1], signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: server.workers().get(1, before[1]) != before[1], 5)
        assert time.monotonic() - killed < 1
        after = server.workers()
        assert (after[0], after[2]) == (before[0], before[2])
        assert exchange(server.address, b"still here") == b"still here"
        assert "was killed by SIGKILL" in server.log()


@pytest.mark.parametrize("model", ["async", "threads"])
def test_term_answers_what_is_in_flight_and_exits_0(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    with start(module(SLOW), "--workers", "2", "--model", model) as server, server.connect() as sock:
        sock.sendall(b"0.5\n")
        until(lambda: server.status()["totals"]["connections"] == 1)
        server.send(signal.SIGTERM)
        assert read_all(sock) == b"0.5\n"
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("model", MODELS)
def test_term_gives_idle_connections_an_end_of_file_never_a_reset(start: Callable[..., Server], model: str) -> None:
    with start("echo", "--workers", "1", "--model", model) as server, server.connect() as sock:
        sock.sendall(b"kept alive")
        assert sock.recv(10) == b"kept alive"
        server.send(signal.SIGTERM)
        assert sock.recv(10) == b""  # a reset would raise
        sock.close()
        assert server.process.wait(10) == 0


def test_term_serves_out_the_queue_behind_one_busy_sync_worker(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    with start(module(SLOW), "--workers", "1", "--model", "sync") as server:
        address = server.address
        clients = [socket.create_connection(address, 20) for _ in range(51)]
        try:
            clients[0].sendall(b"0.5\n")
            for client in clients[1:]:
                client.sendall(b"0\n")
                client.shutdown(socket.SHUT_WR)
            until(lambda: server.status()["listeners"][0]["queued"] == 50)
            server.send(signal.SIGTERM)
            clients[0].shutdown(socket.SHUT_WR)
            assert read_all(clients[0]) == b"0.5\n"
            assert [read_all(client) for client in clients[1:]] == [b"0\n"] * 50
        finally:
            for client in clients:
                client.close()
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("model", MODELS)
def test_stuck_handler_ends_at_the_drain_timeout(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    with start(module(SLOW), "--workers", "2", "--model", model, "--drain-timeout", "1") as server:
        with server.connect() as sock:
            sock.sendall(b"60\n")
            until(lambda: server.status()["totals"]["connections"] == 1)
            told = time.monotonic()
            server.send(signal.SIGTERM)
            assert server.process.wait(10) == 0
        assert time.monotonic() - told < 1 + 2 + 1  # the drain, its patience, and a slow machine


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_stop_now(start: Callable[..., Server], first: signal.Signals) -> None:
    with start("echo", "--workers", "2") as server, server.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert server.stop(first, timeout=5) == 0


def test_second_term_stops_now(start: Callable[..., Server], module: Callable[..., str]) -> None:
    with start(module(SLOW), "--workers", "2", "--model", "threads") as server, server.connect() as sock:
        sock.sendall(b"60\n")
        until(lambda: server.status()["totals"]["connections"] == 1)
        server.send(signal.SIGTERM)
        until(lambda: server.status()["state"] == "draining")
        assert server.stop(signal.SIGTERM, timeout=8) == 0


def test_ttin_and_ttou_change_the_count_by_one(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2") as server:
        first = server.workers()
        server.send(signal.SIGTTIN)
        until(lambda: len(server.workers()) == 3)
        server.send(signal.SIGTTOU)
        until(lambda: server.workers() == first, what="the newest worker left, the others never did")
        server.send(signal.SIGTTOU)
        until(lambda: len(server.workers()) == 1)
        server.send(signal.SIGTTOU)
        until(lambda: server.log().count("got SIGTTOU") == 3)
        assert exchange(server.address, b"never none") == b"never none"


def test_winch_drains_all_workers_keeps_the_socket_and_hup_serves_again(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2") as server:
        server.send(signal.SIGWINCH)
        until(lambda: not server.status()["workers"])
        with server.connect() as waiting:
            waiting.sendall(b"patience")
            until(lambda: server.status()["listeners"][0]["queued"] == 1)
            server.send(signal.SIGHUP)
            assert waiting.recv(8) == b"patience"
        until(lambda: len(server.workers()) == 2)


@pytest.mark.parametrize("model", MODELS)
def test_workers_end_when_their_master_is_killed_and_the_port_is_free(start: Callable[..., Server], model: str) -> None:
    with start("echo", "--workers", "2", "--model", model) as server:
        address, workers = server.address, server.workers().values()
        server.process.kill()
        server.process.wait()
        until(lambda: not any(map(alive, workers)), 5, what="no orphan is left")
        with socket.create_server(address):
            pass


def test_worker_stuck_in_boot_is_killed_and_the_cold_server_gives_up(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("import time\ntime.sleep(60)\nservice = None")
    with start(service, "--workers", "1", "--boot-timeout", "0.5", wait_for="") as server:
        assert server.process.wait(10) == 3
        log = server.log()
        assert "was not ready within --boot-timeout 0.5 s" in log
        assert "time.sleep(60)" not in log  # stacks name places, not code
        assert "app.py" in log


GOSSIP = """
    import os, pathlib, socket

    for fd in pathlib.Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(fd.name))) as sock:
                if sock.family == socket.AF_UNIX:
                    sock.send(b"failed {}\\n")
        except OSError:
            pass
    raise SystemExit("that was all")
"""


@pytest.mark.parametrize(
    "said", ["[" * 4000, "7", "[7]", "[[], {}]", "\\xff"], ids=["deep", "7", "[7]", "[[], {}]", "no text"]
)
def test_nonsense_that_a_worker_says_of_its_failure_never_harms_the_master(
    start: Callable[..., Server], module: Callable[..., str], said: str
) -> None:
    with start(module(GOSSIP.replace("{}", said, 1)), "--workers", "1", wait_for="") as server:
        assert server.process.wait(20) == 3
        assert "Traceback" not in server.log()


TALKATIVE = """
    import os, pathlib, socket
    from prefork import Raw, reply

    for fd in pathlib.Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(fd.name))) as sock:
                if sock.family == socket.AF_UNIX:
                    sock.send(b"ready\\nready\\n")
        except OSError:
            pass

    @reply(Raw())
    def service(data):
        return data
"""


def test_worker_that_says_ready_again_and_again_never_harms_the_master(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    with start(module(TALKATIVE), "--workers", "1") as server:
        assert exchange(server.address, b"served") == b"served"
        assert "Traceback" not in server.log()
        assert server.stop() == 0


def test_worker_that_dies_silently_in_boot_is_tried_again_slower_each_time_then_given_up(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("import os\nos._exit(7)")
    with start(service, "--workers", "2", wait_for="") as server:
        assert server.process.wait(20) == 3
        assert "exited with code 7 before it was ready" in server.log()


def test_crashing_slot_backs_off_and_healthy_workers_are_never_stopped(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import os, pathlib
        from prefork import Raw, reply

        if pathlib.Path("poison").exists():
            with open("forks", "a") as forks:
                forks.write("x")
            os._exit(9)

        @reply(Raw())
        def service(data: bytes) -> bytes:
            return data
    """)
    with start(service, "--workers", "2") as server:
        folder = server.log_path.parent.parent
        healthy = server.workers()[0]
        (folder / "poison").touch()
        os.kill(server.workers()[1], signal.SIGKILL)
        until(lambda: (folder / "forks").exists() and len((folder / "forks").read_text()) >= 3)
        began = time.monotonic()
        until(lambda: len((folder / "forks").read_text()) >= 4)
        assert time.monotonic() - began > 1  # 0, 1, 2 ... seconds apart, jittered
        assert server.workers() == {0: healthy}
        assert exchange(server.address, b"fine") == b"fine"
        (folder / "poison").unlink()
        until(lambda: set(server.workers()) == {0, 1}, 20, what="the slot is filled once the cause is gone")


def test_hung_loop_is_killed_with_its_stacks_in_the_log_and_the_others_serve(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        from prefork import Lines, reply

        def spin() -> None:
            while True:
                pass

        @reply(Lines())
        def service(line: bytes) -> bytes:
            if line == b"hang":
                spin()
            return line
    """)
    with start(service, "--workers", "2", "--hang-timeout", "1") as server, server.connect() as victim:
        before = server.workers()
        victim.sendall(b"hang\n")
        until(lambda: len(set(server.workers().values()) & set(before.values())) == 1, 10)
        until(lambda: len(server.workers()) == 2)
        log = server.log()
        assert "its loop has not moved for --hang-timeout 1 s; sending SIGABRT" in log
        assert "in spin" in log
        assert exchange(server.address, b"fine\n") == b"fine\r\n"


def test_stopped_worker_keeps_its_pid_if_it_wakes_in_time(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2", "--hang-timeout", "3") as server:
        workers = server.workers()
        os.kill(workers[0], signal.SIGSTOP)
        beat = time.monotonic()
        until(lambda: time.monotonic() - beat > 1.5, what="it was stopped for half the timeout")
        os.kill(workers[0], signal.SIGCONT)
        until(lambda: time.monotonic() - beat > 4, what="the timeout has passed since it was stopped")
        assert server.workers() == workers


def test_stopped_master_kills_nobody_when_it_wakes(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2", "--hang-timeout", "0.5") as server:
        workers, address = server.workers(), server.address
        server.send(signal.SIGSTOP)
        stopped = time.monotonic()
        while time.monotonic() - stopped < 4:
            assert exchange(address, b"served meanwhile") == b"served meanwhile"
        server.send(signal.SIGCONT)
        until(lambda: "the master was away" in server.log())
        assert server.workers() == workers


def test_foreign_children_of_a_pid_1_are_reaped_and_never_taken_for_workers(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root for a pid namespace")
    control = tmp_path / "control.sock"
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    command = [*namespace, sys.executable, "-m", "prefork", "serve", "echo", "--bind", "127.0.0.1:0", "--workers", "2"]
    probe = subprocess.run([*namespace, "true"], check=False, capture_output=True, timeout=10)
    if probe.returncode:
        pytest.skip("pid namespaces are not allowed here")
    process = subprocess.Popen(
        [*command, "--control", str(control), "--log-level", "debug"], stderr=subprocess.PIPE, env=clean_environment(),
        cwd=tmp_path,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        until(lambda: run("status", "--control", str(control)).returncode == 0, 20)
        # an orphan is made inside the namespace: its parent ends, so the server inherits it
        pid = until(lambda: _child_of(process.pid))
        subprocess.run(
            ["nsenter", "--pid", "--target", str(pid), "sh", "-c", "(sleep 0.2 & sleep 0.1) &"], check=True, timeout=10
        )
        reaped = until(lambda: _line_with(process, b"which is no worker"), 10)
        assert b"reaped pid" in reaped
        assert len(_workers(control)) == 2
    finally:
        subprocess.run(
            [*sys.executable.split(), "-m", "prefork", "stop", "--control", str(control)], check=False, timeout=30
        )
        process.kill()
        process.wait()
        process.stderr.close()


def _child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return int(children[0]) if children else None


def _line_with(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    assert process.stderr is not None
    line = process.stderr.readline()
    return line if text in line else b""


def _workers(control: Path) -> list[object]:
    status = json.loads(run("status", "--json", "--control", str(control)).stdout)
    return [w for w in status["workers"] if w["state"] == "serving"]


def test_stop_delay_keeps_serving_newcomers_after_term(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1", "--stop-delay", "1") as server:
        address = server.address
        server.send(signal.SIGTERM)
        until(lambda: server.status()["state"] == "draining")
        assert exchange(address, b"come in") == b"come in"
        assert server.process.wait(10) == 0


def test_no_client_is_refused_or_reset_while_clients_keep_coming_through_a_reload(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2") as server:
        address, before = server.address, server.workers()
        server.send(signal.SIGHUP)
        rounds = 0
        while server.status()["generation"] == 1 or set(server.workers().values()) & set(before.values()):
            assert exchange(address, b"%d" % rounds) == b"%d" % rounds
            rounds += 1
            assert rounds < 10_000
        assert len(server.workers()) == 2


WHO = """
    import contextlib, os, threading
    from prefork import Lines, reply

    @reply(Lines())
    def service(line: bytes) -> bytes:
        return b"{who} " + line

    @service.lifespan
    @contextlib.contextmanager
    def lifespan():
        {first}
        yield
"""


@pytest.mark.parametrize("model", MODELS)
def test_generation_that_ends_soon_after_its_ready_was_given_no_connection_that_it_could_lose(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    with start(module(WHO.format(who="old", first="pass")), "--workers", "2", "--model", model) as server:
        module(WHO.format(who="new", first="threading.Timer(0.3, os._exit, (6,)).start()"))
        with subprocess.Popen(
            [sys.executable, "-m", "prefork", "reload", "--control", server.control], stderr=subprocess.PIPE, text=True
        ) as reload:
            answers = set()
            end = time.monotonic() + 20
            while reload.poll() is None and time.monotonic() < end:
                answers.add(exchange(server.address, b"who\r\n"))
            assert reload.returncode == 1
            assert "exited with code 6" in (reload.stderr.read() if reload.stderr else "")
        assert answers == {b"old who\r\n"}
        module(WHO.format(who="new", first="pass"))
        assert run("reload", "--control", server.control).returncode == 0
        until(lambda: exchange(server.address, b"who\r\n") == b"new who\r\n")


def test_reload_from_a_folder_that_is_gone_changes_nothing_and_says_why(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    with start("echo", "--workers", "2", cwd=folder) as server:
        before = server.workers()
        folder.rmdir()
        for command in ("reload", "upgrade"):
            result = run(command, "--control", server.control)
            assert result.returncode == 1
            assert f"the folder it was started in, {folder}: No such file or directory" in result.stderr
        assert server.workers() == before
        assert exchange(server.address, b"served") == b"served"
        folder.mkdir()
        assert run("reload", "--control", server.control).returncode == 0


def test_worker_inherits_nothing_of_its_siblings(start: Callable[..., Server]) -> None:
    def holds(pid: int) -> tuple[str, ...]:
        names = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        return tuple(sorted(name.partition(":")[0] for name in names))

    with start("echo", "--workers", "4") as server:
        workers = server.workers().values()
        until(lambda: len(set(map(holds, workers))) == 1, what="all hold the same")


def test_reload_onto_a_broken_target_changes_nothing_and_says_why(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    good = "from prefork import Raw, reply\n@reply(Raw())\ndef service(data: bytes) -> bytes:\n    return data\n"
    with start(module(good), "--workers", "2") as server:
        before = server.workers()
        for broken, why in [
            ("syntax error (", "SyntaxError"),
            ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
            ("import os; os._exit(5)", "exited with code 5 before it was ready"),
            ("service = 3", "not a service"),
        ]:
            module(broken)
            result = run("reload", "--control", server.control)
            assert result.returncode == 1
            assert why in result.stderr
            assert result.stderr.count("\n") == 1
            assert server.workers() == before
            assert exchange(server.address, b"served") == b"served"
        module(good.replace("return data", "return b'new ' + data"))
        assert run("reload", "--control", server.control).returncode == 0
        assert exchange(server.address, b"code") == b"new code"
