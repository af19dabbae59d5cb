"""The scorecard's fixtures: a row per test, and the service that all of them serve."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from support import scorecard
from support.engine import compose, engine, images, show_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

__all__ = ["compose", "engine", "images"]

APP = """
    import os
    from prefork import Lines, reply

    me = b"%d " % os.getpid()

    @reply(Lines())
    def service(line: bytes) -> bytes:
        return me + line
"""
"""Who answers, and the line."""


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[scorecard.Row]:
    """Yield this test's row, which appears in the table at the end; whatever it says is judged."""
    made = scorecard.row_of(request.node.name)
    request.node.user_properties.append(("scorecard", made))
    yield made
    made.judge()


@pytest.fixture
def app(module: Callable[..., str]) -> str:
    """Return the target of the service that answers each line with its process id and that line."""
    return module(APP)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    scorecard.report(terminalreporter, config.rootpath / "reports" / "scorecard.json")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the containers' logs with a failure while they are there, and put the row in a form that can be passed on.

    A report goes from one process to another where tests run side by side.
    """
    report = yield
    show_logs(report)
    plain = [
        (name, asdict(value) if isinstance(value, scorecard.Row) else value) for name, value in report.user_properties
    ]
    report.user_properties = plain
    return report
