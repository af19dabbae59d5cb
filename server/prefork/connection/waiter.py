"""A task's next step, taken at once: by whoever knows that what its coroutine waits for is here.

asyncio runs a task's step in the event loop's next turn, behind a future and a callback. Here its coroutine is run in
the current call instead, as its task would run it, while the task sleeps on. This file knows no connection.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.tasks import (  # meant for who runs a task's steps: "Extending" in its documentation
    _enter_task,
    _leave_task,
)
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

_UNCANCEL_TAKES_BACK: Final = sys.version_info >= (3, 13)

WAITS: Final = 0  # the task waits for somebody to step its coroutine, or to tell it
_STEPS: Final = 1  # its coroutine goes on in a step
_PASSED: Final = 2  # the task goes on by itself, or waits for something else


class Waiter:
    """What one task awaits while its coroutine may be stepped: a future as far as a task needs one.

    A task awaits whatever has `_asyncio_future_blocking` and the methods below (`asyncio.isfuture`). As long as its
    coroutine comes back to awaiting this, it need not know that the coroutine has been on; when it comes to anything
    else, that is done which the task would have done itself (`_end_step`).
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_awaited",
        "_context",
        "_error",
        "_loop",
        "_send",
        "_wakeup",
        "state",
        "task",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._awaited: Any = None  # what the task waits for instead
        self._wakeup: Callable[[Any], object] | None = None  # what a task gives a future to be called back
        self._asyncio_future_blocking = True  # as a future says to a task that it is awaited
        self.task: Any = None  # that awaits this
        self._error: Exception | asyncio.CancelledError | None = None  # what the coroutine is to be thrown
        self.state = WAITS

    def step(self) -> None:
        """Run the task's coroutine up to its next wait. Only for the event loop's own calls: no task may be running."""
        loop, task = self._loop, self.task
        _enter_task(loop, task)
        self.state = _STEPS
        try:
            awaited = self._context.run(self._send, None)
        except BaseException:  # whoever steps a coroutine sees to it that it ends in a step of its task
            self.set_result(None)
            raise
        finally:
            _leave_task(loop, task)
        if awaited is not self or self._error is not None:
            self._end_step(awaited)

    def _end_step(self, awaited: Any) -> None:  # noqa: ANN401 - whatever a coroutine yields
        """Do what a task does behind a step: wait for what its coroutine awaits, or cancel it if that came within.

        What the coroutine awaits wakes the task up by itself from here on; `cancel` is passed on to it.
        """
        cancelled, self._error = self._error, None
        if cancelled is not None and _UNCANCEL_TAKES_BACK and not self.task.cancelling():
            cancelled = None
        if awaited is None:  # which gives way for one turn
            self.set_result(None)
        elif awaited is not self:
            self._error = self._fault(awaited)
            if self._error is not None:
                self.set_result(None)
            else:
                self.state = _PASSED
                self._awaited = awaited
                awaited._asyncio_future_blocking = False  # noqa: SLF001 - as a task says to a future that it waits
                awaited.add_done_callback(self._wakeup, context=self._context)
        if cancelled is not None:
            self.task.cancel(*cancelled.args)
            self.task.uncancel()  # it has been counted already

    def _fault(self, awaited: Any) -> Exception | None:  # noqa: ANN401 - as above
        """Return what a task says of something that cannot be awaited."""
        blocking = getattr(awaited, "_asyncio_future_blocking", None)
        if blocking is None:
            return RuntimeError(f"Task got bad yield: {awaited!r}")
        if awaited.get_loop() is not self._loop:
            return RuntimeError(f"Task {self.task!r} got Future {awaited!r} attached to a different loop")
        if not blocking:
            return RuntimeError(f"yield was used instead of yield from in task {self.task!r} with {awaited!r}")
        if awaited is self.task:
            return RuntimeError(f"Task cannot await on itself: {awaited!r}")
        return None

    # What asks a future: those who wake it up, and its task. ----------------------------------------------------------

    def done(self) -> bool:
        """Say whether nobody waits for news any longer."""
        return self.state != WAITS

    def set_result(self, _: None) -> None:
        """Let the task go on in the event loop's next turn."""
        self.state = _PASSED
        if self._wakeup is not None:
            self._loop.call_soon(self._wakeup, self, context=self._context)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that it belongs to."""
        return self._loop

    def add_done_callback(self, wakeup: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Take what lets the task go on, and the context in which it does."""
        if self._wakeup is not None:
            raise RuntimeError("another task awaits this already")
        self._wakeup = wakeup
        self._context = copy_context() if context is None else context
        task: Any = getattr(wakeup, "__self__", None)
        if hasattr(task, "get_coro"):
            self.task, self._send = task, task.get_coro().send
        if self.state == _PASSED:
            self.set_result(None)

    def cancel(self, msg: object = None) -> bool:
        """Cancel what the task waits for; return whether it hears of that as it goes on."""
        given = () if msg is None else (msg,)
        if self.state == _PASSED:
            return self._awaited is not None and bool(self._awaited.cancel(*given))
        self._error = asyncio.CancelledError(*given)
        if self.state == WAITS:
            self.set_result(None)
        return True

    def result(self) -> None:
        """Say how the waiting ended.

        Raises:
            asyncio.CancelledError: the task was cancelled.
            RuntimeError: its coroutine has awaited what cannot be awaited.
        """
        if self._error is not None:
            try:
                raise self._error
            finally:  # or it would hold itself by its traceback
                self._error = None
