"""The standard library's socketserver: `socketserver_pong.py threads|forks PORT PROCESSES`.

Its servers with threads are preforked by hand; the one that forks for each connection forks anyway.
"""

from __future__ import annotations

import socketserver
import sys

import forking


class Pong(socketserver.StreamRequestHandler):
    """Answers each line."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Serve one connection."""
        while self.rfile.readline():
            self.wfile.write(b"+PONG\r\n")


class Threads(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True


class Forks(socketserver.ForkingTCPServer):
    """A process for each connection."""

    max_children = 1000


def main() -> None:
    """Listen, fork, serve."""
    kind = Threads if sys.argv[1] == "threads" else Forks
    listener = forking.listen()
    server = kind(("127.0.0.1", 0), Pong, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.serve_forever()


if __name__ == "__main__":
    main()
