"""HAProxy before two servers, `docker compose --profile lb up haproxy`: who is who, and who is believed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from support.server import exchange
from support.waiting import until

if TYPE_CHECKING:
    from support.compose import Compose, Project

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700)]

ASK = """
import contextlib, socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as sock:
        sock.sendall(bytes.fromhex(sys.argv[3]))
        with contextlib.suppress(OSError):  # it may have been reset already, which recv tells
            sock.shutdown(socket.SHUT_WR)
        print(sock.getsockname()[0], sock.recv(1000))
except ConnectionError as error:
    print("-", type(error).__name__)
"""
HEADER = bytes.fromhex("0d0a0d0a000d0a515549540a2111000cc0000207c6336401126701bb")  # from 192.0.2.7
QUESTION = b"who?\r\n"


@pytest.fixture(scope="module")
def balanced(shared: Compose) -> Project:
    project = shared("balanced.yml")
    project.up("haproxy")
    return project


def ask(project: Project, host: str, port: int, data: bytes) -> list[str]:
    """Connect from within the first server's container; return the address it had there, and the answer."""
    said = project.execute("lb-server", "python", "-c", ASK, host, str(port), data.hex())
    return said.strip().split(" ", 1)


def test_handler_and_access_log_see_the_client_and_not_the_balancer(balanced: Project) -> None:
    client, answer = ask(balanced, "haproxy", 7007, QUESTION)
    networks = balanced.container("haproxy").attrs["NetworkSettings"]["Networks"].values()
    balancer = next(iter(networks))["IPAddress"]
    assert client != balancer
    assert re.fullmatch(rf"b'{re.escape(client)}:\d+ at {re.escape(balancer)}:7007 told\\n'", answer)
    until(lambda: re.search(rf"closed connection=\d+ peer={re.escape(client)}:\d+ ", balanced.logs()))


def test_client_of_the_published_port_is_served(balanced: Project) -> None:
    assert b":7007 told\n" in exchange(balanced.address("haproxy", 7007), QUESTION)


def test_same_header_from_elsewhere_is_refused(balanced: Project) -> None:
    assert ask(balanced, "127.0.0.1", 7, HEADER + QUESTION) == ["-", "ConnectionResetError"]
    assert ask(balanced, "127.0.0.1", 7, QUESTION) == ["-", "ConnectionResetError"]
    until(lambda: "refused a connection: it is not in --proxy-trust peer=[::ffff:127.0.0.1]:" in balanced.logs())
    status = json.loads(balanced.execute("lb-server", "prefork", "status", "--json"))
    assert status["totals"]["refused"] == 2
    assert "192.0.2.7" not in balanced.logs()


def test_health_checks_through_the_balancer_are_requests_and_no_errors(balanced: Project) -> None:
    check = balanced.container("haproxy").attrs["Config"]["Healthcheck"]["Test"][1:]

    def totals() -> dict[str, int]:
        found: dict[str, int] = json.loads(balanced.execute("lb-server", "prefork", "status", "--json"))["totals"]
        return found

    before = totals()

    def comes() -> bool:
        balanced.execute("haproxy", *check)
        return totals()["accepted"] >= before["accepted"] + 3

    until(comes, 30, what="this server of the two has had a few of them")
    assert totals()["requests"] >= before["requests"] + 3
    assert totals()["errors"] == 0
