"""How a run gets at its server: asks for its status, sees its processes, signals them.

Whoever strikes or counts knows only `Reach`. `Here` is a server on this machine, in this process namespace; those of
another one are `remote`, and `container.Container` from the host. What is struck, and when, is decided elsewhere.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Protocol

from prefork_loadtest import agent, control
from prefork_loadtest.census import Local, Processes

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from prefork_loadtest.control import Status


class Reach(Processes, Protocol):
    """A server: what it says of itself, and its processes by the ids that it has for them."""

    def ask(self) -> Status:
        """The status.

        Raises:
            ControlError: it cannot be read.
        """
        ...

    def prove(self, status: Status) -> None:
        """Make sure that a signal reaches whom this status names.

        Raises:
            ControlError: it would reach somebody else.
        """
        ...

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signal a process.

        Raises:
            ControlError: it is gone, or not ours to signal.
        """
        ...


class Here(Local):
    """A server on this machine.

    Args:
        path: of its control socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self) -> Status:
        """The status; see `Reach`."""
        return control.ask(self.path)

    def prove(self, status: Status) -> None:
        """Refuse a server whose process ids mean somebody else here, as one in a container's would.

        The kernel tells who listens on the socket by the id that it has here (unix(7), SO_PEERCRED).
        """
        if not hasattr(socket, "SO_PEERCRED"):
            return
        try:
            listener = agent.peer(str(self.path))
        except OSError as error:
            raise control.ControlError(f"control socket {str(self.path)!r}: {error.strerror}") from error
        if listener != status.pid:
            raise control.ControlError(
                f"control socket {str(self.path)!r}: the server is pid {status.pid} to itself and pid {listener} here; "
                "strike where the server runs, or a container from its host by --container"
            )

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signal a process; see `Reach`."""
        try:
            os.kill(pid, number)
        except OSError as error:
            raise control.ControlError(f"{number.name} cannot be sent to pid {pid}: {error.strerror}") from error
