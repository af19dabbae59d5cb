"""The task of a dialogue: how its handler begins, goes on and ends.

The handler has a task of its own, and may use all that asyncio has. Where it waits for its peer it need not wait for a
turn of the event loop besides: it goes on in the very call that brings its frame, which spares a future, a callback and
a turn for each request. Where it waits for anything else, its task waits, as always. This file never takes a frame.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import (  # meant for who runs a task's steps: "Extending" in its documentation
    _enter_task,
    _leave_task,
)
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, Final

from prefork.connection.edge import RETURNED, ConnectionEnded
from prefork.connection.link import Hub, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    # what runs a function in the task's context, and what runs the task's coroutine up to its next wait
    Steps = tuple[Callable[..., object], Callable[[None], object]] | tuple[None, None]

_EAGER_TASKS: Final = sys.version_info >= (3, 12)


class Dialogue(Link):
    """A link whose handler is a coroutine in a task."""

    __slots__ = ("_handler", "_spare", "_steps", "_task", "_waiter")

    def __init__(self, hub: Hub, handler: Callable[[Any], Coroutine[Any, Any, None]], address: object) -> None:
        Link.__init__(self, hub, address)
        self._handler = handler
        self._task: asyncio.Task[None] | None = None
        self._steps: Steps | tuple[()] | None = None  # None until it has waited once, () until it is asked for
        self._waiter: asyncio.Future[None] | None = None  # what somebody awaits who waits for news of the peer
        self._spare: asyncio.Future[None] | None = None  # what the task awaits while its coroutine has gone on

    def flush(self) -> None:
        """Send what the handler has sent."""
        raise NotImplementedError

    def _wake(self, reason: str) -> None:
        """Tell the handler that no frame will come."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handler."""
        Link.connection_made(self, transport)
        self._task = self._hub.start(self._converse())

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
        waiter, loop = self._spare, self._hub.loop
        # a task that begins at once, in the middle of the handler's step, must have a future of its own
        if waiter is None or waiter.done() or (_EAGER_TASKS and asyncio.current_task(loop) is not self._task):
            waiter = loop.create_future()
            waiter._asyncio_future_blocking = True  # noqa: SLF001 - as a future says to a task that it is awaited
        self._waiter = waiter
        yield waiter

    def _tell(self) -> None:
        """Let whoever waits for news of the peer go on in the event loop's next turn."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _go_on(self) -> None:
        """Let who waits for news of the peer go on: at once if it is the handler itself, as a step of its task.

        Only the event loop may call it, when no task runs, and only when somebody waits.
        """
        if self._steps is None:  # to prepare for more is not worth it where a peer comes with one request
            self._steps = ()
            self._tell()
            return
        waiter, task, loop = self._waiter, self._task, self._hub.loop
        assert waiter is not None and task is not None  # noqa: S101, PT018 - who waits is the handler or one it began
        run, resume = self._steps or self._look_at_task(task, waiter)
        if run is None or task._fut_waiter is not waiter:  # type: ignore[attr-defined] # noqa: SLF001 - another task waits
            self._tell()
            return
        self._waiter, self._spare = None, waiter
        _enter_task(loop, task)
        try:
            awaited = run(resume, None)
        except BaseException:
            _hand_over(None, waiter)
            raise
        finally:
            _leave_task(loop, task)
            self._spare = None
        if awaited is not waiter:
            _hand_over(awaited, waiter)

    def _look_at_task(self, task: Any, waiter: Any) -> Steps:  # noqa: ANN401 - asks for what has no types
        """Return how to run its steps; None where somebody else makes the tasks, or another task waits here."""
        if not self._hub.plain_tasks:
            self._steps = None, None
        elif hasattr(task, "get_context"):
            self._steps = task.get_context().run, task.get_coro().send
        elif task._fut_waiter is waiter:  # noqa: SLF001 - before Python 3.12 only the future that a task awaits knows
            self._steps = waiter._callbacks[0][1].run, task.get_coro().send  # noqa: SLF001
        else:
            return None, None
        return self._steps

    async def _converse(self) -> None:
        """Run the handler, and close in order what it leaves open: it returned, raised, or was cancelled."""
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._handler(self)
        except ConnectionEnded:  # a handler may let an end pass: no failure
            pass
        except asyncio.CancelledError as error:
            cancelled = error
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - it ends this connection alone
            self._failed(error)
        finally:
            self.flush()
            self._wake(RETURNED)
            self._finish()
        if (waiter := self._spare) is not None:  # a task ends in a step of its own
            if not waiter.done():
                waiter.set_result(None)
            await _yielded(waiter)
        if cancelled is not None:
            raise cancelled


@coroutine
def _yielded(what: object) -> Generator[Any, Any, None]:
    yield what


def _hand_over(awaited: Any, waiter: asyncio.Future[None]) -> None:  # noqa: ANN401 - whatever a coroutine yields
    """Let a task, which still awaits `waiter`, await what its coroutine has come to meanwhile."""
    if waiter.done():  # the task was cancelled in between, and so is what it awaits
        if isinstance(awaited, asyncio.Future):
            awaited.cancel()
        return
    if isinstance(awaited, asyncio.Future):  # yields itself again, to the task this time
        awaited._asyncio_future_blocking = False  # noqa: SLF001
    elif getattr(awaited, "_asyncio_future_blocking", None) is not None:  # a future in Python does not
        awaited._asyncio_future_blocking = False  # noqa: SLF001
        awaited.add_done_callback(partial(_end_wait, waiter))
        return
    elif awaited is not None:
        waiter.set_exception(RuntimeError(f"Task got bad yield: {awaited!r}"))
        return
    waiter.set_result(None)


def _end_wait(waiter: asyncio.Future[None], _awaited: object) -> None:
    if not waiter.done():
        waiter.set_result(None)
