"""Replicas behind HAProxy, as a process or a container, restarted in turn under load."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from prefork_loadtest import balancer

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Any]


@pytest.fixture
def haproxy() -> None:
    """HAProxy, or its image. Without one: skip; in CI: fail, for a test that is skipped there proves nothing."""
    reason = balancer.missing()
    if reason and os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI is set", pytrace=False)
    if reason:
        pytest.skip(reason)


@pytest.mark.usefixtures("haproxy")
def test_two_replicas_restarted_in_turn_lose_nothing(start: Run) -> None:
    outcome = start("run", "rolling", "--duration", "4", "--report", "report").end()
    assert outcome.code == 0, outcome
    rolling = outcome.figures("rolling")
    assert (rolling["struck"], rolling["failed"]) == (2, 0)
    assert rolling["requests"] > 0
    for name in ("replica1", "replica2"):
        assert f"{name} ended with exit code 0" in outcome.err
        assert f"{name} is given requests again" in outcome.err
    logs = {path.name for path in outcome.report.glob("server-*.log")}
    assert logs == {f"server-replica{number}-{life}.log" for number in (1, 2) for life in (1, 2)}
