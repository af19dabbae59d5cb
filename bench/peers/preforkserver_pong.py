"""py-prefork-server: `preforkserver_pong.py PORT PROCESSES`. A process serves one connection at a time."""

from __future__ import annotations

import sys
from socket import IPPROTO_TCP, TCP_NODELAY

from preforkserver import BaseChild, Manager


class Pong(BaseChild):
    """Answers each line."""

    def process_request(self) -> None:
        """Serve one connection."""
        self.conn.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        with self.conn.makefile("rb") as lines:
            while lines.readline():
                self.conn.sendall(b"+PONG\r\n")


def main() -> None:
    """Serve with as many children, never more or fewer."""
    port, processes = (int(word) for word in sys.argv[1:])
    Manager(
        Pong,
        max_servers=processes,
        min_servers=processes,
        min_spare_servers=0,
        max_spare_servers=processes,
        bind_ip="127.0.0.1",
        port=port,
        listen=2048,
    ).run()


if __name__ == "__main__":
    main()
