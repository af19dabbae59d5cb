"""What only the blocking client does: threads, signals, gevent."""

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from client.conftest import DEADLINE, Serve, Server, hold_until
from prefork_client import Client, ClientBusy, ClientClosed, PeerClosed


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_request_closes_the_connection(serve: Serve) -> None:
    main = threading.main_thread().ident
    assert main is not None
    interrupted = threading.Event()

    def interrupt(connection: socket.socket) -> None:
        connection.recv(100)
        signal.pthread_kill(main, signal.SIGINT)
        interrupted.wait(DEADLINE)
        connection.sendall(b"too late\n")

    with Client(serve(interrupt).address, reply_timeout=DEADLINE) as client:
        with pytest.raises(KeyboardInterrupt):
            client.request(b"one")
        interrupted.set()
        with pytest.raises(ClientClosed, match="KeyboardInterrupt"):
            client.request(b"two")


def test_an_alarms_timeout_closes_the_connection_where_the_client_has_no_limit_of_its_own(serve: Serve) -> None:
    over = threading.Event()

    def alarm(*_: object) -> None:
        raise TimeoutError("the alarm")

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with Client(serve(hold_until(over)).address, reply_timeout=None) as client:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(TimeoutError, match="the alarm"):
                client.request(b"one")
            assert not client.is_open
            with pytest.raises(ClientClosed, match="TimeoutError"):
                client.request(b"two")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        over.set()


def test_closing_it_wakes_the_thread_that_waits(serve: Serve) -> None:
    over = threading.Event()
    with Client(serve(hold_until(over)).address, reply_timeout=None) as client:
        told: list[str] = []

        def wait() -> None:
            try:
                client.receive()
            except ClientClosed as error:
                told.append(str(error))

        waiting = threading.Thread(target=wait)
        waiting.start()
        deadline = time.monotonic() + DEADLINE
        while client._turns:
            assert time.monotonic() < deadline
        client.close()
        waiting.join(DEADLINE)
        over.set()
        assert "close() was called" in told[0]


def test_a_second_thread_is_told_to_take_its_own_client(serve: Serve) -> None:
    asked_twice = threading.Event()
    with Client(serve(hold_until(asked_twice)).address) as client:

        def wait_for_the_end() -> None:
            with pytest.raises(PeerClosed):
                client.receive()

        first = threading.Thread(target=wait_for_the_end)
        first.start()
        deadline = time.monotonic() + DEADLINE
        while client._turns:
            assert time.monotonic() < deadline
        with pytest.raises(ClientBusy):
            client.request(b"one")
        asked_twice.set()
        first.join(DEADLINE)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_importing_the_client_imports_neither_asyncio_nor_the_server() -> None:
    done = run_python(
        "import sys, prefork_client, prefork_client.cli; print([m for m in ('asyncio', 'prefork') if m in sys.modules])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_asking_for_the_asyncio_client_imports_it() -> None:
    done = run_python("from prefork_client import AsyncClient; print(AsyncClient.__name__)")
    assert (done.stdout, done.stderr) == ("AsyncClient\n", "")


def test_an_unknown_name_is_no_attribute() -> None:
    done = run_python("import prefork_client; print(hasattr(prefork_client, 'Nonesuch'))")
    assert (done.stdout, done.stderr) == ("False\n", "")


GEVENT = """
import sys
from gevent import monkey
monkey.patch_all()
import gevent
from prefork_client import Client, ClientClosed

# The server answers the first connection only after the second has asked: clients that do not yield never end.
address = sys.argv[1]

def ask(name):
    with Client(address) as client:
        return client.request(name)

first = gevent.spawn(ask, b"first")
second = gevent.spawn(ask, b"second")
gevent.joinall([first, second], timeout=30, raise_error=True)
print(first.value, second.value)

with Client(address) as client:
    try:
        with gevent.Timeout(0.1):
            client.request(b"third")
    except gevent.Timeout:
        pass
    try:
        client.request(b"fourth")
    except ClientClosed as error:
        print("closed" if "Timeout" in str(error) else error)
"""


def test_greenlets_wait_side_by_side_and_their_timeouts_close(serve: Serve) -> None:
    pytest.importorskip("gevent")
    both = threading.Barrier(2, timeout=DEADLINE)

    def answer(connection: socket.socket) -> None:
        if (line := connection.recv(100)) == b"third\r\n":
            connection.recv(100)  # the client's end, instead of an answer
            return
        both.wait()
        connection.sendall(line)

    done = run_python(GEVENT, serve(answer).address)

    assert done.stdout.splitlines() == ["b'first' b'second'", "closed"], done.stderr


def test_its_state_can_be_read(echo_server: Server) -> None:
    client = Client(echo_server.address)
    assert repr(client) == f"<Client {echo_server.address} not connected>"
    with client:
        assert repr(client) == f"<Client {echo_server.address} open>"
    assert repr(client) == f"<Client {echo_server.address} closed: close() was called>"
