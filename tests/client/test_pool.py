"""The pools: kept connections, their limits, and which requests are made again. Both faces have the same tests."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any, Protocol

import pytest

from client.conftest import DEADLINE, Serve, Server, echo
from prefork_client import (
    AsyncPool,
    BadAddress,
    BadPayload,
    ClientBusy,
    ClientClosed,
    ConnectTimeout,
    PeerClosed,
    Pool,
    Refused,
    ReplyTimeout,
    UsageError,
)


class PoolFace(Protocol):
    """What both pools have in common, called without await."""

    def request(self, payload: bytes, *, repeatable: bool = False) -> bytes: ...
    def close(self) -> None: ...


class AwaitedPool:
    """An AsyncPool with the blocking pool's face; its loop lives in a thread, so that several may ask at once."""

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        self._pool = AsyncPool(address, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def request(self, payload: bytes, *, repeatable: bool = False) -> bytes:
        call = self._pool.request(payload, repeatable=repeatable)
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(DEADLINE)

    def close(self) -> None:
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._pool.close(), self._loop).result(DEADLINE)

    def stop(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()


MakePool = Callable[..., PoolFace]


@pytest.fixture(params=["blocking", "asyncio"])
def make_pool(request: pytest.FixtureRequest, serve: Serve) -> Iterator[MakePool]:
    del serve  # asked for only so that it outlives the pools
    with ExitStack() as stack:

        def make(server: str | Server, **options: float) -> PoolFace:
            address = server if isinstance(server, str) else server.address
            chosen: dict[str, Any] = {"reply_timeout": DEADLINE, **options}
            if request.param == "blocking":
                blocking = Pool(address, **chosen)
                stack.callback(blocking.close)
                return blocking
            awaited = AwaitedPool(address, chosen)
            stack.callback(awaited.stop)
            return awaited

        yield make


class Counted:
    """Counts the connections that a handler is given: each knows its number, from 1."""

    def __init__(self, handler: Callable[[socket.socket, int], object]) -> None:
        self._handler = handler
        self._numbers = count(1)
        self.made = 0

    def __call__(self, connection: socket.socket) -> None:
        number = self.made = next(self._numbers)
        self._handler(connection, number)


def in_threads(calls: int, call: Callable[[int], object]) -> list[object]:
    """Make the calls at once and return what each returned or raised, in order."""
    results: list[object] = [None] * calls

    def run(number: int) -> None:
        try:
            results[number] = call(number)
        except Exception as error:  # noqa: BLE001 - handed to the test
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    return results


def test_a_connection_is_kept_between_requests(make_pool: MakePool, serve: Serve) -> None:
    counted = Counted(lambda connection, _: echo(connection))
    pool = make_pool(serve(counted))
    assert [pool.request(b"%d" % number) for number in range(20)] == [b"%d" % number for number in range(20)]
    assert counted.made == 1


def test_many_callers_share_few_connections_and_each_gets_its_own_answers(make_pool: MakePool, serve: Serve) -> None:
    counted = Counted(lambda connection, _: echo(connection))
    pool = make_pool(serve(counted), size=3)

    def ask(number: int) -> bool:
        payloads = [b"%d-%d" % (number, turn) for turn in range(40)]
        return [pool.request(payload) for payload in payloads] == payloads

    assert in_threads(12, ask) == [True] * 12
    assert counted.made <= 3


def test_what_was_closed_while_idle_is_asked_elsewhere(make_pool: MakePool, serve: Serve) -> None:
    closed = threading.Semaphore(0)

    def answer_once(connection: socket.socket, number: int) -> None:
        connection.recv(100)
        connection.sendall(b"%d\n" % number)
        connection.shutdown(socket.SHUT_WR)
        closed.release()
        connection.recv(100)

    counted = Counted(answer_once)
    pool = make_pool(serve(counted))
    answers = []
    for _ in range(4):
        answers.append(pool.request(b"which?"))
        assert closed.acquire(timeout=DEADLINE)
    assert answers == [b"1", b"2", b"3", b"4"]


def test_however_many_kept_connections_are_closed_the_request_finds_one(make_pool: MakePool, serve: Serve) -> None:
    together, closed = threading.Barrier(5), threading.Semaphore(0)

    def answer_once_together(connection: socket.socket, number: int) -> None:
        request = connection.recv(100)
        if number <= 5:
            together.wait(DEADLINE)
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        closed.release()

    counted = Counted(answer_once_together)
    pool = make_pool(serve(counted))
    assert in_threads(5, lambda number: pool.request(b"%d" % number)) == [b"0", b"1", b"2", b"3", b"4"]
    assert all(closed.acquire(timeout=DEADLINE) for _ in range(5))
    assert pool.request(b"one more") == b"one more"
    assert counted.made == 6


def lose(first: int) -> Counted:
    """Take the request of the first connections and close instead of answering it; serve the others."""

    def handle(connection: socket.socket, number: int) -> None:
        if number <= first:
            connection.recv(100)
        else:
            echo(connection)

    return Counted(handle)


def test_a_lost_request_is_the_callers_to_judge(make_pool: MakePool, serve: Serve) -> None:
    counted = lose(first=1)
    pool = make_pool(serve(counted))
    with pytest.raises(PeerClosed):
        pool.request(b"pay")
    assert counted.made == 1
    assert pool.request(b"pay again") == b"pay again"


def test_a_repeatable_request_is_made_again(make_pool: MakePool, serve: Serve) -> None:
    pool = make_pool(serve(lose(first=2)))
    assert pool.request(b"look up", repeatable=True) == b"look up"


def test_a_repeatable_request_is_made_three_times_at_most(make_pool: MakePool, serve: Serve) -> None:
    counted = lose(first=100)
    pool = make_pool(serve(counted))
    with pytest.raises(PeerClosed):
        pool.request(b"look up", repeatable=True)
    assert counted.made == 3


def test_a_peer_that_closes_every_connection_at_once_is_not_asked_for_ever(make_pool: MakePool, serve: Serve) -> None:
    counted = Counted(lambda connection, _: connection.shutdown(socket.SHUT_WR))
    pool = make_pool(serve(counted))
    with pytest.raises(PeerClosed):
        pool.request(b"one")
    assert counted.made <= 3


def test_a_late_answer_is_never_given_to_the_next_request(make_pool: MakePool, serve: Serve) -> None:
    late = threading.Event()

    def handle(connection: socket.socket, number: int) -> None:
        if number == 1:
            request = connection.recv(100)
            assert late.wait(DEADLINE)
            connection.sendall(b"late " + request)
        else:
            echo(connection)

    pool = make_pool(serve(Counted(handle)), reply_timeout=0.2)
    with pytest.raises(ReplyTimeout):
        pool.request(b"one", repeatable=True)  # a timeout is no loss: the peer may still be at it
    late.set()
    assert pool.request(b"two") == b"two"


def test_more_requests_than_connections_wait_and_are_told_when_it_takes_too_long(
    make_pool: MakePool, full_listener: str
) -> None:
    pool = make_pool(full_listener, size=1, connect_timeout=2.0, reply_timeout=0.3)
    results = in_threads(2, lambda number: pool.request(b"%d" % number))
    assert {type(result) for result in results} == {ConnectTimeout, ClientBusy}


def test_a_payload_that_makes_no_frame_costs_no_connection(make_pool: MakePool, serve: Serve) -> None:
    counted = Counted(lambda connection, _: echo(connection))
    pool = make_pool(serve(counted))
    assert pool.request(b"one") == b"one"
    with pytest.raises(BadPayload):
        pool.request(b"two\nlines")
    assert pool.request(b"three") == b"three"
    assert counted.made == 1


def test_a_connection_that_nobody_used_for_a_while_is_closed(make_pool: MakePool, serve: Serve) -> None:
    ended = threading.Event()

    def handle(connection: socket.socket, number: int) -> None:
        echo(connection)
        if number == 1:
            ended.set()

    counted = Counted(handle)
    pool = make_pool(serve(counted), idle_timeout=0.000001)
    assert pool.request(b"one") == b"one"
    assert pool.request(b"two") == b"two"
    assert ended.wait(DEADLINE)
    assert counted.made == 2


def test_a_closed_pool_has_closed_its_connections(make_pool: MakePool, serve: Serve) -> None:
    ended = threading.Event()

    def handle(connection: socket.socket) -> None:
        echo(connection)
        ended.set()

    pool = make_pool(serve(handle))
    assert pool.request(b"one") == b"one"
    pool.close()
    pool.close()
    assert ended.wait(DEADLINE)
    with pytest.raises(ClientClosed):
        pool.request(b"two")


def test_where_nobody_listens_a_repeatable_request_is_refused_too(make_pool: MakePool, silent_port: str) -> None:
    with pytest.raises(Refused):
        make_pool(silent_port).request(b"one", repeatable=True)


@pytest.mark.parametrize("options", [{"size": 0}, {"idle_timeout": 0}, {"reply_timeout": 0}])
@pytest.mark.parametrize("kind", [Pool, AsyncPool])
def test_options_that_make_no_sense_are_told_at_once(kind: type, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        kind("127.0.0.1:7", **options)
    with pytest.raises(BadAddress):
        kind("nowhere at all")


FORK = """
import os, sys
from prefork_client import Client, ClientClosed, Pool

pool, client = Pool(sys.argv[1]), Client(sys.argv[1])
client.connect()
first = pool.request(b"parent")
child = os.fork()
if child == 0:
    assert pool.request(b"child").split()[0] != first.split()[0], "the child has the parent's connection"
    try:
        client.request(b"child")
    except ClientClosed as error:
        assert "fork" in str(error), error
        os._exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert pool.request(b"parent again").split() == [first.split()[0], b"parent", b"again"]
assert client.request(b"and here").endswith(b"and here")
client.close()
pool.close()
"""


def test_after_a_fork_the_child_has_connections_of_its_own(serve: Serve) -> None:
    def say_which(connection: socket.socket, number: int) -> None:
        while data := connection.recv(100):
            connection.sendall(b"%d " % number + data)

    server = serve(Counted(say_which))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, server.address],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


FORK_THREADS = """
import os, sys, threading
from prefork_client import Pool

sys.setswitchinterval(1e-6)
pool = Pool(sys.argv[1], size=8)
pool.request(b"parent")
failed = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        together = threading.Barrier(8)

        def ask():
            together.wait()
            try:
                pool.request(b"child")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            print(repr(failed[0]), file=sys.stderr)
        os._exit(bool(failed))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
pool.close()
"""


def test_after_a_fork_many_threads_of_the_child_may_begin_at_once(serve: Serve) -> None:
    server = serve(echo)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK_THREADS, server.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
