"""The tests in containers have the engine's fixtures, and show the containers' logs with a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.engine import compose, engine, images, shared, show_logs

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["compose", "engine", "images", "shared"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the containers' logs with a failure, while the containers are still there."""
    report = yield
    show_logs(report)
    return report
