"""Row 23: a handler that leaks, in a container with as much memory as the compose file gives it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from support.load import Load
from support.scorecard import unexpected
from support.waiting import until

if TYPE_CHECKING:
    from support.compose import Compose, Project
    from support.scorecard import Row

pytestmark = [pytest.mark.docker, pytest.mark.timeout(700)]

LOOK = "cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null || true"
PEAK = "cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes 2>/dev/null || true"
RATE = 100
REPLACED = 12


def oom_kills(project: Project) -> int:
    """Return how many processes of the server's container the kernel has killed for want of memory."""
    return int(re.findall(r"^oom_kill (\d+)$", project.execute("server", "sh", "-c", LOOK), re.MULTILINE)[0])


def peak(project: Project) -> int:
    """Return the most memory that the server's container has had, in MiB; its page cache counts."""
    return int(project.execute("server", "sh", "-c", PEAK).split()[0]) >> 20


def served(compose: Compose, **env: str) -> Project:
    project = compose("override.yml", TARGET="leaky", **env)
    project.up("server")
    return project


def test_row_23_leaking_workers_are_replaced_before_the_kernel_kills_one(compose: Compose, row: Row) -> None:
    project = served(compose)
    limit = project.container("server").attrs["HostConfig"]["Memory"]
    row.says("memory of the container, MiB", limit >> 20)
    with Load(project.address("server", 7), rate=RATE, kept=8) as load:
        until(lambda: project.logs().count("(--max-rss)") >= REPLACED, 120, what="each worker was replaced, thrice")
        status = project.status()
    holds = [int(mib) for mib in re.findall(r"it holds (\d+) MiB \(--max-rss\)", project.logs())]
    row.says("workers replaced", len(holds))
    row.says("the largest of them when seen, MiB, of 80 allowed", max(holds))
    row.says("most memory of the whole container, MiB", peak(project))
    row.is_("OOM kills", oom_kills(project), 0)
    row.is_("workers lost", status["totals"]["workers_lost"], 0)
    row.lost_nothing(load)
    said = project.container("server").logs().decode("utf-8", "replace")
    assert not unexpected(said)
    row.judge()


def test_row_23_without_max_rss_the_kernel_does_kill(compose: Compose, row: Row) -> None:
    project = served(compose, ECHO_MAX_RSS="0")
    with Load(project.address("server", 7), rate=RATE, kept=8):
        until(lambda: oom_kills(project), 120, what="the kernel has killed a worker")
        until(lambda: project.status()["totals"]["workers_lost"], what="the master has seen it")
    row.at_least("OOM kills", oom_kills(project), 1)
    row.is_("restarts of the container", project.container("server").attrs["RestartCount"], 0)
    row.judge()
