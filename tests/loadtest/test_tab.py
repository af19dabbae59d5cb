"""Who may press the buttons on Locust's page."""

from __future__ import annotations

import socket
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from prefork_loadtest.tab import is_local, is_local_name
from support.server import Server
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Any]

WITH_LOGIN = """
from flask_login import UserMixin
from locust import events
from prefork_loadtest.entry import EchoUser

class Visitor(UserMixin):
    id = "somebody"

@events.init.add_listener
def log_in(environment, **_):
    if environment.web_ui:
        environment.web_ui.app.secret_key = "of a test"
        environment.web_ui.login_manager.user_loader(lambda _: Visitor())
"""


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True)]
    + [(other, False) for other in ("192.0.2.7", "10.0.0.1", "::ffff:192.0.2.7", "", None, "localhost")],
)
def test_only_loopback_is_this_machine(address: str | None, local: bool) -> None:  # noqa: FBT001 - a table
    assert is_local(address) is local


@pytest.mark.parametrize(
    ("host", "local"),
    [(name, True) for name in ("localhost", "localhost:8089", "127.0.0.1:8089", "[::1]:8089", "LOCALHOST:80")]
    + [(name, False) for name in ("", "rebound.example:8089", "localhost.example", "192.0.2.7:8089", "[::2]", "a@b:c")],
)
def test_a_page_that_was_made_to_resolve_here_is_not_this_machines_name(host: str, local: bool) -> None:  # noqa: FBT001
    assert is_local_name(host) is local


def press(url: str) -> tuple[int, str]:
    """Press a button, and return the status and where it leads."""
    request = urllib.request.Request(url, data=b"", headers={"X-Prefork": "1"})  # noqa: S310 - our own page
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - as above
            return reply.status, reply.url
    except urllib.error.HTTPError as error:
        return error.code, error.url


def test_with_a_login_the_buttons_are_for_those_who_have_logged_in(start: Run, tmp_path: Path) -> None:
    (tmp_path / "guarded.py").write_text(WITH_LOGIN, "utf-8")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    with Server("echo", "--workers", "2", tmp_path=tmp_path) as server:
        host, number = server.address
        web = ("--web-host", "127.0.0.1", "--web-port", port, "--web-login", "--prefork-control", server.control)
        command = (sys.executable, "-m", "locust", "-f", "guarded.py", "--host", f"tcp://{host}:{number}")
        start(*web, command=command)

        def answered() -> Any:  # noqa: ANN401 - or nothing yet
            try:
                return press(f"http://127.0.0.1:{port}/prefork/fault/kill")
            except OSError:
                return None

        before = server.workers()
        status, url = until(answered, 60, what="the page is there")
        assert (status, url.partition("?")[0]) == (200, f"http://127.0.0.1:{port}/login")
        assert server.workers() == before
