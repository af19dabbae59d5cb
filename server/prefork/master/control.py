"""The control socket: one JSON object per line in, one out, between the command line and a running master.

It owns the socket, who may speak on it (0600, and the peer's user is checked), and the bounds of a request. What a
command does is the loop's. The other side, which `prefork status` and the others use, is `ask`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import stat
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prefork import environment
from prefork.errors import AddressError, ControlError
from prefork.log import LOGGER, fields
from prefork.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Generator

MAX_REQUEST: Final = 4096
REPLY_PATIENCE: Final = 0.5
"""Seconds the master waits at most for a peer to take its answer: it fits the socket's buffer, so none are the rule."""


class Asker:
    """One open control connection in the master."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._received = b""
        self._asked = self._ended = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def feed(self) -> None:
        """Receive what has come.

        Raises:
            ControlError: the peer is gone.
        """
        try:
            data = self._socket.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError as error:
            raise ControlError("the peer is gone") from error
        self._received += data
        self._ended = not data

    def take(self) -> dict[str, Any] | None:
        """Return the next request whose line is complete, None while there is none.

        Raises:
            ControlError: the peer has closed, or what it said is no request.
        """
        end = self._received.find(b"\n", 0, MAX_REQUEST)
        if end < 0:
            if self._ended or len(self._received) >= MAX_REQUEST:
                raise _no_request()
            return None
        line, self._received = self._received[:end], self._received[end + 1 :]
        self._asked = True
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:  # a line has room for a few thousand levels
            raise _no_request() from error
        if not isinstance(request, dict):
            raise _no_request()
        return request

    def wait(self, deadline: float) -> bool:
        """Wait until `deadline` for a request of somebody who has connected and may not have sent it yet."""
        if self._asked:
            return False
        return bool(select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0])

    def answer(self, **reply: object) -> None:
        """Send one answer; to a peer that does not read it, it is the last: what comes next is its end of file."""
        try:
            self._socket.settimeout(REPLY_PATIENCE)
            self._socket.sendall(json.dumps(reply).encode() + b"\n")
            self._socket.setblocking(False)
        except OSError:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _no_request() -> ControlError:
    return ControlError(f"not a request: one JSON object in a line of less than {MAX_REQUEST} bytes is expected")


class ControlSocket:
    """The listening side, in the master."""

    def __init__(self, path: str, *, heir: bool) -> None:
        """Listen at `path`; as the heir of the server that answers there, beside it until `take_over`.

        Raises:
            AddressError: another server answers there, or the path cannot be made.
        """
        self.path = path
        self._throttle = Throttle()
        self._bound = _heirs(path, os.getpid()) if heir else path
        try:
            answered = not heir and _is_answered(path)
        except OSError as error:
            raise AddressError(f"--control {path}: {error.strerror or error}") from error
        if answered:
            raise AddressError(f"--control {path}: another server answers there; stop it, or name another path")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o177)  # never open to others, not even between bind and chmod
            try:
                self._socket.bind(self._bound)
            finally:
                os.umask(before)
            self._inode = os.lstat(self._bound).st_ino
            self._socket.listen(64)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise AddressError(f"--control {path}: {error.strerror}; name a path that can be made, or off") from error

    def take_over(self) -> None:
        """Be the one that answers at `path`: in one step, so that nobody ever finds it missing."""
        if self._bound != self.path:
            with contextlib.suppress(OSError):
                Path(self._bound).rename(self.path)
                self._bound = self.path

    def forget_heir(self, pid: int) -> None:
        """Remove the socket of an heir that was killed before it took over."""
        Path(_heirs(self.path, pid)).unlink(missing_ok=True)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def accept(self) -> Asker | None:
        """Return a new connection, or None if there is none, or its user may not command this server.

        Raises:
            OSError: there is no descriptor left for it, or no memory; it waits in the kernel.
        """
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        uid = _peer_uid(sock)
        if uid in {0, os.geteuid(), None}:
            return Asker(sock)
        sock.close()
        if (more := self._throttle.more("user")) is not None:
            LOGGER.warning(
                "control socket: refused user %d: it is neither this server's nor root", uid, extra=fields(**more)
            )
        return None

    def close(self) -> None:
        """Close this process's copy."""
        self._socket.close()

    def unlink(self) -> None:
        """Remove the path, if it is still the one made here."""
        with contextlib.suppress(OSError):
            if os.lstat(self._bound).st_ino == self._inode:
                Path(self._bound).unlink()


def _heirs(path: str, pid: int) -> str:
    """Return where an heir listens until it takes over."""
    return f"{path}.{pid}"


def _is_answered(path: str) -> bool:
    """Say whether somebody listens at `path`; remove the socket there if nobody does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return False
        return True


def _peer_uid(sock: socket.socket) -> int | None:
    """Return the user at the other end (unix(7), SO_PEERCRED); None where that is not told and the mode must guard."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def default_path() -> str:
    """Return where a server without `--control` listens; makes the folder, open to its user alone.

    Raises:
        OSError: there is no folder to be had.
    """
    folder = _folder()
    for one in (folder.parent, folder):  # whoever has the upper one may put another in the place of the lower one
        one.mkdir(mode=0o700, parents=True, exist_ok=True)
        if one.stat().st_uid not in {0, os.geteuid()}:
            raise PermissionError(13, f"{one} belongs to somebody else")
    return str(folder / f"{os.getpid()}.sock")


def _folder() -> Path:
    return environment.runtime_dir() / "prefork"


def find() -> str:
    """Return the socket of the one server that runs here without `--control`.

    Raises:
        ControlError: there is none, or more than one.
    """
    named = environment.prefixed().get("control")
    if named:
        return named
    with contextlib.suppress(OSError):
        answered = [str(path) for path in sorted(_folder().glob("*.sock")) if _is_answered(str(path))]
        if len(answered) == 1:
            return answered[0]
        if answered:
            raise ControlError("several servers run here; choose one by --control: " + " ".join(answered))
    raise ControlError(f"no server was found in {_folder()}; name its socket by --control PATH")


def ask(path: str, timeout: float, **request: object) -> dict[str, Any]:
    """Send one command to the server at `path` and return its answer.

    Raises:
        ControlError: nobody answers there within `timeout` seconds, or the server refused.
    """
    replies = conversation(path, timeout, **request)
    with contextlib.closing(replies):
        reply = next(replies, {"error": f"the server at {path} closed without an answer"})
    if "error" in reply:
        raise ControlError(str(reply["error"]))
    return reply


def conversation(path: str, timeout: float, **request: object) -> Generator[dict[str, Any], None, None]:
    """Send one command and yield each answer, until the server closes: a stop closes when the server is gone.

    Raises:
        ControlError: nobody answers there, or not within `timeout` seconds in all.
    """
    deadline = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(path)
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                for line in lines:
                    yield _reply(line)
                    sock.settimeout(max(0.01, deadline - time.monotonic()))
    except TimeoutError as error:
        raise ControlError(f"the server at {path} did not answer within {timeout:g} s") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "the answer was no JSON object"
        raise ControlError(f"no server answers at {path}: {reason}") from error


def _reply(line: bytes) -> dict[str, Any]:
    reply = json.loads(line)
    if not isinstance(reply, dict):
        raise ValueError  # noqa: TRY004 - as what is no JSON at all
    return reply
