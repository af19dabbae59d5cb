"""The threads model: one thread accepts, a fixed pool of threads serves a connection each.

At its limit of threads the worker does not watch the listener: the kernel's queue is the waiting room.
"""

from __future__ import annotations

import os
import select
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from prefork.connection import edge
from prefork.log import LOGGER
from prefork.scoreboard import Field, Phase
from prefork.worker.accept import PAUSE, Failures, Then
from prefork.worker.boot import blocking_lifespan
from prefork.worker.orders import Bell, Order, Orders
from prefork.worker.reception import Reception

if TYPE_CHECKING:
    import socket
    from concurrent.futures import Future

    from prefork.service import Service
    from prefork.worker.post import Post

TICK: Final = 0.5
"""Seconds between two heartbeats of a loop that nothing else wakes."""


def serve(post: Post, service: Service) -> None:
    """Serve until told to leave.

    Raises:
        TargetError: the service's lifespan could not be entered.
    """
    with Orders(post) as orders, blocking_lifespan(service):
        loop = _Loop(post, service, orders)
        post.say_ready(capacity=loop.size)
        orders.pass_trial()
        while orders.order is Order.SERVE:
            loop.step(TICK)
        post.phase(Phase.DRAINING)
        loop.drain(post.drain_deadline())


class _Loop:
    """The accepting thread."""

    def __init__(self, post: Post, service: Service, orders: Orders) -> None:
        self._post = post
        self._orders = orders
        self._failures = Failures(post)
        self._bell = Bell()
        self._reception = Reception(post, service)
        self.size = min(post.settings.threads, post.settings.max_connections)
        self._pool = ThreadPoolExecutor(self.size, thread_name_prefix="serve")
        self._busy: set[Future[None]] = set()
        self._freed, self._free = os.pipe()  # a serving thread writes a byte when it is done
        os.set_blocking(self._freed, False)
        self._sockets = {listener.socket.fileno(): listener.socket for listener in post.listeners}
        for sock in self._sockets.values():
            sock.setblocking(False)  # sync workers of an older generation may have set it otherwise
        self._poll = select.epoll()
        for fd in (*orders.fds, self._freed):
            self._poll.register(fd, select.EPOLLIN)
        self._watching = False
        self._last = time.monotonic()

    def step(self, seconds: float) -> None:
        """Wait, hear orders, accept one connection from each listener that has one."""
        self._watch(len(self._busy) < self.size)
        events = {fd for fd, _ in self._poll.poll(seconds)}
        self._orders.woken()
        if self._freed in events:
            os.read(self._freed, 4096)
        self._busy = {future for future in self._busy if not future.done()}
        for fd, listener in self._sockets.items():
            if fd in events and len(self._busy) < self.size:
                self._take(listener)

    def drain(self, deadline: float) -> None:
        """Tell the connections, take what still waits in the queue if so ordered, and see them end."""
        closing = self._post.closing_time(deadline)
        self._bell.ring(closing)
        self._last = time.monotonic()
        for fd in self._orders.fds:
            self._poll.unregister(fd)
        # whoever would come in at the very end could not be served to theirs
        while time.monotonic() < closing and self._orders.order is not Order.QUIT:
            if len(self._busy) >= self.size:
                self._last = time.monotonic()  # nobody has looked at the queue: it has not been seen empty
            waiting = self._orders.order is Order.STOP and time.monotonic() - self._last < edge.QUEUE_QUIET
            if not waiting and len(self._busy) < self.size:
                break
            self.step(edge.QUEUE_QUIET / 4)
        self._watch(wanted=False)
        for listener in self._post.listeners:
            listener.close()
        self._sockets.clear()
        while self._busy and time.monotonic() < deadline and self._orders.order is not Order.QUIT:
            self.step(edge.QUEUE_QUIET)
        if left := sum(not future.done() for future in self._busy):
            LOGGER.warning("%s: dropped %d connections at the end of its drain", self._post, left)

    def _watch(self, wanted: bool) -> None:  # noqa: FBT001 - a state to bring about
        if wanted == self._watching:
            return
        self._watching = wanted
        for fd in self._sockets:
            if wanted:
                self._poll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            else:
                self._poll.unregister(fd)

    def _take(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except OSError as error:
            then = self._failures.judge(error)
            if then is Then.PAUSE:
                time.sleep(PAUSE)
                self._last = time.monotonic()  # the queue has not been seen empty
            elif then is Then.LEAVE:
                self._orders.hear(Order.RETIRE)
            return
        self._last = time.monotonic()
        cells = self._post.row.cells
        cells[Field.ACCEPTED] += 1
        cells[Field.CONNECTIONS] += 1
        who = self._reception.meet(sock, address)
        if who is None:
            return
        future = self._pool.submit(self._reception.serve, sock, who, self._bell)
        self._busy.add(future)
        future.add_done_callback(lambda _: os.write(self._free, b"."))
