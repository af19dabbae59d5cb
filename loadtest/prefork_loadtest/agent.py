"""Runs where a server runs, for a load test that is elsewhere: asks, looks and signals there.

    python -m prefork_loadtest.agent /run/prefork/agent.sock      answers there, to whoever may open the socket

A line of JSON comes, a line of JSON goes; see `remote`. A load test on the host of a container sends this file as text
to whatever Python is in there, so that it imports nothing of the kit's, and then speaks by standard input and output.
Where the server is here, the same is done by the same functions: see `control`, `census` and `reach`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import struct
import sys
from pathlib import Path

DEADLINE_S = 2.0
MOST_BYTES = 1 << 20


def ask(path: str, deadline_s: float = DEADLINE_S) -> str:
    """Return the line that the server answers when it is asked for its status.

    Raises:
        OSError: nobody answers there within so many seconds.
    """
    with _connected(path, deadline_s) as sock:
        sock.sendall(b'{"command":"status"}\n')
        line = b""
        while not line.endswith(b"\n") and len(line) <= MOST_BYTES and (piece := sock.recv(65536)):
            line += piece
    return line.decode("utf-8", "replace")


def _connected(path: str, deadline_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(deadline_s)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def peer(path: str) -> int:
    """Return the id that the process that listens there has in this process namespace (unix(7), SO_PEERCRED).

    Raises:
        OSError: nobody listens there.
    """
    with _connected(path, DEADLINE_S) as sock:
        return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def stat(pid: int) -> str | None:
    """Return what proc(5) says of a process; None if there is none."""
    try:
        return Path("/proc", str(pid), "stat").read_text("utf-8", "replace")
    except OSError:
        return None


def pids() -> list[int]:
    """Return the ids of all processes that can be seen; none where there is no /proc."""
    proc = Path("/proc")
    return [int(each.name) for each in proc.iterdir() if each.name.isdigit()] if proc.is_dir() else []


def answer(line: bytes | str) -> bytes:
    """Do what one line asks for, and return the line that says what came of it."""
    try:
        said = {"ok": _do(json.loads(line))}
    except OSError as error:
        said = {"error": error.strerror or "no answer in time"}
    except (ValueError, KeyError, TypeError):
        said = {"error": "not understood"}
    return json.dumps(said).encode() + b"\n"


def _do(request: dict[str, int | str]) -> object:
    match request["do"]:
        case "ask":
            return ask(str(request["path"]))
        case "peer":
            return peer(str(request["path"]))
        case "stat":
            return stat(int(request["pid"]))
        case "pids":
            return pids()
        case "signal":
            os.kill(int(request["pid"]), int(request["number"]))
            return None
    raise ValueError(request["do"])


class _Answers(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(answer(line))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def main(arguments: list[str]) -> None:
    """Answer until the other end closes, or at a socket until somebody ends this."""
    if arguments:
        path = Path(arguments[0])
        path.unlink(missing_ok=True)  # one that was killed leaves it behind
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with _Server(str(path), _Answers) as server:
            server.serve_forever()
    for line in sys.stdin:
        sys.stdout.write(answer(line).decode())
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
