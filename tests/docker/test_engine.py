from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.compose import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("ci", "outcome", "code"), [("", "1 skipped", 0), ("true", "1 error", 1)])
def test_without_an_engine_docker_tests_are_skipped_but_fail_in_ci(
    tmp_path: Path, ci: str, outcome: str, code: int
) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/nobody", "CI": ci}
    test = "tests/docker/test_images.py::test_services_have_the_ports_of_the_services_database"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test],
        cwd=ROOT, env={**os.environ, **nowhere}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert outcome in done.stdout
    assert "no Docker engine answers" in done.stdout
    assert done.returncode == code
