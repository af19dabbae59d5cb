"""The task of a dialogue: how its handler begins, goes on and ends.

The handler has a task of its own, and may use all that asyncio has. Where it waits for its peer it need not wait for a
turn of the event loop besides: it goes on in the very call that brings its frame, which spares a future, a callback and
a turn for each request. Where it waits for anything else, its task waits, as always. This file never takes a frame.
"""

from __future__ import annotations

import asyncio
import sys
from types import coroutine
from typing import TYPE_CHECKING, Any, Final

from prefork.connection.edge import RETURNED, ConnectionEnded
from prefork.connection.link import Hub, Link
from prefork.connection.waiter import Waiter, end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

_EAGER_TASKS: Final = sys.version_info >= (3, 12)

_FIRST_WAITS: Final = 2
"""Waits of a connection that take a future of asyncio: a peer that comes with one request never needs anything else.

Not so with TLS: the event loop closes there as soon as it has read the peer's close, and what came with it must have
been answered by then. (asyncio's own loop may read both before the handler has begun; uvloop does not.)"""


class Dialogue(Link):
    """A link whose handler is a coroutine in a task."""

    __slots__ = ("_first_waits", "_handler", "_stepping", "_task", "_waiter")

    def __init__(self, hub: Hub, handler: Callable[[Any], Coroutine[Any, Any, None]], address: object) -> None:
        Link.__init__(self, hub, address)
        self._handler = handler
        self._task: asyncio.Task[None] | None = None
        self._first_waits = _FIRST_WAITS if not hub.secure else 0  # that are left
        self._waiter: Waiter | asyncio.Future[None] | None = None  # what somebody awaits who waits for news of the peer
        self._stepping: Waiter | None = None  # what the task awaits while its coroutine goes on in a step

    def flush(self) -> None:
        """Send what the handler has sent."""
        raise NotImplementedError

    def cannot_send(self, error: Exception) -> None:
        """End in order: what the handler has sent is no payload."""
        raise NotImplementedError

    def _wake(self, reason: str) -> None:
        """Tell the handler that no frame will come."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handler."""
        Link.connection_made(self, transport)
        conversation = self._converse()
        try:
            self._task = self._hub.start(conversation)
        except Exception as error:  # noqa: BLE001 - a task factory of the service's: what it does not start ends here
            self._failed(error)
            self._transport.abort()
            conversation.close()

    def cancel(self) -> None:
        """Cancel the handler and drop the connection: the drain timeout has come."""
        if self._task is not None:
            self._task.cancel()
        super().cancel()

    def _is_waited_for(self) -> bool:
        """Say whether somebody waits for news of the peer."""
        return self._waiter is not None and not self._waiter.done()

    @coroutine
    def _news(self) -> Generator[Any, Any, None]:
        """Wait until there are news of the peer, or less: whoever awaits this must look whether there are."""
        waiter: Any = self._stepping
        # a task that begins at once, in the middle of the handler's step, must have one of its own
        if waiter is not None and not (_EAGER_TASKS and asyncio.current_task(self._hub.loop) is not self._task):
            waiter.waits = True
        elif self._first_waits:
            self._first_waits -= 1
            waiter = self._hub.loop.create_future()
            waiter._asyncio_future_blocking = True  # noqa: SLF001 - as above
        else:
            waiter = Waiter(self._hub.loop)
        self._waiter = waiter
        try:
            yield waiter
        except GeneratorExit:  # who drove this by hand has lost interest
            if self._waiter is waiter:
                self._waiter = None
            raise

    def _tell(self) -> None:
        """Let whoever waits for news of the peer go on in the event loop's next turn."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _go_on(self) -> None:
        """Let who waits for news of the peer go on: at once if it is the handler itself, as a step of its task.

        Only the event loop may call it, when no task runs, and only when somebody waits.
        """
        waiter = self._waiter
        if type(waiter) is not Waiter or waiter.task is not self._task:
            self._tell()
            return
        self._stepping = waiter
        try:
            if not waiter.step() and self._waiter is waiter:  # nobody waits for a frame any longer
                self._waiter = None
        finally:
            self._stepping = None

    def _flush_now(self) -> None:
        """Send what the handler has sent, before it is too late; what is no payload ends the connection."""
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - whatever a framing, or joining, makes of it
            self.cannot_send(error)

    async def _converse(self) -> None:
        """Run the handler, and close in order what it leaves open: it returned, raised, or was cancelled."""
        try:
            await self._handler(self)
        except BaseException as error:  # whatever it raises ends this connection alone
            if isinstance(error, GeneratorExit) or _was_asked_for(error):
                raise
            if not _is_an_end(error):
                self._failed(error)
        finally:
            self._flush_now()
            self._wake(RETURNED)
            self._finish()
            if self._stepping is not None:
                await end()


def _was_asked_for(error: BaseException) -> bool:
    """Say whether somebody has cancelled this task; else it was something that its handler awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _is_an_end(error: BaseException) -> bool:
    """Say whether a handler, or whatever failed of its task group, has let the connection's end pass: no failure."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(ConnectionEnded)[1] is None
    return isinstance(error, ConnectionEnded)
