"""The `ci` profile: a load test whose exit code is Compose's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from support.compose import Compose

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700)]
UP = ("--profile", "ci", "up", "--no-build", "--exit-code-from", "verdict")


def test_a_right_server_passes(compose: Compose, tmp_path: Path) -> None:
    project = compose()
    said = project.run(*UP, timeout=300)
    assert "passed: every gate held (exit 0)" in said

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


def test_a_server_that_lies_once_in_200_fails_with_3(compose: Compose) -> None:
    project = compose("override.yml", TARGET="liar")
    said = project.run(*UP, "verdict", timeout=300, expect=3)
    assert "wrong answers (exit 3)" in said
