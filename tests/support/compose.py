"""The project's own docker-compose.yml, up under a name of its own: isolated, on free ports, removed at the end."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

    from docker.client import DockerClient
    from docker.models.containers import Container

ROOT: Final = Path(__file__).resolve().parents[2]
BUILDER: Final = "prefork-test"
OVERRIDES: Final = ROOT / "tests" / "docker"
# What would change what is composed, or how it is told.
_FOREIGN: Final = ("COMPOSE_", "ECHO_", "PAGE_", "LB_", "VERDICT_", "PREFORK_")
_ALL: Final = ("--profile", "ci", "--profile", "lb")


def build(timeout: float) -> None:
    """Build both images, always under one name: Compose labels them with it, and each other name is another image."""
    subprocess.run(
        [*_command(BUILDER), "--profile", "ci", "build"], cwd=ROOT, env=_environment(), timeout=timeout, check=True
    )


def _command(project: str) -> list[str]:
    options = ["--project-name", project, "--ansi", "never", "--progress", "plain"]
    return ["docker", "compose", *options, "--file", str(ROOT / "docker-compose.yml")]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


class Project:
    """One Compose project. Leaving it removes its containers, networks and volumes, however it went.

    Args:
        engine: the SDK's client, for what Compose does not tell.
        override: a file in tests/docker that is laid over docker-compose.yml.
        env: variables that the files ask for.
    """

    def __init__(self, engine: DockerClient, override: str = "", **env: str) -> None:
        self.name = f"{BUILDER}-{secrets.token_hex(4)}"
        self._engine = engine
        self._command = _command(self.name)
        if override:
            self._command += ["--file", str(OVERRIDES / override)]
        # two projects must not have the same network; this range is for tests (RFC 2544)
        subnet = f"198.19.{secrets.randbelow(256)}.0/24"
        self._env = {
            **_environment(), "ECHO_PORT": "0", "PAGE_PORT": "0", "LB_PORT": "0", "LB_SUBNET": subnet, **env
        }  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.run(*_ALL, "down", "--volumes", "--remove-orphans", "--timeout", "5")

    def run(self, *arguments: str, timeout: float = 120.0, stdin: str | None = None, expect: int | None = 0) -> str:
        """Run `docker compose ARGUMENTS` and return its standard output.

        Args:
            arguments: of Compose.
            timeout: seconds until it is killed and the test fails.
            stdin: what it reads.
            expect: the exit code that it must have; None for any.
        """
        done = subprocess.run(
            [*self._command, *arguments], cwd=ROOT, env=self._env, input=stdin, timeout=timeout,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if expect is not None and done.returncode != expect:
            sys.stderr.write(f"--- docker compose {' '.join(arguments)}\n{done.stdout}{done.stderr}---\n")
            raise AssertionError(f"docker compose {' '.join(arguments)}: exit code {done.returncode}, not {expect}")
        return done.stdout

    def up(self, *services: str) -> None:
        """Start services, by default those that `docker compose up` starts, and wait until they are healthy."""
        self.run("up", "--no-build", "--wait", "--wait-timeout", "90", *services)

    def logs(self) -> str:
        """Return what all containers have written so far."""
        return self.run(*_ALL, "logs", "--timestamps", "--no-color", expect=None)

    def execute(self, service: str, *command: str, stdin: str | None = None) -> str:
        """Run a command in a service's container and return its standard output."""
        return self.run("exec", "--no-TTY", service, *command, stdin=stdin)

    def status(self) -> dict[str, Any]:
        """Return what `prefork status` says in the server's container."""
        found: dict[str, Any] = json.loads(self.execute("server", "prefork", "status", "--json"))
        return found

    def containers(self, service: str) -> list[Container]:
        """Return a service's containers, ended ones too, in the order of their numbers."""
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        found = self._engine.containers.list(all=True, filters={"label": labels})
        return sorted(found, key=lambda container: str(container.name))

    def container(self, service: str) -> Container:
        """Return the container of a service that has one."""
        (one,) = self.containers(service)
        return one

    def address(self, service: str, port: int) -> tuple[str, int]:
        """Return where a container's port is published."""
        host, _, number = self.run("port", service, str(port)).strip().rpartition(":")
        return host, int(number)


Compose = Callable[..., Project]
"""Makes a project; the arguments are Project's, without the engine."""
