"""What a handler does behind a frame goes as in any task: random programs of awaits and cancels, run in both ways."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from support.absent import LOOPS, without

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.server import Server

PROGRAMS = 2000

SERVICE = """
    import asyncio
    import asyncio.futures
    import contextvars
    import os
    import random

    from prefork import Connection, Lines, conversation

    number = contextvars.ContextVar("number", default=0)


    def soon(future):
        asyncio.get_running_loop().call_soon(lambda: future.done() or future.set_result("done"))
        return future


    def later():
        return soon(asyncio.get_running_loop().create_future())


    class ByHand:
        def __await__(self):
            future = later()
            future._asyncio_future_blocking = True
            yield future
            return "by hand " + future.result()


    class Twice(asyncio.Future):
        def __await__(self):
            yield from asyncio.Future.__await__(self)
            yield from later()
            return "twice " + self.result()


    class OldStyle:
        def __init__(self, future):
            self.future = future
            self._loop = future.get_loop()
            self._asyncio_future_blocking = False

        def __getattr__(self, name):
            if name == "get_loop":
                raise AttributeError(name)
            return getattr(self.future, name)

        def __await__(self):
            self._asyncio_future_blocking = True
            yield self
            return "old style " + self.future.result()


    class Bare:
        def __init__(self, what):
            self.what = what

        def __await__(self):
            return (yield self.what)


    class Program:
        def __init__(self, seed):
            self.chance = random.Random(seed)
            self.trace = []
            self.subs = []
            self.room = asyncio.Semaphore(1)
            self.queue = asyncio.Queue()

        async def sub(self, kind):
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
                if kind == "raises":
                    raise ValueError(kind)
            except asyncio.CancelledError as error:
                self.trace.append(f"{kind} was cancelled {error.args}")
                if kind == "cleans up":
                    await asyncio.sleep(0)
                    self.trace.append("cleaned up")
                if kind == "goes on":
                    return "nevertheless"
                raise
            return number.get()

        def begin(self):
            task = asyncio.create_task(self.sub(self.chance.choice(["plain", "cleans up", "goes on", "raises"])))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self.subs.append(task)
            return task

        async def op(self, depth=0):
            here, loop = asyncio.current_task(), asyncio.get_running_loop()
            names = [name for name in dir(self) if name.startswith("op_")]
            name = self.chance.choice(names if depth < 2 else [name for name in names if "within" not in name])
            self.trace.append("  " * depth + name)
            try:
                self.trace.append(repr(await getattr(self, name)(here, loop, depth)))
            except (Exception, asyncio.CancelledError) as error:
                self.trace.append(type(error).__name__ + " " + str(error)[:24])
                if depth and self.chance.random() < 0.5:
                    raise

        async def op_give_way(self, here, loop, depth):
            await asyncio.sleep(0)

        async def op_future(self, here, loop, depth):
            return await later()

        async def op_python_future(self, here, loop, depth):
            return await soon(asyncio.futures._PyFuture(loop=loop))

        async def op_future_of_two(self, here, loop, depth):
            future = loop.create_future()

            async def other():
                return await future

            self.subs.append(asyncio.create_task(other()))
            return await soon(future), await self.subs[-1]

        async def op_by_hand(self, here, loop, depth):
            return await ByHand()

        async def op_subclass(self, here, loop, depth):
            return await soon(Twice(loop=loop))

        async def op_bad_yield(self, here, loop, depth):
            await Bare(5)

        async def op_bare_yield(self, here, loop, depth):
            await Bare(None)

        async def op_yield_of_a_future(self, here, loop, depth):
            await Bare(later())

        async def op_generator(self, here, loop, depth):
            await Bare(iter_ for iter_ in "abc")

        async def op_old_style(self, here, loop, depth):
            return await OldStyle(later())

        async def op_looked_at(self, here, loop, depth):
            future = loop.create_future()

            def look():
                waiter = here._fut_waiter
                self.trace.append(f"{isinstance(waiter, asyncio.Future)} {waiter is not None and waiter.done()}")

            loop.call_soon(look)
            soon(future)
            loop.call_soon(look)
            return await future

        async def op_itself(self, here, loop, depth):
            try:
                await here
            finally:
                here._asyncio_future_blocking = False  # asyncio leaves it, and programs share their task

        async def op_future_of_another_loop(self, here, loop, depth):
            other = asyncio.new_event_loop()
            try:
                await other.create_future()
            finally:
                other.close()

        async def op_cancel(self, here, loop, depth):
            return here.cancel(self.chance.choice([None, "why"]))

        async def op_cancel_soon(self, here, loop, depth):
            loop.call_soon(here.cancel)

        async def op_uncancel(self, here, loop, depth):
            return here.cancelling() and here.uncancel()

        async def op_begin(self, here, loop, depth):
            self.begin()

        async def op_cancel_a_task(self, here, loop, depth):
            return self.subs and self.subs[-1].cancel()

        async def op_await_a_task(self, here, loop, depth):
            return await (self.subs[-1] if self.subs else self.begin())

        async def op_await_a_new_task(self, here, loop, depth):
            return await self.begin()

        async def op_gather(self, here, loop, depth):
            return await asyncio.gather(self.begin(), self.begin(), return_exceptions=self.chance.random() < 0.5)

        async def op_shield(self, here, loop, depth):
            return await asyncio.shield(self.begin())

        async def op_wait_for(self, here, loop, depth):
            return await asyncio.wait_for(self.begin(), 0)

        async def op_wait(self, here, loop, depth):
            done, left = await asyncio.wait([self.begin(), self.begin()], return_when=asyncio.FIRST_COMPLETED)
            return len(done), len(left)

        async def op_within_a_timeout(self, here, loop, depth):
            async with asyncio.timeout(0):
                await self.op(depth + 1)

        async def op_within_a_group(self, here, loop, depth):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.sub("plain"))
                await self.op(depth + 1)

        async def op_acquire(self, here, loop, depth):
            loop.call_soon(self.room.release)
            await self.room.acquire()
            return self.room._value

        async def op_get(self, here, loop, depth):
            if self.chance.random() < 0.5:
                loop.call_soon(self.queue.put_nowait, 1)
            async with asyncio.timeout(0):
                return await self.queue.get()

        async def op_context(self, here, loop, depth):
            number.set(number.get() + 1)
            return number.get()

        async def run(self):
            here = asyncio.current_task()
            number.set(0)
            for _ in range(self.chance.randint(1, 5)):
                await self.op()
            for what in [lambda: asyncio.sleep(0), *[lambda sub=sub: asyncio.wait([sub]) for sub in self.subs]]:
                try:
                    await what()
                except asyncio.CancelledError as error:
                    self.trace.append(f"cancelled at last {error.args}")
            while here.cancelling():
                here.uncancel()
            self.trace.append(f"{self.room._value} {[str(sub.cancelled()) for sub in self.subs]}")
            return self.trace


    @conversation(Lines(max_length=1 << 16))
    async def service(conn: Connection) -> None:
        async for line in conn:
            seed = int(line)
            here = await Program(seed).run()
            in_a_task = await asyncio.create_task(Program(seed).run())
            await conn.send(b"same" if here == in_a_task else f"here {here}, in a task {in_a_task}".encode())


    async def wrapped(coro):
        return await coro


    class Task(asyncio.Task):
        pass


    FACTORIES = {
        "asyncio": None,
        "in Python": lambda loop, coro, **options: asyncio.tasks._PyTask(coro, loop=loop, **options),
        "subclass": lambda loop, coro, **options: Task(coro, loop=loop, **options),
        "wrapped": lambda loop, coro, **options: asyncio.Task(wrapped(coro), loop=loop, **options),
    }


    @service.lifespan
    async def tasks():
        asyncio.get_running_loop().set_task_factory(FACTORIES[os.environ["TASKS"]])
        yield
"""


@pytest.mark.parametrize(
    ("loop", "tasks"),
    [
        ("uvloop", "asyncio"),
        ("asyncio", "asyncio"),
        ("uvloop", "in Python"),
        ("uvloop", "subclass"),
        ("uvloop", "wrapped"),
    ],
)
def test_programs_run_as_in_any_task(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path, loop: str, tasks: str
) -> None:
    with (
        start(module(SERVICE), "--workers", "1", PYTHONPATH=without(tmp_path, *LOOPS[loop]), TASKS=tasks) as server,
        server.connect() as sock,
        sock.makefile("rb") as replies,
    ):
        for seed in range(PROGRAMS):
            sock.sendall(b"%d\r\n" % seed)
            assert (seed, replies.readline().decode().rstrip()) == (seed, "same")
        assert not re.search(r"Z error ", server.log())
