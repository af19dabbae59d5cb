"""The async model: one event loop on uvloop, many connections at once.

It owns the life of the loop: enter the lifespan, accept, beat, hear orders, drain. What a connection does is in
`connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from prefork.adapters.protocol import Outward, ProtocolLink
from prefork.adapters.streams import StreamsLink
from prefork.connection import journal, waiting
from prefork.connection.aio import Connection, keep_no_list
from prefork.connection.edge import NO_HANDSHAKE, QUEUE_QUIET, TLS_CLOSE, peer_name
from prefork.connection.link import Hub, Link
from prefork.connection.reply import ReplyLink
from prefork.connection.tls import report
from prefork.log import LOGGER, fields
from prefork.scoreboard import Field, Phase
from prefork.throttle import Throttle
from prefork.worker import orders
from prefork.worker.accept import Acceptor
from prefork.worker.boot import lifespan_failed
from prefork.worker.orders import Order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from prefork.connection.admission import Admission, Source
    from prefork.service import Service
    from prefork.worker.arrivals import Arrivals
    from prefork.worker.post import Post

TICK: Final = 0.25
"""Seconds between two heartbeats, which are also the sweeps that enforce deadlines."""

DRAIN_TICK: Final = 0.02
"""The same while draining, when every moment is waited for."""


def serve(post: Post, service: Service) -> None:
    """Serve until told to leave.

    Raises:
        TargetError: the service's lifespan could not be entered.
    """
    with asyncio.Runner(loop_factory=new_loop()) as runner:
        run_to_its_end(runner.get_loop(), _serve(post, service))


def run_to_its_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run `main` in `loop`, through every exit() that a task of the service calls: that ends its connection alone."""
    task = loop.create_task(main)
    throttle = Throttle()
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            if (more := throttle.more("exit")) is not None:
                LOGGER.error("the service called exit(), and its worker goes on", exc_info=error, extra=fields(**more))
            loop.call_soon(keep_no_list)  # the loop forgets it when it stops


def new_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop of a worker: uvloop's, or where that is not installed the standard one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop

    class Loop(uvloop.Loop):
        """uvloop's, which puts TLS upon its own transports alone; asyncio's way serves for those of an adapter."""

        async def start_tls(self, transport: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on
            kind = asyncio.BaseEventLoop if isinstance(transport, Outward) else uvloop.Loop
            return await kind.start_tls(self, transport, *arguments, **options)  # type: ignore[arg-type]

    return Loop


async def _serve(post: Post, service: Service) -> None:
    loop = asyncio.get_running_loop()
    keep_no_list()
    async with _lifespan(service):
        hub = Hub(post.settings, service.framing, post.row, loop, post.plan.tls)
        worker = _Worker(post, hub, _link_factory(hub, service, post.settings.threads))
        if service.kind in {"protocol", "streams"}:  # the service's own code asks its transports for their addresses
            worker.know_addresses()
        worker.start()
        await worker.ear.told.wait()
        post.phase(Phase.DRAINING)
        await worker.drain(post.drain_deadline())


@contextlib.asynccontextmanager
async def _lifespan(service: Service) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        try:
            for make in service.lifespans:
                manager = make()
                if isinstance(manager, contextlib.AbstractAsyncContextManager):
                    await stack.enter_async_context(manager)
                else:
                    stack.enter_context(manager)
        except (Exception, asyncio.CancelledError) as error:  # something that it awaited was cancelled
            raise lifespan_failed(service, error) from error
        yield


def _link_factory(hub: Hub, service: Service, threads: int) -> Callable[[object], Link]:
    handler = service.handler
    if service.kind == "protocol":
        return partial(ProtocolLink, hub, handler)
    if service.kind == "streams":
        return partial(StreamsLink, hub, handler)
    if service.kind == "reply":
        if not service.is_async and not service.blocking:
            return partial(ReplyLink, hub, handler)
        if service.blocking:
            handler = waiting.in_pool(handler, ThreadPoolExecutor(threads, "prefork-blocking"))
        handler = waiting.dialogue(handler, service.concurrency)
    return partial(Connection, hub, handler)


class Ear:
    """The orders of a worker with an event loop: its signals, and the end of file that says the master is dead."""

    def __init__(self, post: Post, loop: asyncio.AbstractEventLoop) -> None:
        self._post = post
        self._loop = loop
        self.order = Order.SERVE
        self.told = asyncio.Event()

    def open(self) -> None:
        """Begin to hear."""
        for number, order in orders.SIGNALS.items():
            self._loop.add_signal_handler(number, self.hear, order)
        self._loop.add_signal_handler(signal.SIGUSR1, orders.reopen_log, self._post)
        self._post.channel.setblocking(False)
        self._loop.add_reader(self._post.channel.fileno(), self._channel_readable)

    def hear(self, order: Order) -> None:
        """Take an order; a weightier one stays."""
        self.order = max(self.order, order)
        self.told.set()

    def _channel_readable(self) -> None:
        if not orders.is_orphan(self._post):
            return
        self._loop.remove_reader(self._post.channel.fileno())
        LOGGER.warning("%s: the master is gone; draining", self._post)
        self.hear(orders.MASTER_DIED)


class _Worker:
    """The running parts of an async worker."""

    def __init__(self, post: Post, hub: Hub, factory: Callable[[object], Link]) -> None:
        self._post = post
        self._hub = hub
        self._loop = hub.loop
        self._factory = factory
        on_uvloop = any(kind.__module__.startswith("uvloop") for kind in type(hub.loop).__mro__)
        self._accepted = {one.socket: _Accepted() for one in post.listeners} if on_uvloop else {}
        self._acceptor = Acceptor(post, self._loop, self._take, self._settle)
        hub.released = self._acceptor.released
        self._arrivals: Arrivals | None = None
        if (admission := post.admission()) is not None:
            self._put_before(admission)
        self._joining: list[Coroutine[Any, Any, object]] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._tick_s = TICK
        self.ear = Ear(post, self._loop)
        self._acceptor.broken = lambda: self.ear.hear(Order.RETIRE)

    def _put_before(self, admission: Admission) -> None:
        """Let everybody come by way of the admission, and tell it who has gone."""
        from prefork.worker.arrivals import Arrivals  # noqa: PLC0415 - most servers do without

        acceptor, cells = self._acceptor, self._hub.cells

        def released(source: object) -> None:
            admission.leave(cast("Source", source))
            acceptor.released(source)

        def turned_away(source: object) -> None:
            cells[Field.CONNECTIONS] -= 1
            released(source)

        self._hub.released = released
        self._arrivals = Arrivals(self._loop, admission, self._let_in, turned_away)
        acceptor.take = self._arrivals.come

    def know_addresses(self) -> None:
        """Let the transport of each connection know both its addresses, which costs two system calls."""
        for listener, accepted in self._accepted.items():
            accepted.family = int(listener.family)

    def start(self) -> None:
        """Hear orders, beat, accept; say so from inside the loop."""
        for listener in self._post.listeners:
            listener.socket.setblocking(False)  # sync workers of an older generation may have set it otherwise
        self.ear.open()
        if self._post.trial_s:
            self._loop.call_later(self._post.trial_s, self._acceptor.open)
        else:
            self._acceptor.open()
        self._tick()
        self._loop.call_soon(self._post.say_ready)

    async def drain(self, deadline: float) -> None:
        """Serve the queue out if so ordered, let connections end, and drop what is left at the deadline."""
        hub, acceptor = self._hub, self._acceptor
        hub.begin_to_drain()
        began, closing = time.monotonic(), self._post.closing_time(deadline)
        while (now := time.monotonic()) < deadline and self.ear.order is not Order.QUIT:
            hub.closing = now >= closing
            empty = now - max(began, acceptor.last) >= QUEUE_QUIET and not acceptor.away
            # whoever would come in at the very end could not be served to theirs
            if self.ear.order is Order.RETIRE or empty or hub.closing:
                acceptor.close()
            if acceptor.closed and not hub.cells[Field.CONNECTIONS]:
                return
            self._tick_s = DRAIN_TICK
            self._sweep()
            self._post.row.beat()
            await asyncio.sleep(DRAIN_TICK)
        acceptor.close()
        if hub.links:
            LOGGER.warning("%s: dropped %d connections at the end of its drain", self._post, len(hub.links))
        for link in tuple(hub.links):
            link.cancel()
        if self._arrivals is not None:
            self._arrivals.drop()
        await asyncio.sleep(0)  # cancelled handlers run their last steps

    def _tick(self) -> None:
        self._post.row.beat()
        self._sweep()
        self._loop.call_later(self._tick_s, self._tick)

    def _sweep(self) -> None:
        self._hub.sweep()
        if self._arrivals is not None:
            self._arrivals.sweep(draining=self._hub.draining)

    def _take(self, fd: int, listener: socket.socket, address: object) -> None:
        """Make a connection of an accepted descriptor.

        `connect_accepted_socket` is driven by hand: the transport exists when it first waits, and what it waits for is
        `connection_made`, which stands in the loop's queue before the call that ends it (`_settle`). A task for that
        would be a tenth of what a connection costs.
        """
        if self._hub.secure:
            shaking = self._shake_hands(fd, address)
            try:
                handshake = self._loop.create_task(shaking)
            except Exception as error:  # noqa: BLE001 - a task factory of the service's
                self._give_up(fd, address, error)
                shaking.close()
                return
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)
            return
        accepted = self._accepted.get(listener)
        if accepted is not None:
            accepted.fd = fd
        sock: Any = accepted or _as_socket(fd)
        joining = self._loop.connect_accepted_socket(partial(self._factory, address), sock)
        try:
            joining.send(None)
        except Exception as error:  # noqa: BLE001 - the peer was gone before it was greeted; or a framing of its own raised
            self._give_up(fd, address, error)
        else:
            self._joining.append(joining)

    def _give_up(self, fd: int, address: object, error: Exception) -> None:
        """Close an accepted descriptor of which no connection could be made."""
        socket.close(fd)
        cells = self._hub.cells
        cells[Field.CONNECTIONS] -= 1
        self._hub.released(address)
        if isinstance(error, OSError):
            LOGGER.debug("%s: a connection was gone at once: %s", self._post, error)
        else:
            cells[Field.ERRORS] += 1
            journal.handler_failed(error, peer_name(address))

    def _settle(self) -> None:
        """See to it that all that were just taken return: `connection_made` of each is in the loop's queue by now."""
        if self._joining:
            joining, self._joining = self._joining, []
            self._loop.call_soon(_joined, joining)

    def _let_in(self, fd: int, listener: socket.socket, address: object) -> None:
        """Make a connection of one that comes alone, later than it was accepted."""
        self._take(fd, listener, address)
        self._settle()

    async def _shake_hands(self, fd: int, address: object) -> None:
        """Make a TLS connection of an accepted descriptor, beside accepting others."""
        hub, terms = self._hub, self._hub.tls
        assert terms is not None  # noqa: S101 - only a secure hub shakes hands
        try:
            link = self._factory(address)
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(fd, address, error)
            return
        try:
            await self._loop.connect_accepted_socket(
                lambda: link, _as_socket(fd), ssl=terms.context,
                ssl_handshake_timeout=terms.handshake_timeout, ssl_shutdown_timeout=TLS_CLOSE,
            )  # fmt: skip
        except OSError as error:
            hub.cells[Field.CONNECTIONS] -= 1
            hub.cells[Field.ERRORS] += bool(report(error, peer_name(address)))
            hub.released(address)
            link.write_access_line(NO_HANDSHAKE)


def _as_socket(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


def _joined(joining: list[Coroutine[Any, Any, object]]) -> None:
    for one in joining:
        try:  # noqa: SIM105 - `suppress` costs more than all else here
            one.send(None)
        except StopIteration:
            pass


class _Accepted:
    """What uvloop asks of an accepted socket, without the system calls that a socket object costs.

    uvloop asks at once, takes the descriptor over, closes it itself, and calls `close` afterwards: so one object serves
    for every connection of a listener.
    """

    __slots__ = ("family", "fd")
    type = int(socket.SOCK_STREAM)

    def __init__(self) -> None:
        # for TCP it asks the kernel for both addresses and sets TCP_NODELAY, which the listener has given it already;
        # in all else its two kinds of transport are one
        self.family = int(socket.AF_UNIX)
        self.fd = -1

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.fd

    def close(self) -> None:
        """Do nothing: uvloop has closed the descriptor."""
