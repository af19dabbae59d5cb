"""Faults in a container, struck from its host by the Docker SDK."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.compose import Compose, Project

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700)]


@pytest.fixture(scope="module")
def server(shared: Compose) -> Project:
    project = shared()
    project.up("server")
    return project


def loadtest(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("prefork-loadtest")), *arguments],
        cwd=cwd, timeout=120, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_worker_is_killed_and_stopped_under_load_and_nothing_else_is_lost(server: Project, tmp_path: Path) -> None:
    name = str(server.container("server").name)
    faults = ("--fault", "kill@1", "--fault", "stop@4:0.5", "--fault", "ttin@6")
    done = loadtest("run", "smoke", "--container", name, "--duration", "7", *faults, "--report", "report", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))["record"]
    assert record["faults"]["kill"]["struck"] == record["faults"]["stop"]["struck"] == 1
    assert record["faults"]["run"]["workers"] == 5
    assert len(server.status()["workers"]) == 5
    (killed,) = record["killed"]
    assert killed not in {row["pid"] for row in server.status()["workers"]}


def test_a_container_that_is_not_there_or_cannot_be_asked_is_one_line_and_exit_2(
    server: Project, tmp_path: Path
) -> None:
    stopped = str(server.container("server").name)
    for name, complaint in (("no-such-container", "there is none of this name"), (stopped, "it is exited")):
        if name == stopped:
            server.run("stop")
        done = loadtest("run", "smoke", "--container", name, "--report", "off", cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done
        assert complaint in done.stderr
