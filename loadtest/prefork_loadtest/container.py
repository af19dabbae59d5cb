"""A server in a container, reached from the container's host by the Docker SDK (the extra `docker`).

The agent is one process of ours in the container: a fault is struck at once, and not at the price of a new process for
each look. It is sent there as text, and ends when this process does.
"""

from __future__ import annotations

import struct
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from prefork_loadtest import control
from prefork_loadtest.remote import DEADLINE_S, Remote, first_words

if TYPE_CHECKING:
    from socket import socket

CONTROL_VARIABLE: Final = "PREFORK_CONTROL"
_HEADER: Final = struct.Struct(">BxxxL")
_STDOUT: Final = 1


class ContainerError(Exception):
    """The container cannot be reached. The text is one line with its name, what is wrong and the cure."""


class Container(Remote):
    """A server in a container; see `reach.Reach`.

    Args:
        name: the container's name or id.
        path: of the control socket, in the container; "" for the one that PREFORK_CONTROL names there.

    Attributes:
        host: where its published port is, as a load test takes it; "" if there is none, or more than one.

    Raises:
        ContainerError: there is no SDK, no engine, no such container, it does not run, or it has no Python.
    """

    def __init__(self, name: str, path: str = "") -> None:
        self._name = name
        try:
            import docker.errors  # noqa: PLC0415

            import docker  # noqa: PLC0415 - only who names a container needs it
        except ImportError as error:
            raise self._refusal("it takes the Docker SDK: pip install 'prefork-loadtest[docker]'") from error
        try:
            client = docker.from_env(timeout=DEADLINE_S)
            found = client.containers.get(name)
            if found.status != "running":
                raise self._refusal(f"it is {found.status}; start it first")
            super().__init__(f"container {name}", path or _variable(found.attrs))
            self.host = _published(found.ports)
            self._begin(client.api, str(found.id))
        except docker.errors.NotFound as error:
            raise self._refusal("there is none of this name; see `docker ps`") from error
        except (docker.errors.DockerException, OSError) as error:
            raise self._refusal(f"the Docker engine: {' '.join(str(error).split())}") from error

    def _refusal(self, what: str) -> ContainerError:
        return ContainerError(f"--container {self._name!r}: {what}")

    def _begin(self, api: Any, container: str) -> None:  # noqa: ANN401 - the SDK has no types
        if not self.path:
            raise self._refusal(f"{CONTROL_VARIABLE} is not set in it: give --control PATH, as it is there")
        script = (resources.files("prefork_loadtest") / "agent.py").read_text("utf-8")
        command = ["python3", "-u", "-c", script]
        execution = api.exec_create(container, command, stdin=True, stdout=True, stderr=True)["Id"]
        # The response owns the connection, and closes it when it is forgotten.
        self._response = api.exec_start(execution, socket=True)
        self._sock: socket = getattr(self._response, "_sock", self._response)
        self._sock.settimeout(DEADLINE_S)
        self._said = b""
        try:
            self.do("pids")
        except control.ControlError as error:
            raise self._refusal(f"no python3 answers in it: {error}") from error

    def exchange(self, line: bytes) -> bytes:
        """As of `Remote`. Docker packs the agent's output, and what goes to standard error, in frames."""
        self._sock.sendall(line)
        while b"\n" not in self._said:
            stream, size = _HEADER.unpack(self._exactly(_HEADER.size))
            piece = self._exactly(size)
            if stream != _STDOUT:
                raise ValueError(first_words(piece))
            self._said += piece
        said, _, self._said = self._said.partition(b"\n")
        return said

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._sock.recv(size - len(data))
            if not piece:
                raise ValueError("it has ended")
            data += piece
        return data


def _variable(attributes: dict[str, Any]) -> str:
    """The control socket that the container's environment names, or ""."""
    set_there = dict(entry.partition("=")[::2] for entry in attributes["Config"].get("Env") or ())
    return str(set_there.get(CONTROL_VARIABLE, ""))


def _published(ports: dict[str, list[dict[str, str]] | None]) -> str:
    """The one TCP port that is published, as an address; "" if there is none, or several."""
    found = {
        binding["HostPort"]: binding["HostIp"]
        for port, bindings in ports.items()
        if port.endswith("/tcp")
        for binding in bindings or ()
    }
    if len(found) != 1:
        return ""
    ((number, address),) = found.items()
    return f"tcp://{'127.0.0.1' if address in {'', '0.0.0.0', '::'} else address}:{number}"  # noqa: S104 - it is read
