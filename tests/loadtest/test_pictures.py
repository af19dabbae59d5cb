"""Both pages as a person sees them: the report of a run, and the tab on Locust's own page, in a real browser."""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import browser
from support.server import Server
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Any]

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
LOCUST = (sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--autostart", "-u", "2", "-t", "90s")


def fetch(url: str, *, post: bool = False, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, data=b"" if post else None, headers=headers)  # noqa: S310 - our own page
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - as above
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.timeout(240)
def test_the_report_is_drawn_on_a_desk_and_on_a_phone_in_light_and_in_dark(start: Run, tmp_path: Path) -> None:
    browser.find()
    load = ("--users", "8", "--rate", "20", "--duration", "5", "--report", "report")
    outcome = start("run", "steady", *load, "--fault", "kill@2").end()
    assert outcome.code == 0, outcome
    url = (outcome.report / "index.html").resolve().as_uri()
    sizes = {"desk": (1200, 2400), "phone": (500, 3000)}
    for name, size in sizes.items():
        assert browser.picture(url, tmp_path / f"{name}.png", *size) == size
    dark = "--blink-settings=preferredColorScheme=0"
    assert browser.picture(url, tmp_path / "dark.png", *sizes["desk"], dark) == sizes["desk"]
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("desk", "phone", "dark")]
    assert all(len(picture) > 20_000 for picture in pictures), "a page that is nearly empty"
    assert pictures[0] != pictures[2], "light and dark look the same"
    drawn = browser.document(url, tmp_path / "profile-dom")
    assert drawn.index("Passed: every gate held") < drawn.index("<svg")
    assert 'class="lane"' in drawn


@pytest.mark.timeout(240)
def test_locusts_own_page_has_a_tab_with_the_workers_and_buttons_for_faults(start: Run, tmp_path: Path) -> None:
    browser.find()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    with Server("echo", "--workers", "2", tmp_path=tmp_path) as server:
        host, number = server.address
        web = ("--web-host", "127.0.0.1", "--web-port", port, "--prefork-control", server.control)
        process = start("--host", f"tcp://{host}:{number}", *web, command=LOCUST)
        page = f"http://127.0.0.1:{port}"

        def stats() -> Any:  # noqa: ANN401 - JSON
            try:
                return json.loads(fetch(f"{page}/stats/requests")[1])["extended_stats"][0]["data"]
            except (OSError, ValueError, KeyError):
                return []

        rows = until(lambda: [row for row in stats() if row.get("requests", 0) > 20], 60, what="the tab has its rows")
        assert set(rows[0]) == {"worker", "pid", "state", "share", "requests", "accepted", "errors"}
        address = f"{page}/?tab=prefork"
        drawn = browser.document(address, tmp_path / "profile-tab")
        assert "Server workers" in drawn
        assert "worker 0, generation 1" in drawn
        assert "KILL of a worker" in drawn
        size = (1280, 900)
        assert browser.picture(address, tmp_path / "tab.png", *size, "--virtual-time-budget=4000") == size

        assert fetch(f"{page}/prefork/fault/kill", post=True)[0] == 403
        assert fetch(f"{page}/prefork/fault/none", post=True, **{"X-Prefork": "1"})[0] == 404
        before = set(server.workers().values())
        code, said = fetch(f"{page}/prefork/fault/kill", post=True, **{"X-Prefork": "1"})
        assert (code, "kill -9 of worker" in said) == (200, True)
        until(lambda: len(set(server.workers().values()) - before) == 1, 20, what="the killed worker is replaced")
        until(lambda: "kill settled" in fetch(f"{page}/prefork/marks")[1], 20, what="the fault has settled")
        assert process.popen.poll() is None
