"""The command line beside `serve`, and the log as an operator sees it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import prefork
from prefork.master.signals import table
from prefork.settings import options
from support.server import Server, clean_environment, exchange, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable


def test_version_loads_nothing_it_does_not_need() -> None:
    code = "import sys; sys.argv = ['prefork', '--version']\nfrom prefork.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print(*[m for m in ('asyncio', 'uvloop', 'ssl', 'socket', 'logging', 'tomllib') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert result.stdout == f"prefork {prefork.__version__}\n\n"


def test_help_of_serve_shows_every_option_the_signals_and_the_exit_codes() -> None:
    text = run("serve", "--help").stdout
    for name in options():
        assert "--" + name.replace("_", "-") in text
    for names, meaning in table():
        assert names in text
        assert meaning.split(";")[0] in " ".join(text.split())
    assert "no worker ever became ready" in text


def test_check_says_what_would_be_served_and_opens_nothing(tmp_path: Path) -> None:
    result = run("check", "echo", "--bind", "127.0.0.1:7000", "--workers", "3", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "ok: echo on 127.0.0.1:7000 with 3 async workers\n")


def test_an_address_may_leave_the_port_to_the_service(tmp_path: Path) -> None:
    result = run("check", "greet", "--bind", ":", "--bind", "[::1]:", "--workers", "1", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "ok: greet on :4000, [::1]:4000 with 1 async workers\n")


def test_status_stop_and_scale_find_the_one_server_that_runs(tmp_path: Path) -> None:
    environment = clean_environment(XDG_RUNTIME_DIR=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "prefork", "serve", "echo", "--bind", "127.0.0.1:0", "--workers", "1"],
        env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: run("status", XDG_RUNTIME_DIR=str(tmp_path)).returncode == 0)
        assert run("scale", "2", XDG_RUNTIME_DIR=str(tmp_path)).stdout == "scaling to 2 workers\n"

        def two_serve() -> bool:
            return run("status", XDG_RUNTIME_DIR=str(tmp_path)).stdout.count(" serving ") == 2

        until(two_serve)
        assert run("stop", XDG_RUNTIME_DIR=str(tmp_path)).stdout == "stopped\n"
        assert process.wait(1) == 0  # stop returns when the server is gone
        assert not list((tmp_path / "prefork").iterdir())
    finally:
        process.kill()
        process.wait()


def test_stop_waits_for_what_is_in_flight(start: Callable[..., Server], module: Callable[..., str]) -> None:
    service = module("""
        import time
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            time.sleep(0.5)
            return line
    """)
    with start(service, "--model", "threads", "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"answer me\n")
        until(lambda: server.status()["totals"]["connections"] == 1)
        assert run("stop", "--control", server.control).returncode == 0
        assert "asked on the control socket: stop gracefully" in server.log()
        assert server.process.wait(1) == 0
        assert sock.recv(100) == b"answer me\r\n"


def test_json_log_is_one_object_per_line_with_an_access_line_per_connection(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1", "--log-format", "json", "--access-log") as server:
        exchange(server.address, b"x")
        entries = until(lambda: [e for e in map(json.loads, server.log().splitlines()) if e["message"] == "closed"])
        assert entries[0].keys() >= {"time", "level", "pid", "connection", "peer", "seconds"}
        assert entries[0]["peer"].startswith("127.0.0.1:")


def test_usr1_reopens_the_log_file_in_master_and_workers(start: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "prefork.log"
    for model in ("async", "sync", "threads"):
        with start("echo", "--workers", "1", "--model", model, "--log-file", str(path), "--access-log") as server:
            rotated = tmp_path / f"prefork.log.{model}"
            path.rename(rotated)
            server.send(signal.SIGUSR1)
            until(path.exists)

            def worker_writes_to_the_new_file(server: Server = server) -> bool:
                exchange(server.address, b"x")
                return "closed connection=" in path.read_text()

            until(worker_writes_to_the_new_file)
            assert server.stop() == 0
        path.unlink()


def test_pidfile_is_there_while_the_server_is(start: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "prefork.pid"
    with start("echo", "--workers", "1", "--pidfile", str(path)) as server:
        assert int(path.read_text()) == server.process.pid
        assert server.stop() == 0
        assert not path.exists()


def test_no_descriptor_of_the_master_is_left_in_a_worker(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "4") as server:
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect(server.control)
            for pid in server.workers().values():
                os.kill(pid, signal.SIGKILL)
            until(lambda: server.has_replaced(4))
            counts = {_sockets(pid) for pid in server.workers().values()}
        assert len(counts) == 1, "every worker has the same sockets, however many were open at its fork"


def _sockets(pid: int) -> int:
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


def test_descriptors_of_the_master_stay_flat_over_many_deaths_and_commands(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2") as server:
        before = len(os.listdir(f"/proc/{server.process.pid}/fd"))  # noqa: PTH208
        for lost in range(1, 5):
            os.kill(server.workers()[lost % 2], signal.SIGKILL)
            until(partial(server.has_replaced, lost), 20)
        until(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) <= before + 1, what="nothing leaked")  # noqa: PTH208
