"""What the kit's users cost beside a bare one of Locust's, with a short look."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(
    r"(.+?) +([\d.]+) us of CPU per request \([\d.]+ to [\d.]+\) +([\d.]+) of the bare user's load per core"
)
FAR_LESS = 0.6
"""Half a bare user's load is what one event and five histograms for each request left; a short look is not exact."""


def test_proving_every_answer_leaves_most_of_a_bare_users_load() -> None:
    command = [sys.executable, "-m", "bench.generator", "--rounds", "2", "--seconds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    found = {match[1]: float(match[3]) for match in map(LINE.fullmatch, done.stdout.splitlines()) if match}
    assert set(found) == {"bare", "raw socket", "client package"}, done
    assert found["bare"] == 1
    assert min(found.values()) > FAR_LESS, done.stdout
