"""The `ci` profile: a load test whose exit code is Compose's own."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.compose import Compose

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700)]
UP = (
    *("--profile", "ci", "up", "--no-build", "--exit-code-from", "verdict"),
    *("--scale", "verdict-worker=2"),
)


def test_a_right_server_passes(compose: Compose, tmp_path: Path) -> None:
    project = compose(PREFORK_LOADTEST_DURATION="8")
    said = project.run(*UP, timeout=300)
    assert "passed: every gate held (exit 0)" in said
    assert "2 load workers connected" in project.logs()
    assert [said.count(f"load process {number}   ") for number in (1, 2, 3)] == [1, 1, 0]

    codes = {str(c.name): c.attrs["State"]["ExitCode"] for s in ("server", "verdict") for c in project.containers(s)}
    assert codes == {f"{project.name}-server-1": 0, f"{project.name}-verdict-1": 0}
    verdict = project.container("verdict").attrs
    assert verdict["HostConfig"]["ReadonlyRootfs"] is True
    assert verdict["HostConfig"]["CapDrop"] == ["ALL"]
    assert verdict["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert verdict["Config"]["User"] == "10001:10001"

    project.run("--profile", "ci", "cp", "verdict:/srv/loadtest/reports", str(tmp_path))
    report = tmp_path / "reports" / "smoke"
    assert "passed" in (report / "index.html").read_text("utf-8")
    assert json.loads((report / "report.json").read_text("utf-8"))


def test_a_killed_load_worker_makes_the_run_invalid(compose: Compose) -> None:
    project = compose(VERDICT_WORKERS="2", PREFORK_LOADTEST_DURATION="60")
    said: list[str] = []
    run = threading.Thread(target=lambda: said.append(project.run(*UP, "verdict", timeout=300, expect=7)))
    run.start()
    try:
        until(lambda: "requests" in project.logs() or not run.is_alive(), 120, what="the load runs")
        project.containers("verdict-worker")[0].kill("KILL")
    finally:
        run.join()
    assert said, "the exit code was another one"
    assert "a load worker was lost (exit 7)" in said[0]


def test_a_server_that_lies_once_in_200_fails_with_3(compose: Compose) -> None:
    project = compose("override.yml", TARGET="liar")
    said = project.run(*UP, "verdict", timeout=300, expect=3)
    assert "wrong answers (exit 3)" in said
