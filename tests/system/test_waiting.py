"""Replies that wait: in order, so many at once, and without standing in anybody's way."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from support.server import Server, exchange, read_all, read_exactly, reset, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOGETHER = """
    import asyncio
    from prefork import Lines, reply

    at_work, most = 0, 0
    three = asyncio.Barrier(3)

    @reply(Lines(newline=b"\\n"), concurrency=3)
    async def service(line: bytes) -> bytes:
        global at_work, most
        at_work += 1
        most = max(most, at_work)
        await three.wait()
        for _ in range(10 - int(line)):  # the last come out first
            await asyncio.sleep(0)
        at_work -= 1
        return line + b":%d" % most
"""


def test_so_many_requests_of_a_connection_are_at_work_at_once_and_answered_in_order(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    with start(module(TOGETHER), "--workers", "1") as server:
        answers = exchange(server.address, b"".join(b"%d\n" % number for number in range(9))).split()
        assert [answer.partition(b":")[0] for answer in answers] == [b"%d" % number for number in range(9)]
        assert {answer.partition(b":")[2] for answer in answers} == {b"3"}


def test_peer_that_waits_for_its_answers_is_not_idle_and_is_again_behind_the_last(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path
) -> None:
    service = module("""
        import asyncio
        from pathlib import Path
        from prefork import Lines, reply

        @reply(Lines(newline=b"\\n"), concurrency=4)
        async def service(line: bytes) -> bytes:
            while not Path(line.decode()).exists():
                await asyncio.sleep(0.01)
            return line
    """)
    with start(service, "--workers", "1", "--idle-timeout", "0.5") as server, server.connect() as sock:
        begin = time.monotonic()
        sock.sendall(b"first\nsecond\n")
        until(lambda: time.monotonic() - begin > 1.2, what="twice the idle timeout has passed")
        sock.sendall(b"third\n")
        until(lambda: server.status()["totals"]["bytes_in"] == 19, what="it has come")
        (tmp_path / "first").touch()
        (tmp_path / "third").touch()
        assert read_exactly(sock, 6) == b"first\n"
        until(lambda: time.monotonic() - begin > 2.4, what="twice the idle timeout has passed again")
        (tmp_path / "second").touch()
        answered = time.monotonic()
        assert read_all(sock) == b"second\nthird\n"
        assert 0.4 < time.monotonic() - answered < 3


@pytest.mark.parametrize("concurrency", [1, 4])
def test_request_that_comes_while_a_draining_worker_is_at_work_for_its_peer_is_answered(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path, concurrency: int
) -> None:
    service = module(f"""
        import asyncio
        from pathlib import Path
        from prefork import Lines, reply

        @reply(Lines(newline=b"\\n"), concurrency={concurrency})
        async def service(line: bytes) -> bytes:
            while not Path(line.decode()).exists():
                await asyncio.sleep(0.01)
            return line
    """)
    with start(service, "--workers", "1") as server, server.connect() as quiet, server.connect() as busy:
        (tmp_path / "quiet").touch()
        quiet.sendall(b"quiet\n")
        assert read_exactly(quiet, 6) == b"quiet\n"
        busy.sendall(b"first\n")
        until(lambda: server.status()["totals"]["bytes_in"] == 12)
        assert run("reload", "--control", server.control).returncode == 0
        assert quiet.recv(1) == b""  # now whoever is quiet has been ended
        busy.sendall(b"second\n")
        (tmp_path / "first").touch()
        (tmp_path / "second").touch()
        assert read_exactly(busy, 13) == b"first\nsecond\n"


def test_one_that_fails_among_several_ends_the_connection_behind_the_answers_before_it(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio
        from prefork import Lines, reply

        @reply(Lines(newline=b"\\n"), concurrency=8)
        async def service(line: bytes) -> bytes:
            await asyncio.sleep(0)
            return b"%d" % (6 // int(line))
    """)
    with start(service, "--workers", "1") as server:
        with server.connect() as sock:
            sock.sendall(b"1\n2\n0\n3\n0\n")
            assert read_all(sock) == b"6\n3\n"
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert exchange(server.address, b"3\n") == b"2\n"
        assert server.log().count("ZeroDivisionError") == 1
        assert "never retrieved" not in server.log()


BLOCKING = """
    import threading
    from prefork import Lines, reply

    go = threading.Event()

    @reply(Lines(newline=b"\\n"), blocking=True)
    def service(line: bytes) -> bytes:
        if line == b"go":
            go.set()
        elif line == b"wait":
            assert go.wait(30)
        return line
"""


@pytest.mark.parametrize("model", ["async", "threads"])
def test_a_reply_that_blocks_keeps_nobody_else_waiting_and_is_not_taken_for_a_stuck_loop(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    options = ["--workers", "1", "--model", model, "--hang-timeout", "1"]
    with start(module(BLOCKING), *options) as server, server.connect() as waiting:
        workers = server.workers()
        waiting.sendall(b"wait\nnext\n")
        until(lambda: server.status()["workers"][0]["age_s"] > 3.0, 10)  # the hang timeout, three times over
        assert exchange(server.address, b"other\n") == b"other\n"
        assert exchange(server.address, b"go\n") == b"go\n"
        assert read_exactly(waiting, 10) == b"wait\nnext\n"
        assert server.workers() == workers


def test_a_reply_that_blocks_runs_in_threads_unless_told_otherwise(module: Callable[..., str], tmp_path: Path) -> None:
    told = run("check", module(BLOCKING), "--bind", "127.0.0.1:0", "--workers", "2", cwd=tmp_path)
    assert told.stdout == "ok: app:service on 127.0.0.1:0 with 2 threads workers\n", told.stderr


def test_a_dialogue_that_works_on_after_its_peer_has_left_is_not_cut_off_by_a_reload(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path
) -> None:
    service = module("""
        import asyncio
        from pathlib import Path
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            async for line in conn:
                Path("begun").touch()
                while not Path("go").exists():
                    await asyncio.sleep(0.01)
                Path("done").write_bytes(line)
    """)
    with start(service, "--workers", "1") as server:
        sock = server.connect()
        sock.sendall(b"work\n")
        until((tmp_path / "begun").exists)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()  # by a reset
        assert run("reload", "--control", server.control).returncode == 0
        until(lambda: [worker["state"] for worker in server.status()["workers"]].count("draining") == 1)
        assert not (tmp_path / "done").exists()
        (tmp_path / "go").touch()
        until((tmp_path / "done").exists)
        assert (tmp_path / "done").read_bytes() == b"work"
        until(lambda: [worker["generation"] for worker in server.status()["workers"]] == [2])
        assert server.status()["totals"]["connections"] == 0


@pytest.mark.parametrize("model", ["async", "threads"])
def test_a_blocking_reply_that_raises_what_no_future_can_hold_ends_its_connection(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    service = module("""
        from prefork import Lines, reply

        @reply(Lines(), blocking=True)
        def service(line: bytes) -> bytes:
            return next(iter(()))
    """)
    with start(service, "--workers", "1", "--model", model) as server:
        with server.connect() as sock:
            sock.sendall(b"one\r\n")
            assert read_all(sock) == b""
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.log().count("the handler failed") == 1


def test_a_wait_that_is_given_up_costs_no_frame(start: Callable[..., Server], module: Callable[..., str]) -> None:
    service = module("""
        import asyncio
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            try:
                async with asyncio.timeout(0.05):
                    await conn.receive()
            except TimeoutError:
                await conn.send(b"nothing yet")
            while conn.state != "handler":
                await asyncio.sleep(0.01)
            async for line in conn:
                await conn.send(line)
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        assert read_exactly(sock, 13) == b"nothing yet\r\n"
        sock.sendall(b"one\r\ntwo\r\n")
        assert read_exactly(sock, 10) == b"one\r\ntwo\r\n"


def test_a_send_that_is_given_up_leaves_the_next_one_alone(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio
        from prefork import Connection, Lines, conversation

        @conversation(Lines(max_length=1 << 26))
        async def service(conn: Connection) -> None:
            try:
                async with asyncio.timeout(0.1):
                    await conn.send(b"x" * (1 << 26))
            except TimeoutError:
                await conn.send(b"patience")
                await conn.send(b"done")
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        until(lambda: server.status()["totals"]["bytes_out"] >= 1 << 26)
        assert read_all(sock).endswith(b"x\r\npatience\r\ndone\r\n")


RAISES = """
    import asyncio
    from prefork import Lines, conversation, reply

    class Fatal(BaseException):
        pass

    async def fail(how):
        if how == b"cancelled":
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone
        raise Fatal

    @reply(Lines())
    async def answers(line):
        return await fail(line)

    @conversation(Lines())
    async def talks(conn):
        async for line in conn:
            await fail(line)
"""


@pytest.mark.parametrize("name", ["answers", "talks"])
@pytest.mark.parametrize(("how", "kind"), [("cancelled", "CancelledError"), ("fatal", "Fatal")])
def test_handler_that_raises_what_is_no_exception_is_a_failure_too(
    start: Callable[..., Server], module: Callable[..., str], name: str, how: str, kind: str
) -> None:
    with start(module(RAISES.replace(name, "service")), "--workers", "1", "--access-log") as server:
        assert exchange(server.address, f"{how}\n".encode()) == b""
        until(lambda: f'reason="the handler failed: {kind}"' in server.log())
        assert server.log().count("the handler failed ") == server.status()["totals"]["errors"] == 1


def test_handler_that_another_task_cancels_is_no_failure(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            async for _ in conn:
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
    """)
    with start(service, "--workers", "1") as server:
        assert exchange(server.address, b"go\n" * 3) == b""
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0
        assert "the handler failed" not in server.log()


@pytest.mark.parametrize("step", ["conn.receive()", "flood(conn)"])
def test_end_of_the_connection_in_a_task_group_is_no_failure(
    start: Callable[..., Server], module: Callable[..., str], step: str
) -> None:
    service = module(f"""
        import asyncio
        from prefork import Connection, Lines, conversation

        async def flood(conn: Connection) -> None:
            while True:
                await conn.send(b"x" * 8000)

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            await conn.receive()
            async with asyncio.TaskGroup() as group:
                group.create_task({step})
    """)
    with start(service, "--workers", "1") as server:
        with server.connect() as sock:
            sock.sendall(b"go\n")
            until(lambda: server.status()["totals"]["requests"] == 1)
            reset(sock)
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0
        assert "the handler failed" not in server.log()


@pytest.mark.parametrize("how", ["given up", "by many tasks"])
def test_sends_to_a_peer_that_does_not_read_are_bounded_whoever_makes_them(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path, how: str
) -> None:
    service = module(f"""
        import asyncio
        from pathlib import Path
        from prefork import Connection, Lines, conversation

        async def send(conn: Connection, number: int) -> None:
            try:
                async with asyncio.timeout(0.001 if {how!r} == "given up" else None):
                    await conn.send(b"%d " % number + b"x" * 90_000)
            except TimeoutError:
                pass

        @conversation(Lines(max_length=100_000))
        async def service(conn: Connection) -> None:
            await conn.receive()
            if {how!r} == "given up":
                for number in range(1000):
                    await send(conn, number)
            else:
                sending = [asyncio.create_task(send(conn, number)) for number in range(1000)]
                await asyncio.sleep(0)
            Path("tried").touch()
            if {how!r} != "given up":
                await asyncio.gather(*sending)
            await conn.send(b"last")
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"go\n")
        until((tmp_path / "tried").exists)
        # the kernel takes a few megabytes, the worker what --max-write-buffer allows
        assert server.status()["totals"]["bytes_out"] < 20_000_000
        lines = read_all(sock).split(b"\r\n")
        assert lines[-2:] == [b"last", b""]
        numbers = [int(line.split()[0]) for line in lines[:-2]]
        assert numbers == (sorted(numbers) if how == "given up" else list(range(1000)))


@pytest.mark.parametrize("then", ["return", "await conn.receive()", "await asyncio.sleep(60)"])
def test_what_is_no_payload_ends_its_dialogue_and_no_other(
    start: Callable[..., Server], module: Callable[..., str], then: str
) -> None:
    service = module(f"""
        import asyncio
        from prefork import Connection, Raw, conversation

        @conversation(Raw())
        async def service(conn: Connection) -> None:
            if await conn.receive() == b"bad":
                await conn.send("text")
            else:
                await conn.send(b"good")
            {then}
    """)
    with start(service, "--workers", "1") as server, server.connect() as bad, server.connect() as good:
        bad.sendall(b"bad")
        assert read_all(bad) == b""
        good.sendall(b"good")
        assert read_exactly(good, 4) == b"good"
        assert server.log().count("the handler failed") == 1
        assert server.status()["totals"]["errors"] == 1


def test_a_second_task_that_waits_for_the_frames_of_one_connection_is_told_so(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            first = asyncio.create_task(conn.receive())
            await asyncio.sleep(0)
            try:
                await conn.receive()
            except RuntimeError as error:
                await conn.send(str(error).encode())
            await conn.send(await first)
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        answer = b"another task waits for the next frame of this connection already\r\n"
        assert read_exactly(sock, len(answer)) == answer
        sock.sendall(b"mine\n")
        assert read_exactly(sock, 6) == b"mine\r\n"


@pytest.mark.parametrize("end", [pytest.param("await conn.close()", id="closes"), pytest.param("return", id="returns")])
def test_a_task_that_waits_in_the_middle_of_a_frame_hears_of_the_end_that_another_makes(
    start: Callable[..., Server], module: Callable[..., str], end: str
) -> None:
    service = module(f"""
        import asyncio
        from prefork import Connection, ConnectionEnded, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            begun = asyncio.Event()

            async def read() -> None:
                async for _ in conn:
                    begun.set()

            reader = asyncio.create_task(read())
            await begun.wait()
            await asyncio.sleep(0)  # it waits for the rest of the second line now
            {end}
            await reader
    """)
    with start(service, "--workers", "1") as server:
        with server.connect() as sock:
            sock.sendall(b"one\ntw")
            assert read_all(sock) == b""
        until(lambda: server.status()["totals"]["connections"] == 0)


def test_a_generator_that_is_none_of_pythons_own_is_let_be(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import sys
        from prefork import Connection, Lines, conversation

        class Compiled:  # such as Cython's
            pass

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            sys.get_asyncgen_hooks().firstiter(Compiled())
            async for line in conn:
                await conn.send(line)
    """)
    with start(service, "--workers", "1") as server:
        assert exchange(server.address, b"one\n") == b"one\r\n"


def test_framing_that_another_task_sets_makes_a_frame_of_what_is_here(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio
        from prefork import Connection, FixedSize, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            first = asyncio.create_task(conn.receive())
            while conn.state != "frame":
                await asyncio.sleep(0.01)
            conn.set_framing(FixedSize(4))
            await conn.send(await first)
            await conn.send(await conn.receive())
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"fourands")
        assert read_all(sock) == b"fourands"
        assert server.status()["totals"]["requests"] == 2


def test_what_comes_while_a_handler_works_that_gave_up_waiting_is_kept_for_it(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path
) -> None:
    service = module("""
        import asyncio
        from pathlib import Path
        from prefork import Connection, ConnectionEnded, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            await conn.receive()
            try:
                await asyncio.wait_for(conn.receive(), 0.05)
            except TimeoutError:
                await conn.send(b"working")
            while not Path("go").exists():
                await asyncio.sleep(0.01)
            try:
                while True:
                    await conn.send(await conn.receive())
            except ConnectionEnded as error:
                await conn.send(str(error).encode())
    """)
    with start(service, "--workers", "1", "--idle-timeout", "0.5") as server, server.connect() as sock:
        sock.sendall(b"begin\n")
        assert read_exactly(sock, 9) == b"working\r\n"
        sock.sendall(b"early\n")
        begin = time.monotonic()
        until(lambda: time.monotonic() - begin > 1, what="twice the idle timeout has passed")
        sock.sendall(b"late\n")
        sock.shutdown(socket.SHUT_WR)
        (tmp_path / "go").touch()
        assert read_all(sock) == b"early\r\nlate\r\nthe peer closed\r\n"
