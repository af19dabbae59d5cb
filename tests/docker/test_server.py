"""The server alone in its container, where it is process 1."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.server import exchange, read_exactly
from support.waiting import until

if TYPE_CHECKING:
    from support.compose import Compose, Project

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700)]
KILL_WORKER = Path(__file__).with_name("kill_worker.py")
PROCESSES = r"""
for stat in /proc/[0-9]*/stat; do { read -r line <$stat && echo "$line"; } 2>/dev/null; done
"""


@pytest.fixture(scope="module")
def server(shared: Compose) -> Project:
    project = shared()
    project.up("server")
    return project


def test_status_carries_its_fields(server: Project) -> None:
    status = server.status()
    assert status["state"] == "running"
    assert status["pid"] == 1
    assert status["generation"] == 1
    assert status["uptime_s"] > 0
    assert status["version"]
    assert [set(one) >= {"address", "backlog", "queued"} for one in status["listeners"]] == [True]
    assert status["listeners"][0]["address"].endswith(":7")
    assert [worker["slot"] for worker in status["workers"]] == [0, 1, 2, 3]
    fields = {
        "slot",
        "pid",
        "generation",
        "state",
        "connections",
        "accepted",
        "requests",
        "errors",
        "rss_bytes",
        "age_s",
    }
    assert all(set(worker) >= fields and worker["state"] == "serving" for worker in status["workers"])
    assert status["totals"]["requests"] >= 1  # the health check's


def test_killed_worker_is_replaced_within_a_second_and_nobody_else_notices(server: Project) -> None:
    address = server.address("server", 7)
    answered, failures, over = [0], [0], threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                right = exchange(address, b"still there?") == b"still there?"
            except OSError:
                right = False
            (answered if right else failures)[0] += 1

    def answers(more: int) -> None:
        known = answered[0]
        until(lambda: answered[0] >= known + more, 20, what=f"{more} more answers")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        answers(10)
        seen = json.loads(server.execute("server", "python", "-", stdin=KILL_WORKER.read_text("utf-8")))
        answers(50)
    finally:
        over.set()
        asking.join()

    slot = str(seen["slot"])
    assert seen["seconds"] < 1.0
    assert seen["after"].keys() == seen["before"].keys()
    assert {key for key in seen["before"] if seen["after"][key] != seen["before"][key]} == {slot}
    assert failures[0] <= 1  # one at a time is asked: no more than one can have been with the victim
    assert server.status()["totals"]["workers_lost"] == 1
    assert server.container("server").attrs["RestartCount"] == 0


def test_orphans_of_others_leave_no_zombie_with_process_1(server: Project) -> None:
    def processes() -> list[list[str]]:
        """State and parent of each process whose name is sleep."""
        rows = server.execute("server", "sh", "-c", PROCESSES).splitlines()
        return [row.rpartition(")")[2].split()[:2] for row in rows if "(sleep)" in row]

    server.execute("server", "sh", "-c", "for n in 1 2 3 4 5; do sleep 3 </dev/null >/dev/null 2>&1 & done; exit 0")
    assert [parent for _, parent in processes()] == ["1"] * 5
    until(lambda: not processes(), 30, what="every orphan has ended and was reaped")
    assert server.status()["state"] == "running"
    assert exchange(server.address("server", 7), b"and on") == b"and on"


def test_max_rss_that_the_container_has_no_memory_for_is_a_warning(server: Project, compose: Compose) -> None:
    assert "--max-rss" not in server.logs()
    project = compose(ECHO_MAX_RSS="200MiB")
    project.up("server")
    warning = "--max-rss: 4 workers may hold 800 MiB together, and the kernel kills at 512 MiB, the cgroup's limit"
    assert warning in project.logs()


def test_stop_answers_what_is_in_flight_and_ends_with_0_within_its_grace(compose: Compose) -> None:
    project = compose("override.yml", TARGET="slow")
    project.up("server")
    container = project.container("server")
    grace = container.attrs["Config"]["StopTimeout"]
    drain = int(
        next(v for v in container.attrs["Config"]["Env"] if v.startswith("PREFORK_DRAIN_TIMEOUT=")).split("=")[1]
    )
    assert grace > drain

    with socket.create_connection(project.address("server", 7), timeout=20) as sock:
        sock.sendall(b"a request\r\n")
        assert read_exactly(sock, 9) == b"working\r\n"
        start = time.monotonic()
        stopping = threading.Thread(target=container.stop)  # docker stop, with the container's own grace
        stopping.start()
        answer = read_exactly(sock, 6)
        end = sock.recv(1)
        stopping.join()
        took = time.monotonic() - start

    assert answer == b"done\r\n"
    assert end == b""
    assert container.wait(timeout=10)["StatusCode"] == 0
    assert took < grace / 2
