"""A `socketserver.BaseRequestHandler` class in a threads or sync worker: one instance per connection, as ever.

It owns the stand-in for the server that a handler knows as `self.server`. Sockets are those of `sockets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    import socketserver
    from collections.abc import Callable


class StandIn:
    """What a handler sees as `self.server`: one per worker, so what it keeps there it shares with that worker's others.

    Attributes:
        RequestHandlerClass: the handler class, or the partial of it that was named.
        server_address: the local address of the first connection that this worker served; None before.
        server_name: its host, and `server_port` its port, as `http.server` has them.
        address_family, socket_type, timeout, request_queue_size, daemon_threads: with the meaning of `socketserver`.
    """

    timeout = None
    request_queue_size = 5
    daemon_threads = False
    allow_reuse_address = True

    def __init__(self, handler: Callable[..., socketserver.BaseRequestHandler]) -> None:
        self.RequestHandlerClass = handler
        self.server_address: Any = None
        self.server_name = ""
        self.server_port = 0
        self.address_family = 0
        self.socket_type = 0

    def meet(self, request: socket.socket) -> None:
        """Learn the server's address from the first connection: a handler is made before any worker listens."""
        if self.server_address is None:
            name = request.getsockname()
            self.address_family, self.socket_type = request.family, request.type
            if isinstance(name, tuple):
                self.server_name, self.server_port = str(name[0]), int(name[1])
            self.server_address = name

    def shutdown_request(self, request: socket.socket) -> None:
        """Close a connection in order."""
        request.close()

    close_request = shutdown_request

    def shutdown(self) -> None:
        """Refuse: no peer can end the server.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a handler cannot shut down a preforking server; `prefork stop` does")


def handler_of(handler: Any) -> Callable[[socket.socket, Any], None]:  # noqa: ANN401 - checked by `detect`
    """Return a function of a socket and an address that makes an instance of `handler` for each connection."""
    server = StandIn(handler)

    def handle(request: socket.socket, address: Any) -> None:  # noqa: ANN401 - a tuple, or a path
        server.meet(request)
        handler(request, address, server)

    return handle
