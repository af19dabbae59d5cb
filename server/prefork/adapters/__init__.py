"""What already exists, run unchanged: each adapter makes a service of code that was not written for prefork.

    opaque      what all of them share: bytes without frames, the service that an adapter makes, how a wait ends
    detect      from a target to its adapter: by what it is, or by `--adapter`
    protocol    an `asyncio.Protocol` class or factory, in async workers
    streams     a `(reader, writer)` callback, in async workers, on top of `protocol`
    sockets     a `handle(sock, address)` function, in threads and sync workers
    secure      the same socket behind TLS
    handlers    a `socketserver.BaseRequestHandler` class, on top of `sockets`
    listening   `async def serve(listener)`: a library that insists on accepting by itself is handed the sockets

Each of them has the drain, the deadlines and the counters of any other connection, as far as they make sense for bytes
whose frames nobody here knows. What TLS and PROXY put between the socket and a connection is below: an adapter is given
a connection that has been made, and asks it alone for its addresses. Nothing here binds, accepts or forks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefork.adapters.opaque import Adapted
from prefork.errors import TargetError
from prefork.service import Service, import_target

if TYPE_CHECKING:
    from prefork.settings import Adapter

__all__ = ["Adapted", "load"]


def load(target: str, adapter: Adapter | None) -> Service:
    """Import `module:attribute` and return the service that it is, or that an adapter makes of it.

    Raises:
        TargetError: one line: it did not load, no adapter fits, or the one that was named does not.
    """
    found = import_target(target)
    if isinstance(found, Service):
        if adapter is not None:
            raise TargetError(f"--adapter {adapter}: {target} is a service of prefork's own making; drop the option")
        return found
    from prefork.adapters.detect import adapt  # noqa: PLC0415 - services of our own need none of it

    return adapt(found, target, adapter)
