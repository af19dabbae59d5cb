"""`docker compose up --wait`, as a person types it: the server, the Locust page, and the load already running."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from support.waiting import until

if TYPE_CHECKING:
    from support.compose import Compose, Project

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700)]
SERVICES = ("server", "locust-master", "locust-worker", "agent")
EACH_SERVICE = pytest.mark.parametrize("service", SERVICES)


@pytest.fixture(scope="module")
def stack(shared: Compose) -> Project:
    project = shared()
    project.up()
    return project


def fetch(stack: Project, path: str) -> bytes:
    host, port = stack.address("locust-master", 8089)
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as reply:
        return bytes(reply.read())


def test_everything_comes_up_and_is_healthy(stack: Project) -> None:
    states = {
        str(container.name).removeprefix(f"{stack.name}-"): (container.status, container.health)
        for service in SERVICES
        for container in stack.containers(service)
    }
    assert states == {
        "agent-1": ("running", "unknown"),
        "server-1": ("running", "healthy"),
        "locust-master-1": ("running", "healthy"),
        "locust-worker-1": ("running", "unknown"),  # it has no port to ask; the master knows of it
        "locust-worker-2": ("running", "unknown"),
    }


@EACH_SERVICE
def test_containers_are_started_without_rights(stack: Project, service: str) -> None:
    for container in stack.containers(service):
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert not host["Privileged"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert container.attrs["Config"]["User"] == "10001:10001"


@EACH_SERVICE
def test_process_1_has_no_capability_and_can_gain_none(stack: Project, service: str) -> None:
    lines = stack.execute(service, "cat", "/proc/1/status").splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert status["Uid"] == ["10001"] * 4
    assert status["Gid"] == ["10001"] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name][0], 16) == 0, name
    assert status["NoNewPrivs"] == ["1"]


@EACH_SERVICE
def test_memory_processes_and_descriptors_are_limited(stack: Project, service: str) -> None:
    for container in stack.containers(service):
        host = container.attrs["HostConfig"]
        assert host["Memory"] == host["MemorySwap"] == 512 << 20
        assert host["PidsLimit"] == 256
    limits = stack.execute(service, "cat", "/proc/1/limits").splitlines()
    (descriptors,) = [line.split()[3:5] for line in limits if line.startswith("Max open files")]
    # process 1 that the agent sees is the server's; Locust asks for 10,000
    assert descriptors == ["4096" if service in {"server", "agent"} else "10000"] * 2


def test_load_containers_find_their_master_and_what_they_need_without_a_complaint(stack: Project) -> None:
    until(lambda: "2 workers connected" in stack.logs(), 60, what="both load workers are connected")
    said = stack.logs()
    assert "Error resolving address" not in said
    assert "below minimum setting" not in said


@EACH_SERVICE
def test_root_file_system_is_read_only(stack: Project, service: str) -> None:
    mounts = [line.split() for line in stack.execute(service, "cat", "/proc/mounts").splitlines()]
    (options,) = [mount[3].split(",") for mount in mounts if mount[1] == "/"]
    assert "ro" in options
    said = stack.execute(service, "sh", "-c", "touch /etc/x /opt/prefork/x 2>&1 || touch /tmp/x")
    assert said.count("Read-only file system") == 2


def test_published_ports_are_for_this_machine_alone(stack: Project) -> None:
    assert stack.address("server", 7)[0] == "127.0.0.1"
    assert stack.address("locust-master", 8089)[0] == "127.0.0.1"
    assert not any(stack.container("locust-master").ports.get("5557/tcp") or ())


def test_every_byte_comes_back_through_the_published_port(stack: Project) -> None:
    sent = bytes(range(256)) * 4096
    with socket.create_connection(stack.address("server", 7), timeout=20) as sock:
        received = b""
        for start in range(0, len(sent), 65536):
            sock.sendall(sent[start : start + 65536])
            while len(received) < start + 65536 and (data := sock.recv(65536)):
                received += data
        assert received == sent
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_page_shows_a_load_that_already_runs_without_a_failure(stack: Project) -> None:
    assert b"Locust" in fetch(stack, "/")

    def running() -> dict[str, Any]:
        table: dict[str, Any] = json.loads(fetch(stack, "/stats/requests"))
        return table if total(table)["num_requests"] >= 300 and len(table["workers"]) == 2 else {}

    table = until(running, 60, what="300 requests of two load workers on Locust's page")
    assert table["state"] == "running"
    assert table["user_count"] == 16
    assert table["errors"] == []
    assert total(table)["num_failures"] == 0
    assert {row["name"] for row in table["stats"]} == {"echo", "echo open", "echo churn", "Aggregated"}


def total(table: dict[str, Any]) -> dict[str, Any]:
    (row,) = [row for row in table["stats"] if row["name"] == "Aggregated"]
    return dict(row)


def test_load_arrives_at_every_server_worker(stack: Project) -> None:
    until(lambda: all(row["requests"] for row in stack.status()["workers"]), 30, what="each worker has had a request")


def press(stack: Project, kind: str, **headers: str) -> tuple[int, str]:
    """Press a button of the page, and return the status and what it says."""
    host, port = stack.address("locust-master", 8089)
    url = f"http://{host}:{port}/prefork/fault/{kind}"
    request = urllib.request.Request(url, data=b"", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - as above
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_page_has_the_servers_workers_and_its_buttons_strike(stack: Project) -> None:
    (table,) = json.loads(fetch(stack, "/stats/requests"))["extended_stats"]
    before = {row["pid"] for row in stack.status()["workers"]}
    assert {row["pid"] for row in table["data"]} >= before
    # neither loses a request, which the last test here would find
    for kind, done in (("stop", "STOP of worker"), ("ttin", "one worker more")):
        status, said = press(stack, kind, **{"X-Prefork": "1"})
        assert (status, done in said) == (200, True), said
        until(lambda: not json.loads(fetch(stack, "/prefork/marks"))["busy"], 30, what="the fault is over")
    assert "ttin settled" in json.loads(fetch(stack, "/prefork/marks"))["marks"][-1]
    after = {row["pid"] for row in stack.status()["workers"]}
    assert before < after
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("headers", [{}, {"X-Prefork": "1", "Host": "rebound.example"}], ids=["stranger", "rebound"])
def test_buttons_obey_no_page_but_their_own(stack: Project, headers: dict[str, str]) -> None:
    before = stack.status()["workers"]
    assert press(stack, "kill", **headers)[0] == 403
    assert [row["pid"] for row in stack.status()["workers"]] == [row["pid"] for row in before]


# The last one of this file: it ends what the others share.
def test_stopped_as_a_whole_the_load_ends_with_its_verdict(stack: Project) -> None:
    stack.run("stop")
    assert "VERDICT  passed: every gate held" in stack.logs()
    codes = {
        str(container.name).removeprefix(f"{stack.name}-"): container.attrs["State"]["ExitCode"]
        for service in SERVICES
        for container in stack.containers(service)
    }
    assert codes == dict.fromkeys(("server-1", "locust-master-1", "locust-worker-1", "locust-worker-2", "agent-1"), 0)
