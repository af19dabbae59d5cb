"""Real servers for the clients: a listener each, a thread for each connection."""

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import pytest

from prefork_client import AsyncClient, Client
from prefork_wire import Address, Framing, Lines

T = TypeVar("T")
DEADLINE = 10.0  # seconds until a test gives up waiting for what must happen


@dataclass
class Server:
    """A listening socket whose connections are each given to `handler` in a thread, then closed."""

    handler: Callable[[socket.socket], object]
    listener: socket.socket
    failures: list[BaseException] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        name = self.listener.getsockname()
        if isinstance(name, str):
            return f"unix:{name}"
        return str(Address("tcp", name[0], name[1]))

    def start(self) -> None:
        self._in_thread(self._accept)

    def stop(self) -> None:
        self.stopping.set()
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        for thread in self.threads:
            thread.join(DEADLINE)
        self.listener.close()
        assert not any(thread.is_alive() for thread in self.threads)
        assert not self.failures

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._in_thread(partial(self._serve, connection))

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(DEADLINE)
            self.handler(connection)

    def _in_thread(self, target: Callable[[], None]) -> None:
        def run() -> None:
            try:
                target()
            except ConnectionError:
                pass  # the client under test went away, as many of them should
            except BaseException as failure:  # noqa: BLE001 - told when the server stops
                self.failures.append(failure)

        thread = threading.Thread(target=run)
        self.threads.append(thread)
        thread.start()


class Serve(Protocol):
    """What the fixture `serve` is."""

    def __call__(self, handler: Callable[[socket.socket], object], listener: socket.socket | None = None) -> Server: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(handler: Callable[[socket.socket], object], listener: socket.socket | None = None) -> Server:
            server = Server(handler, listener or socket.create_server(("127.0.0.1", 0)))
            stack.callback(server.stop)
            server.start()
            return server

        yield start


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def hold_until(event: threading.Event) -> Callable[[socket.socket], None]:
    """Say nothing and keep the connection open until the event, which must come in time."""

    def hold(_: socket.socket) -> None:
        assert event.wait(DEADLINE)

    return hold


@pytest.fixture
def echo_server(serve: Serve) -> Server:
    return serve(echo)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Make SIGINT interrupt, also where the tests run in the background and a shell has set it to be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Face(Protocol):
    """What both clients have in common, called without await."""

    address: Address

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def connect(self) -> None: ...
    def send(self, payload: bytes) -> None: ...
    def receive(self) -> bytes: ...
    def request(self, payload: bytes) -> bytes: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def send_eof(self) -> None: ...
    def close(self) -> None: ...
    @property
    def _socket(self) -> socket.socket | None: ...


class Awaited:
    """An AsyncClient with the blocking client's face, so that both have the same tests."""

    def __init__(self, client: AsyncClient, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._client = client
        self._run = run
        self.address = client.address

    def _await(self, call: Awaitable[T]) -> T:
        async def main() -> T:
            return await call

        result: T = self._run(main())
        return result

    def __enter__(self) -> Self:
        self._await(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._await(self._client.__aexit__(kind, error, traceback))

    def connect(self) -> None:
        self._await(self._client.connect())

    def send(self, payload: bytes) -> None:
        self._await(self._client.send(payload))

    def receive(self) -> bytes:
        return self._await(self._client.receive())

    def request(self, payload: bytes) -> bytes:
        return self._await(self._client.request(payload))

    def __iter__(self) -> Iterator[bytes]:
        frames: AsyncIterator[bytes] = self._client.__aiter__()
        while True:
            try:
                frame = self._await(frames.__anext__())
            except StopAsyncIteration:
                return
            yield frame

    def send_eof(self) -> None:
        self._await(self._client.send_eof())

    def close(self) -> None:
        self._await(self._client.close())

    @property
    def _socket(self) -> socket.socket | None:
        return self._client._socket


class MakeClient(Protocol):
    """What the fixture `make_client` is."""

    def __call__(
        self,
        address: str | Server,
        framing: Framing = ...,
        *,
        connect_timeout: float = DEADLINE,
        reply_timeout: float | None = DEADLINE,
    ) -> Face: ...


@pytest.fixture(params=["blocking", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    with asyncio.Runner() as runner, ExitStack() as stack:

        def make(
            address: str | Server,
            framing: Framing = Lines(),  # noqa: B008 - frozen
            *,
            connect_timeout: float = DEADLINE,
            reply_timeout: float | None = DEADLINE,
        ) -> Face:
            where = address.address if isinstance(address, Server) else address
            client: Face
            if request.param == "blocking":
                client = Client(where, framing, connect_timeout=connect_timeout, reply_timeout=reply_timeout)
            else:
                inner = AsyncClient(where, framing, connect_timeout=connect_timeout, reply_timeout=reply_timeout)
                client = Awaited(inner, runner.run)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def silent_port() -> Iterator[str]:
    """An address where nobody listens, and where nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def full_listener() -> Iterator[str]:
    """An address whose accept queue is full: Linux then drops the first packet of a connection."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"
