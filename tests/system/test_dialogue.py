"""A handler that goes on where its frame comes: what asyncio promises to a coroutine in a task still holds there."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from support import tls
from support.absent import LOOPS, without
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.server import Server
    from support.tls import Authority

SERVICE = """
    import asyncio
    import asyncio.futures
    import contextvars
    import sys

    from prefork import Connection, Lines, Raw, conversation

    number = contextvars.ContextVar("number", default=0)
    lent = asyncio.Queue()
    ended = []


    class Enough(Exception):
        pass


    class BareYield:
        def __init__(self, what):
            self.what = what

        def __await__(self):
            yield self.what


    async def task(conn, first):
        here = asyncio.current_task()
        return str(here is first and here in asyncio.all_tasks())


    async def sleep(conn, first):
        await asyncio.sleep(0.01)
        return await task(conn, first)


    async def give_way(conn, first):
        await asyncio.sleep(0)
        return await task(conn, first)


    async def count(conn, first):
        number.set(number.get() + 1)
        mine = number.get()
        await asyncio.sleep(0.001 if mine % 2 else 0)
        async def other():
            number.set(100)
        await asyncio.create_task(other())
        return f"{mine} {number.get()}"


    async def in_time(conn, first):
        await conn.send(b"waiting")
        async with asyncio.timeout(60):
            return (await conn.receive()).decode()


    async def in_time_by_a_task(conn, first):
        await conn.send(b"waiting")
        return (await asyncio.wait_for(conn.receive(), 60)).decode()


    async def driven_by_hand(conn, first):
        await asyncio.sleep(0)  # what follows is the task's own step
        reading = conn.receive()
        waiter = reading.send(None)
        await conn.send(b"waiting")
        while not waiter.done():
            await asyncio.sleep(0.001)
        await BareYield(waiter)
        try:
            reading.send(None)
        except StopIteration as end:
            return end.value.decode()


    async def timeout(conn, first):
        try:
            async with asyncio.timeout(0.02):
                return "early: " + (await conn.receive()).decode()
        except TimeoutError:
            return f"late {first.cancelling()}"


    async def wait_for(conn, first):
        try:
            return "early: " + (await asyncio.wait_for(conn.receive(), 0.02)).decode()
        except TimeoutError:
            return "late"


    async def cancel_itself(conn, first):
        first.cancel()
        try:
            await conn.receive()
        except asyncio.CancelledError:
            return f"cancelled {first.uncancel()}"
        return "not cancelled"


    async def cancel_itself_and_another(conn, first):
        other = asyncio.create_task(asyncio.sleep(60))
        first.cancel()
        try:
            await other
        except asyncio.CancelledError:
            first.uncancel()
            await asyncio.sleep(0.001)
            return f"cancelled {other.cancelled()}"
        return "not cancelled"


    async def be_cancelled(conn, first):
        other = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_later(0.01, first.cancel)
        try:
            await other
        except asyncio.CancelledError:
            return f"cancelled {first.uncancel()} {other.cancelled()}"
        return "not cancelled"


    async def another_receives(conn, first):
        await conn.send(b"waiting")
        return (await asyncio.create_task(conn.receive())).decode()


    async def eager(conn, first):
        reading = asyncio.Task(conn.receive(), loop=asyncio.get_running_loop(), eager_start=True)
        await asyncio.sleep(0.001)
        reading.cancel()
        await asyncio.sleep(0.001)
        return f"{reading.cancelled()} {first.cancelling()} " + (await conn.receive()).decode()


    async def future_in_python(conn, first):
        future = asyncio.futures._PyFuture(loop=asyncio.get_running_loop())
        asyncio.get_running_loop().call_later(0.01, future.set_result, "done")
        return await future


    async def bad_yield(conn, first):
        try:
            await BareYield(5)
        except RuntimeError as error:
            return str(error)


    async def group(conn, first):
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(asyncio.sleep(0.001 * n, n)) for n in range(3)]
        return str([one.result() for one in made])


    async def send_much(conn, first):
        for n in range(2000):
            await conn.send(b"%d" % n)
        return "sent"


    async def fail(conn, first):
        raise ValueError("on purpose")


    async def fail_later(conn, first):
        await asyncio.sleep(0.001)
        raise ValueError("on purpose")


    async def end_cancelled(conn, first):
        raise asyncio.CancelledError


    async def leave(conn, first):
        sys.exit(3)


    async def lend(conn, first):
        back = asyncio.Event()
        await lent.put((conn, back))
        await conn.send(b"lent")
        await back.wait()
        return "given back"


    async def relay(conn, first):
        other, back = await lent.get()
        async for line in other:
            await conn.send(line)
            if line == b"bye":
                break
        back.set()
        return "relayed"


    async def relay_no_longer(conn, first):
        other, back = await lent.get()
        try:
            async with asyncio.timeout(0.01):
                return (await other.receive()).decode()
        except TimeoutError:
            back.set()
            return "nothing came"


    def watch_the_end(first):
        ended.clear()
        first.add_done_callback(lambda task: ended.append(f"cancelled {task.cancelled()}"))


    async def end_watched(conn, first):
        watch_the_end(first)
        asyncio.get_running_loop().call_soon(lambda: ended.append(f"done {first.done()}"))
        asyncio.get_running_loop().call_soon(first.cancel)
        raise Enough


    async def end_cancelling_itself(conn, first):
        watch_the_end(first)
        first.cancel()
        raise Enough


    async def how_it_ended(conn, first):
        return str(ended)


    async def keep_a_wait(conn, first):
        reading = conn.receive()
        reading.send(None)
        reading.close()
        first.cancel()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            first.uncancel()
        for _ in range(3):
            await asyncio.sleep(0.001)
        await conn.send(b"woken once")
        raise Enough


    async def leave_a_wait(conn, first):
        reading = conn.receive()
        reading.send(None)
        reading.close()
        await conn.send(b"waiting")
        return (await conn.receive()).decode()


    async def keep_a_wait_open(conn, first):
        reading = conn.receive()
        waiter = reading.send(None)
        await conn.send(b"waiting")
        while not waiter.done():
            await asyncio.sleep(0.001)
        return (await conn.receive()).decode()


    class ClosedMeanwhile:
        def __init__(self, conn):
            self.conn = conn

        def __await__(self):
            reading, closing = self.conn.receive(), self.conn.close()
            waiter = reading.send(None)
            try:
                closing.send(None)
            except StopIteration:
                pass
            yield waiter
            reading.send(None)


    async def close_within_a_wait(conn, first):
        await conn.send(b"closed")
        await ClosedMeanwhile(conn)


    async def keep_a_wait_and_close(conn, first):
        reading = conn.receive()
        reading.send(None)
        reading.close()
        await conn.send(b"closed")
        await conn.close()
        for _ in range(3):
            await asyncio.sleep(0.001)
        raise Enough


    async def close(conn, first):
        await conn.close()
        return "closed"


    @conversation(Raw())
    async def unframed(conn: Connection) -> None:
        async for data in conn:
            await conn.send(data)
            if data == b"end":
                await conn.send("no bytes")
                return


    @conversation(Lines())
    async def service(conn: Connection) -> None:
        first = asyncio.current_task()
        async for line in conn:
            if line == b"QUIT":
                return
            try:
                await conn.send((await globals()[line.decode()](conn, first)).encode())
            except Enough:
                return
"""


@pytest.fixture(params=LOOPS)
def talk(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path, request: pytest.FixtureRequest
) -> Server:
    """A server, not started yet, of one worker with this event loop."""
    return start(module(SERVICE), "--workers", "1", PYTHONPATH=without(tmp_path, *LOOPS[request.param]))


ANSWERED = {
    "task": "True",
    "sleep": "True",
    "give_way": "True",
    "timeout": "late 0",
    "wait_for": "late",
    "cancel_itself": "cancelled 0",
    "cancel_itself_and_another": "cancelled True",
    "be_cancelled": "cancelled 0 True",
    "future_in_python": "done",
    "bad_yield": "Task got bad yield: 5",
    "group": "[0, 1, 2]",
}


def test_whatever_a_handler_waits_for_it_goes_on(talk: Server) -> None:
    with talk as server, server.connect() as sock:
        replies = sock.makefile("rb")

        def ask(line: str) -> str:
            sock.sendall(line.encode() + b"\r\n")
            return replies.readline().decode().rstrip()

        for _ in range(3):  # the first frame of a connection, the second and the others each come their own way
            for command, answer in ANSWERED.items():
                assert (command, ask(command)) == (command, answer)
        for n in range(1, 6):
            assert ask("count") == f"{n} {n}"
        for command in ("timeout", "wait_for"):  # what they wait for is here already
            sock.sendall(command.encode() + b"\r\nnews\r\n")
            assert replies.readline() == b"early: news\r\n"
        for command in (
            "another_receives",
            "in_time",
            "in_time_by_a_task",
            "driven_by_hand",
            "leave_a_wait",
            "keep_a_wait_open",
        ) * 3:
            assert (command, ask(command)) == (command, "waiting")
            assert (command, ask("news")) == (command, "news")
        assert ask("task") == "True"
        sock.sendall(b"send_much\r\ntask\r\n")
        assert [replies.readline() for _ in range(2000)] == [b"%d\r\n" % n for n in range(2000)]
        assert [replies.readline() for _ in range(2)] == [b"sent\r\n", b"True\r\n"]
        assert "Traceback" not in server.log()


def test_pipelined_commands_are_answered_in_order_whatever_each_waits_for(talk: Server) -> None:
    with talk as server, server.connect() as sock:
        commands = [name for name in ANSWERED if name not in {"timeout", "wait_for", "cancel_itself"}] * 5
        sock.sendall(b"task\r\n")
        replies = sock.makefile("rb")
        assert replies.readline() == b"True\r\n"
        sock.sendall("".join(f"{name}\r\n" for name in commands).encode())
        assert [replies.readline().decode().rstrip() for _ in commands] == [ANSWERED[name] for name in commands]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_task_that_begins_at_once_waits_by_itself(talk: Server) -> None:
    with talk as server, server.connect() as sock:
        replies = sock.makefile("rb")
        for _ in range(4):
            sock.sendall(b"task\r\n")
            assert replies.readline() == b"True\r\n"
            sock.sendall(b"eager\r\n")
            until(lambda: server.status()["totals"]["requests"] > 0, what="it is at work")
            sock.sendall(b"news\r\n")
            assert replies.readline() == b"True 0 news\r\n"


def test_handler_receives_from_another_connection(talk: Server) -> None:
    with talk as server, server.connect() as lender, server.connect() as borrower:
        lent, borrowed = lender.makefile("rb"), borrower.makefile("rb")
        for _ in range(4):  # what waits for a frame of another's must wait as well in the first step as in the fourth
            lender.sendall(b"lend\r\n")
            assert lent.readline() == b"lent\r\n"
            borrower.sendall(b"relay\r\n")
            for line in (b"one\r\n", b"two\r\n", b"bye\r\n"):
                lender.sendall(line)
                assert borrowed.readline() == line
            assert borrowed.readline() == b"relayed\r\n"
            assert lent.readline() == b"given back\r\n"
            lender.sendall(b"lend\r\n")
            assert lent.readline() == b"lent\r\n"
            borrower.sendall(b"relay_no_longer\r\n")
            assert borrowed.readline() == b"nothing came\r\n"
            assert lent.readline() == b"given back\r\n"
        assert "Traceback" not in server.log()


ENDS = {"QUIT": 0, "fail": 1, "fail_later": 1, "end_cancelled": 1, "leave": 1, "close": 0}
"""How a handler ends, and whether that is an error."""


def test_dialogue_ends_in_order_wherever_its_handler_is(talk: Server) -> None:
    with talk as server:
        errors = 0
        for before in (0, 1, 5):
            for command, failed in ENDS.items():
                with server.connect() as sock, sock.makefile("rb") as replies:
                    for _ in range(before):
                        sock.sendall(b"task\r\n")
                        assert replies.readline() == b"True\r\n"
                    sock.sendall(f"task\r\n{command}\r\n".encode())
                    assert (command, replies.read()) == (command, b"True\r\n")  # an end of file, no reset
                errors += failed
                until(lambda: server.status()["totals"]["connections"] == 0, what="nothing is left of it")
                assert (command, server.status()["totals"]["errors"]) == (command, errors)
        assert server.stop() == 0
        assert len(re.findall("Traceback", server.log())) == errors
        assert "never retrieved" not in server.log()


@pytest.mark.parametrize(
    ("command", "how"),
    [("end_watched", "['done True', 'cancelled False']"), ("end_cancelling_itself", "['cancelled True']")],
)
def test_task_ends_with_its_handler_wherever_that_is(talk: Server, command: str, how: str) -> None:
    with talk as server, server.connect() as asking, asking.makefile("rb") as said:
        for before in (0, 1, 5):
            with server.connect() as sock, sock.makefile("rb") as replies:
                for _ in range(before):
                    sock.sendall(b"task\r\n")
                    assert replies.readline() == b"True\r\n"
                sock.sendall(command.encode() + b"\r\n")
                assert replies.read() == b""
            asking.sendall(b"how_it_ended\r\n")
            assert said.readline().decode().rstrip() == how


@pytest.mark.parametrize(
    ("command", "last"),
    [
        ("keep_a_wait", b"woken once\r\n"),
        ("close_within_a_wait", b"closed\r\n"),
        ("keep_a_wait_and_close", b"closed\r\n"),
    ],
)
def test_wait_that_a_handler_begins_and_leaves_wakes_it_no_second_time(talk: Server, command: str, last: bytes) -> None:
    with talk as server:
        for before in (0, 1, 5):
            with server.connect() as sock, sock.makefile("rb") as replies:
                for _ in range(before):
                    sock.sendall(b"task\r\n")
                    assert replies.readline() == b"True\r\n"
                sock.sendall(command.encode() + b"\r\n")
                assert replies.read() == last
        assert server.stop() == 0
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("before", [0, 1, 5])
def test_handler_that_has_sent_what_is_no_payload_ends_in_order(
    start: Callable[..., Server], module: Callable[..., str], before: int
) -> None:
    with start(module(SERVICE).replace("service", "unframed"), "--workers", "1") as server:
        with server.connect() as sock:
            for _ in range(before):
                sock.sendall(b"more")
                assert sock.recv(100) == b"more"
            sock.sendall(b"end")
            assert sock.makefile("rb").read() == b"end"
        until(lambda: server.status()["totals"]["connections"] == 0, what="nothing is left of it")
        assert server.status()["totals"]["errors"] == 1
        assert server.stop() == 0
        assert "never retrieved" not in server.log()
        assert len(re.findall("Traceback", server.log())) == 1


RELUCTANT = """
    import asyncio
    from contextlib import contextmanager
    from prefork import Connection, Lines, conversation

    def refuse_the_first(loop, coro, **options):
        if coro.__name__ == "REFUSED":
            loop.set_task_factory(None)
            raise RuntimeError("no task for it")
        return asyncio.Task(coro, loop=loop, **options)

    @conversation(Lines())
    async def service(conn: Connection) -> None:
        async for line in conn:
            await conn.send(line)

    @service.lifespan
    @contextmanager
    def tasks():
        asyncio.get_running_loop().set_task_factory(refuse_the_first)
        yield
"""


@pytest.mark.parametrize("refused", ["_converse", "_shake_hands"])
@pytest.mark.parametrize("loop", LOOPS)
def test_connection_for_which_no_task_can_be_made_ends_at_once_and_alone(
    start: Callable[..., Server],
    module: Callable[..., str],
    authority: Authority,
    tmp_path: Path,
    loop: str,
    refused: str,
) -> None:
    options = authority.options if refused == "_shake_hands" else []
    without_some = without(tmp_path, *LOOPS[loop])
    target = module(RELUCTANT.replace("REFUSED", refused))
    with start(target, "--workers", "1", *options, PYTHONPATH=without_some) as server:
        with server.connect() as first:
            assert first.recv(1) == b""
        until(lambda: server.status()["totals"]["connections"] == 0)
        until(lambda: "RuntimeError: no task for it" in server.log())
        assert server.status()["totals"]["errors"] == 1
        assert "never awaited" not in server.log()
        second = tls.connect(server, authority.client()) if options else server.connect()
        with second:
            second.sendall(b"hello\r\n")
            assert second.recv(20) == b"hello\r\n"
