"""A task's next step, taken at once: by whoever knows that what its coroutine waits for is here.

asyncio runs a task's step in the event loop's next turn, behind a future and a callback. Here its coroutine is run in
the current call instead, as its task would run it, while the task sleeps on. This file knows no connection.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from asyncio.futures import _get_loop  # type: ignore[attr-defined] # as a task asks whatever it awaits
from asyncio.tasks import (  # meant for who runs a task's steps: "Extending" in its documentation
    _enter_task,
    _leave_task,
)
from contextvars import copy_context
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context

_UNCANCEL_TAKES_BACK: Final = sys.version_info >= (3, 13)

_ENDS: Final = object()


class Waiter(asyncio.Future[None]):
    """What one task awaits while its coroutine may be stepped: a future for this task alone.

    As long as its coroutine comes back to awaiting this, the task need not know that the coroutine has been on; when it
    comes to anything else, that is done which the task would have done itself (`_end_step`). It is a future by what
    others ask a task's future, but has a state of its own: it is never done as long as the task only waits.
    """

    __slots__ = ("_awaited", "_context", "_error", "_send", "_steps", "_wakeup", "loop", "task", "waits")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.loop = loop  # sooner than the future's own
        self._awaited: Any = None  # what the task waits for instead
        self._wakeup: Callable[[Any], object] | None = None  # what a task gives a future to be called back
        self._asyncio_future_blocking = True  # as a future says to a task that it is awaited
        self._error: BaseException | None = None  # what the coroutine is to be thrown
        self._steps = False  # the coroutine goes on
        self.task: Any = None  # that awaits this
        self.waits = True  # for somebody to step its coroutine, or to tell it

    def __repr__(self) -> str:
        """Return what the task waits for: it is what the task's own representation shows."""
        return "<Waiter>" if self._awaited is None else repr(self._awaited)

    def step(self) -> bool:
        """Run the task's coroutine up to its next wait; return whether it waits for this again.

        Only for the event loop's own calls: no task may be running.
        """
        loop, task = self.loop, self.task
        _enter_task(loop, task)
        self._steps, self.waits = True, False
        try:
            awaited = self._context.run(self._send, None)
        except BaseException:  # whoever steps a coroutine sees to it that it ends in a step of its task
            self._wake_soon()
            raise
        finally:
            self._steps = False
            _leave_task(loop, task)
        if awaited is self and self.waits and self._error is None:
            return True
        self._end_step(awaited)
        return self.waits

    def _end_step(self, awaited: Any) -> None:  # noqa: ANN401 - whatever a coroutine yields
        """Do what a task does behind a step: wait for what its coroutine awaits, or cancel it if that came within.

        What the coroutine awaits wakes the task up by itself from here on; `cancel` is passed on to it.
        """
        cancelled, self._error = self._error, None
        if cancelled is not None and _UNCANCEL_TAKES_BACK and not self.task.cancelling():
            cancelled = None
        if awaited is not self:
            self.waits = False
        if awaited is None or (awaited is self and not self.waits):  # it gives way for one turn, or was told meanwhile
            self._wake_soon()
        elif awaited is not self and awaited is not _ENDS:
            try:
                self._pass_on(awaited)
            except Exception as error:  # noqa: BLE001 - it is the coroutine that has awaited this
                self._awaited, self._error = None, error
                self._wake_soon()
        if cancelled is not None:
            self.task.cancel(*cancelled.args)
            self.task.uncancel()  # it has been counted already
        if awaited is _ENDS and self._wakeup is not None:
            self._context.run(self._wakeup, self)

    def _pass_on(self, awaited: Any) -> None:  # noqa: ANN401 - as above
        """Let the task wait for this instead.

        Raises:
            RuntimeError: a task cannot await it.
        """
        task, blocking = self.task, getattr(awaited, "_asyncio_future_blocking", None)
        if awaited is task:
            raise RuntimeError(f"Task cannot await on itself: {awaited!r}")
        if blocking is None and inspect.isgenerator(awaited):
            raise RuntimeError(f"yield was used instead of yield from for generator in task {task!r} with {awaited!r}")
        if blocking is None:
            raise RuntimeError(f"Task got bad yield: {awaited!r}")
        if _get_loop(awaited) is not self.loop:
            raise RuntimeError(f"Task {task!r} got Future {awaited!r} attached to a different loop")
        if not blocking:
            raise RuntimeError(f"yield was used instead of yield from in task {task!r} with {awaited!r}")
        self._awaited = awaited
        awaited._asyncio_future_blocking = False  # noqa: SLF001 - as a task says to a future that it waits
        awaited.add_done_callback(self._wakeup, context=self._context)

    def _wake_soon(self) -> None:
        """Let the task go on in the event loop's next turn."""
        if self._wakeup is not None:
            self.loop.call_soon(self._wakeup, self, context=self._context)

    # What asks a future: those who wake it up, and its task. ----------------------------------------------------------

    def done(self) -> bool:
        """Say whether the task goes on by itself, or is about to."""
        return not self.waits and (self._awaited is None or self._awaited.done())

    def set_result(self, _: None) -> None:
        """Let the task go on in the event loop's next turn."""
        self.waits = False
        if not self._steps:  # else at the end of the step
            self._wake_soon()

    def add_done_callback(self, wakeup: Callable[[Self], object], *, context: Context | None = None) -> None:
        """Take what lets the task go on, and the context in which it does."""
        if self._wakeup is not None:
            raise RuntimeError("another task awaits this already")
        self._wakeup = wakeup
        self._context = copy_context() if context is None else context
        task: Any = getattr(wakeup, "__self__", None)
        if hasattr(task, "get_coro"):
            self.task, self._send = task, task.get_coro().send
        if not self.waits:
            self._wake_soon()

    def cancel(self, msg: object = None) -> bool:
        """Cancel what the task waits for; return whether it hears of that as it goes on."""
        given = () if msg is None else (msg,)
        if self._awaited is not None:
            return bool(self._awaited.cancel(*given))
        if not self.waits and not self._steps:
            return False
        self._error = asyncio.CancelledError(*given)
        self.set_result(None)
        return True

    def result(self) -> None:
        """Say how the waiting ended.

        Raises:
            asyncio.CancelledError: the task was cancelled.
            Exception: its coroutine has awaited what cannot be awaited.
        """
        if self._error is not None:
            try:
                raise self._error
            finally:  # or it would hold itself by its traceback
                self._error = None


@coroutine
def end() -> Generator[Any, Any, None]:
    """Await this at the end of a coroutine in a step: only a step of its task's own can end it, and that follows."""
    yield _ENDS
