"""The scorecard's fixtures: a row per test, and the service that all of them serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import scorecard

if TYPE_CHECKING:
    from collections.abc import Callable

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
def row(request: pytest.FixtureRequest) -> scorecard.Row:
    """Return this test's row; it appears in the table at the end."""
    made = scorecard.row_of(request.node.name)
    request.node.user_properties.append(("scorecard", made))
    return made


@pytest.fixture
def app(module: Callable[..., str]) -> str:
    """Return the target of the service that answers each line with its process id and that line."""
    return module(APP)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    scorecard.report(terminalreporter, config.rootpath / "reports" / "scorecard.json")
