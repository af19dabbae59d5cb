"""A server in another process namespace than this one, reached by an `agent` that is in it.

What is asked of it goes as a line of JSON, and so does the answer. How the lines travel is each subclass's own:
`Beside` has a unix socket that both can see, `container.Container` the Docker engine between them.
"""

from __future__ import annotations

import json
import socket
import threading
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

from prefork_loadtest import control

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from prefork_loadtest.control import Status

DEADLINE_S: Final = 10


class AgentError(control.ControlError):
    """The agent did what it was told, and that failed."""


class Remote:
    """A server, as of `reach.Reach`.

    Args:
        place: where it is, in words that follow on "in".
        path: of its control socket, there.
    """

    def __init__(self, place: str, path: str) -> None:
        self.place = place
        self.path = path
        self._turn = threading.Lock()  # one question at a time: a page asks for its table while a fault is watched

    @abstractmethod
    def exchange(self, line: bytes) -> bytes:
        """Send a line to the agent and return the one that it answers.

        Raises:
            OSError: it cannot be reached.
            ValueError: what answers is no agent; the text is what it says.
        """

    def ask(self) -> Status:
        """The status; see `Reach`."""
        try:
            line = str(self.do("ask", path=self.path))
        except AgentError as error:
            raise control.ControlError(f"control socket {self.path!r} in {self.place}: {error}") from error
        return control.parse(line, f"control socket {self.path!r} in {self.place}")

    def prove(self, status: Status) -> None:
        """Refuse an agent that is somewhere else than the server: who listens has another id there."""
        listener = self.do("peer", path=self.path)
        if listener != status.pid:
            what = f"the server is pid {status.pid} to itself and pid {listener} in {self.place}"
            raise control.ControlError(f"{what}: the agent belongs into the server's process namespace")

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signal a process; see `Reach`."""
        try:
            self.do("signal", pid=pid, number=int(number))
        except AgentError as error:
            what = f"{number.name} cannot be sent to pid {pid} in {self.place}"
            raise control.ControlError(f"{what}: {error}") from error

    def stat(self, pid: int) -> str | None:
        """What proc(5) says of a process; None if there is none."""
        text: str | None = self.do("stat", pid=pid)
        return text

    def pids(self) -> list[int]:
        """The ids of all processes there."""
        found: list[int] = self.do("pids")
        return found

    def do(self, what: str, **how: int | str) -> Any:  # noqa: ANN401 - whatever the line of JSON says
        """Have the agent do something.

        Raises:
            AgentError: it could not.
            ControlError: it does not answer.
        """
        try:
            with self._turn:
                line = self.exchange(json.dumps({"do": what, **how}).encode() + b"\n")
        except (OSError, ValueError) as error:
            raise control.ControlError(f"{self.place}: {getattr(error, 'strerror', None) or error}") from error
        try:
            said = json.loads(line)
        except ValueError as error:
            raise control.ControlError(f"{self.place}: {first_words(line)}") from error
        if "error" in said:
            raise AgentError(said["error"])
        return said["ok"]


class Beside(Remote):
    """A server in a container beside this one's, with an agent in its process namespace.

    Args:
        agent: the socket where the agent listens, as it is here.
        path: the server's control socket, as it is for the agent.
    """

    def __init__(self, agent: Path, path: str) -> None:
        super().__init__(f"the namespace of agent {str(agent)!r}", path)
        self._agent = agent
        self._sock: socket.socket | None = None

    def exchange(self, line: bytes) -> bytes:
        """As of `Remote`. An agent that was started anew, with its server, is found again."""
        if self._sock is not None:
            try:
                return self._converse(self._sock, line)
            except TimeoutError:  # it may do it yet: nothing is asked for twice
                self.close()
                raise
            except (OSError, ValueError):
                self.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(DEADLINE_S)
            sock.connect(str(self._agent))
            said = self._converse(sock, line)
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        return said

    def close(self) -> None:
        """Forget the connection; the next question makes another."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    @staticmethod
    def _converse(sock: socket.socket, line: bytes) -> bytes:
        sock.sendall(line)
        said = b""
        while not said.endswith(b"\n"):
            piece = sock.recv(65536)
            if not piece:
                raise ValueError("the agent has ended")
            said += piece
        return said


def first_words(said: bytes) -> str:
    """What somebody says who should have said something else, in one line."""
    return " ".join(said.decode("utf-8", "replace").split())[:200]
