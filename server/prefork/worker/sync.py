"""The sync model: the chapter's own loop. One connection at a time: accept, serve, close, and accept again.

A blocking accept(2) queues the workers in the kernel, first come, first served: the fairest share there is. The
listener's receive timeout makes it return now and then, so that the worker can beat and hear its orders.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from prefork.connection import edge
from prefork.scoreboard import Field, Phase
from prefork.worker.accept import PAUSE, Failures, Then
from prefork.worker.boot import blocking_lifespan
from prefork.worker.orders import Order, Orders
from prefork.worker.reception import Reception

if TYPE_CHECKING:
    from prefork.service import Service
    from prefork.worker.post import Post

TICK: Final = 0.25
"""Seconds between two looks at the orders of a worker that waits in accept(2)."""

Accepted = tuple[socket.socket, object]
"""A connection, and whose it is."""


def serve(post: Post, service: Service) -> None:
    """Serve until told to leave.

    Raises:
        TargetError: the service's lifespan could not be entered.
    """
    reception = Reception(post, service)
    with Orders(post) as orders, blocking_lifespan(service):
        accept = _Accept(post, orders, reception)
        post.say_ready(capacity=1)
        orders.pass_trial()
        while True:
            accepted = accept.next()  # step 5: accept
            if accepted is None:
                break
            sock, who = accepted
            reception.serve(sock, who, orders)  # steps 6 and 7: serve, close
            # step 8: back to accept
        post.phase(Phase.DRAINING)
        for listener in post.listeners:
            listener.close()


class _Accept:
    """The next connection of a sync worker, or the end of its service."""

    def __init__(self, post: Post, orders: Orders, reception: Reception) -> None:
        self._post = post
        self._reception = reception
        self._orders = orders
        self._failures = Failures(post)
        self._sockets = [listener.socket for listener in post.listeners]
        self._deadline: float | None = None
        self._short_at = 0.0  # when there was last no descriptor: the queue was not seen empty
        if len(self._sockets) == 1:
            # socket(7): a blocking accept returns EAGAIN after SO_RCVTIMEO
            whole, part = divmod(TICK, 1)
            timeval = struct.pack("ll", int(whole), int(part * 1e6))
            self._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self._sockets[0].setblocking(True)

    def next(self) -> Accepted | None:
        """Return the next connection; None when this worker is to leave."""
        while True:
            self._orders.woken()
            order = self._orders.order
            if order in {Order.RETIRE, Order.QUIT}:
                return None
            if order is Order.STOP:
                return self._last()
            if len(self._sockets) == 1:
                began = time.monotonic()
                one = self._take(self._sockets[0])
                if one is None and time.monotonic() - began < TICK / 2:
                    # it did not block: workers of another model have set the shared socket so
                    one = self._poll(TICK)
                if one is not None:
                    return one
            else:
                one = self._poll(TICK)
                if one is not None:
                    return one

    def _last(self) -> Accepted | None:
        """Return what still waits in the queue, until it has stayed empty for a moment or the drain has timed out."""
        if self._deadline is None:
            self._deadline = self._post.drain_deadline()
        quiet = time.monotonic() + edge.QUEUE_QUIET
        while time.monotonic() < self._deadline:
            one = self._poll(max(0.0, quiet - time.monotonic()))
            quiet = max(quiet, self._short_at + edge.QUEUE_QUIET)
            if one is not None or time.monotonic() >= quiet:
                return one
        return None

    def _poll(self, seconds: float) -> Accepted | None:
        poll = select.poll()
        for listener in self._sockets:
            poll.register(listener, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        for listener in self._sockets:
            if listener.fileno() in ready:
                one = self._take(listener)
                if one is not None:
                    return one
        return None

    def _take(self, listener: socket.socket) -> Accepted | None:
        try:
            sock, address = listener.accept()
        except OSError as error:
            then = self._failures.judge(error)
            if then is Then.PAUSE:
                time.sleep(PAUSE)
                self._short_at = time.monotonic()
            elif then is Then.LEAVE:
                self._orders.hear(Order.RETIRE)
            return None
        cells = self._post.row.cells
        cells[Field.ACCEPTED] += 1
        cells[Field.CONNECTIONS] += 1
        who = self._reception.meet(sock, address)
        return None if who is None else (sock, who)
