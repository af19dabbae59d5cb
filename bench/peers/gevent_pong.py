"""gevent's StreamServer, as in its echo example, preforked by hand: `gevent_pong.py PORT PROCESSES`."""

from __future__ import annotations

from socket import IPPROTO_TCP, TCP_NODELAY
from typing import TYPE_CHECKING

from gevent.server import StreamServer
from gevent.socket import socket as green

import forking

if TYPE_CHECKING:
    import socket


def talk(sock: socket.socket, address: tuple[str, int]) -> None:  # noqa: ARG001 - what it is called with
    """Answer each line."""
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    with sock, sock.makefile("rb") as lines:
        try:
            while lines.readline():
                sock.sendall(b"+PONG\r\n")
        except OSError:
            pass


def main() -> None:
    """Listen, fork, serve."""
    listener = forking.listen()
    StreamServer(green(fileno=listener.detach()), talk).serve_forever()


if __name__ == "__main__":
    main()
