"""The life of a worker whose server accepts by itself: `async def serve(listener)`, on an event loop of its own.

It owns the loop, the heartbeat and the orders, as `aio` does, and the words between worker and server: ready once the
server says so, told to drain, awaited until the drain timeout. On a stop the server is told only when the accept queue
has stayed empty for a moment; on a reload at once, and the queue stays with the other workers. It never accepts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from prefork.adapters.listening import Listening
from prefork.connection.edge import QUEUE_QUIET
from prefork.errors import TargetError
from prefork.log import LOGGER
from prefork.scoreboard import Field, Phase
from prefork.worker.aio import DRAIN_TICK, TICK, Ear, new_loop, run_to_its_end
from prefork.worker.orders import Order

if TYPE_CHECKING:
    from prefork.service import Service
    from prefork.worker.post import Post


def serve(post: Post, service: Service) -> None:
    """Serve until told to leave.

    Raises:
        TargetError: the server ended before it said that it is ready.
        RuntimeError: it ended later, although nobody had told it to.
    """
    with asyncio.Runner(loop_factory=new_loop()) as runner:
        run_to_its_end(runner.get_loop(), _serve(post, service))


async def _serve(post: Post, service: Service) -> None:
    loop = asyncio.get_running_loop()
    listening = Listening((one.socket for one in post.listeners), post.row, post.say_ready)
    ear = Ear(post, loop)
    ear.open()

    def tick() -> None:
        post.row.beat()
        loop.call_later(TICK, tick)

    tick()
    server = loop.create_task(service.handler(listening))
    told = loop.create_task(ear.told.wait())
    await asyncio.wait({server, told}, return_when=asyncio.FIRST_COMPLETED)
    if server.done() and not ear.told.is_set():
        _ended_by_itself(server, service, listening)
    post.phase(Phase.DRAINING)
    deadline = post.drain_deadline()
    if ear.order is Order.STOP and listening.is_ready:
        await _queue_is_empty(post, ear, post.closing_time(deadline))
    listening.drain(deadline)
    for listener in post.listeners:
        listener.close()
    while not server.done() and time.monotonic() < deadline and ear.order is not Order.QUIT:
        await asyncio.wait({server}, timeout=DRAIN_TICK)
    await _end(server, post, late=ear.order is not Order.QUIT)
    listening.close()


def _ended_by_itself(server: asyncio.Task[None], service: Service, listening: Listening) -> None:
    error = None if server.cancelled() else server.exception()
    if listening.is_ready:
        raise RuntimeError(f"{service.name} ended, and nobody had told it to drain") from error
    if error is None:
        raise TargetError(f"{service.name} returned without listener.ready(): it must serve until listener.draining()")
    LOGGER.error("%s failed before it was ready", service.name, exc_info=error)
    raise TargetError(
        f"{service.name} failed before it was ready: {type(error).__name__}: {error} (an `async def` with one "
        "parameter is given the listening sockets; a dialogue is decorated with @conversation(...))"
    ) from error


async def _queue_is_empty(post: Post, ear: Ear, until: float) -> None:
    """Wait until the accept queue has been seen empty for a moment, or until `until`.

    The server takes what comes as fast as it can, so the loop itself is asked to say when something has come; not more
    often than once per step, because a server that does not accept leaves the listener readable.
    """
    loop = asyncio.get_running_loop()
    came = time.monotonic()
    sockets = [one.socket for one in post.listeners]
    watched: set[int] = set()

    def arrived(fd: int) -> None:
        nonlocal came
        came = time.monotonic()
        loop.remove_reader(fd)
        watched.discard(fd)

    while (now := time.monotonic()) < until and now - came < QUEUE_QUIET and ear.order is not Order.QUIT:
        for sock in sockets:
            if sock.fileno() not in watched:
                watched.add(sock.fileno())
                loop.add_reader(sock.fileno(), arrived, sock.fileno())
        await asyncio.sleep(DRAIN_TICK)
    for fd in watched:
        loop.remove_reader(fd)


async def _end(server: asyncio.Task[None], post: Post, *, late: bool) -> None:
    """See the server's end: by itself, or cancelled at the end of the drain."""
    if not server.done():
        if late:
            LOGGER.warning("%s: its server did not end within the drain timeout; dropped", post)
        server.cancel()
        await asyncio.wait({server}, timeout=DRAIN_TICK)
    if server.done():
        with contextlib.suppress(asyncio.CancelledError):
            error = server.exception()
            if error is not None:
                post.row.cells[Field.ERRORS] += 1
                LOGGER.error("the server failed while it drained", exc_info=error)
