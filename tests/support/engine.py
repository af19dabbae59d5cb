"""Fixtures of the tests in containers: the engine, the images, and Compose projects that clean up after themselves.

A conftest that imports them has them. Without an engine the tests are skipped, and in CI they fail.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from docker.client import from_env

from support.compose import Project, build

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from docker.client import DockerClient

    from support.compose import Compose

BUILD_S = 600.0  # on a cold cache, everything is downloaded
_LIVING: list[Project] = []


def _ask(*arguments: str) -> str:
    """Run `docker ARGUMENTS` and return what it says, or nothing if it fails."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _missing() -> str:
    """Return why there is nothing to test with, or nothing if there is."""
    # Asked by the command line, for the SDK leaves its socket open when nobody answers.
    if not _ask("version", "--format", "{{.Server.Version}}"):
        return "no Docker engine answers"
    return "" if _ask("compose", "version") else "there is no docker compose"


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """Return the engine's client. Without one: skip; in CI: fail, for a test that is skipped there proves nothing."""
    reason = _missing()
    if reason and os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI is set", pytrace=False)
    if reason:
        pytest.skip(reason)
    # The SDK reads DOCKER_HOST but no context; both must speak to the same engine.
    host = _ask("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    client = from_env(environment={**os.environ, "DOCKER_HOST": host})
    yield client
    client.close()


@pytest.fixture(scope="session")
def images(engine: DockerClient) -> None:  # noqa: ARG001 - without an engine, this is skipped
    """Build both images, as `docker compose up` would."""
    build(BUILD_S)


def _factory(engine: DockerClient) -> Generator[Compose]:
    with ExitStack() as stack:

        def make(override: str = "", **env: str) -> Project:
            project = stack.enter_context(Project(engine, override, **env))
            _LIVING.append(project)
            stack.callback(_LIVING.remove, project)
            return project

        yield make


@pytest.fixture
def compose(engine: DockerClient, images: None) -> Iterator[Compose]:  # noqa: ARG001 - they must be there
    """Return a function that makes a Compose project for this test alone."""
    yield from _factory(engine)


@pytest.fixture(scope="module")
def shared(engine: DockerClient, images: None) -> Iterator[Compose]:  # noqa: ARG001 - they must be there
    """Return a function that makes a Compose project for the tests of this module."""
    yield from _factory(engine)


def show_logs(report: pytest.TestReport) -> None:
    """Show the containers' logs with a failure, while the containers are still there."""
    if report.failed:
        report.sections += [(f"logs of {project.name}", project.logs()) for project in _LIVING]
