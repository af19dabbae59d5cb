"""Connections that are kept between requests: the blocking pool, and the shelf on which both pools keep theirs.

It owns which connection a request goes out on, and whether a request may be made again. What travels on a connection,
and what an error means, is the client's: no pool ever looks at a byte.
"""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock
from time import monotonic
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar
from weakref import WeakSet

from prefork_client.client import Client
from prefork_client.errors import ClientBusy, ClientClosed, ConnectionLost, PeerClosedIdle, UsageError
from prefork_client.session import Session
from prefork_wire import Address, Framing, Lines

_LINES = Lines()
_S = TypeVar("_S", bound=Session)

ATTEMPTS: Final = 3
"""How often a request that may be repeated goes out at most."""


class Shelf(Generic[_S]):
    """The connections that nobody uses at the moment: the last one is taken first, so that those in excess grow old."""

    def __init__(self, where: Address, size: int, idle_timeout: float) -> None:
        if size < 1:
            raise UsageError(f"size is {size} connections; give 1 or more")
        if not idle_timeout > 0:
            raise UsageError(f"idle_timeout is {idle_timeout} seconds; give more than 0")
        self._where = where
        self._idle_timeout = idle_timeout
        self._lock = Lock()
        self._idle: deque[tuple[float, _S]] = deque()  # since when, oldest first
        self._closed = False

    def take(self) -> _S | None:
        """Take the connection that was used last, if there is one.

        Raises:
            ClientClosed: The pool was closed.
        """
        with self._lock:
            if self._closed:
                raise ClientClosed(f"{self._where}: this pool is closed; make a new one")
            oldest = monotonic() - self._idle_timeout
            while self._idle and self._idle[0][0] < oldest:
                self._idle.popleft()[1].end("it was not used for a while")
            return self._idle.pop()[1] if self._idle else None

    def put(self, client: _S) -> None:
        """Keep a connection for the next request, if it is still open."""
        with self._lock:
            if self._closed:
                client.end("its pool was closed")
            elif client.is_open:
                self._idle.append((monotonic(), client))

    def close(self) -> None:
        """Close all that are here, and those that come back."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop()[1].end("its pool was closed")

    def abandon(self) -> None:
        """Close this process's copies after a fork. The lock may have been held by a thread that is not here."""
        for _, client in self._idle:
            client.end("connected before a fork, by another process")


class Attempts:
    """Whether one request may go out once more, on another connection."""

    def __init__(self, *, repeatable: bool) -> None:
        self._repeatable = repeatable
        self._left = ATTEMPTS

    def allows(self, error: ConnectionLost, *, kept: bool) -> bool:
        """Say whether to try again after `error`; `kept` is whether the connection had been used before.

        Nothing of the request was sent to a peer that had closed before: that may always be tried again. Otherwise
        nobody can know whether the peer has done what was asked, and only the caller knows whether that matters.
        """
        unsent = isinstance(error, PeerClosedIdle)
        if unsent and kept:
            return True  # there are only so many old connections
        self._left -= 1
        return (unsent or self._repeatable) and self._left > 0


def all_in_use(where: Address, seconds: float | None) -> ClientBusy:
    """Return the error for a request that got no connection in time."""
    return ClientBusy(f"{where}: all connections were in use for {seconds:g} s; take a larger size")


class Kept(ABC, Generic[_S]):
    """What both pools are made of: how to make a connection, the shelf, and room for so many."""

    def __init__(
        self,
        address: str | Address,
        framing: Framing = _LINES,
        *,
        size: int = 8,
        idle_timeout: float = 60.0,
        connect_timeout: float = 5.0,
        reply_timeout: float | None = 10.0,
    ) -> None:
        self._options = (address, framing, connect_timeout, reply_timeout)
        self._limits = (self._client().address, size, idle_timeout)  # a bad address is told here, not by a request
        self._reply_timeout = reply_timeout
        self._begin()
        _pools.add(self)

    @abstractmethod
    def _make(self, address: str | Address, framing: Framing, limits: tuple[float, float | None]) -> _S:
        """Make a client; `limits` are the seconds for connecting and for a reply."""

    @abstractmethod
    def _make_room(self, size: int) -> None:
        """Begin anew to keep the number of connections in use to `size`."""

    def _client(self) -> _S:
        address, framing, connect_timeout, reply_timeout = self._options
        return self._make(address, framing, (connect_timeout, reply_timeout))

    def _begin(self) -> None:
        where, size, idle_timeout = self._limits
        self._shelf: Shelf[_S] = Shelf(where, size, idle_timeout)
        self._make_room(size)

    def begin_anew(self) -> None:
        """Begin with no connection in a child: those there are, and their answers, are the parent's."""
        self._shelf.abandon()
        self._begin()


_pools: WeakSet[Kept[Any]] = WeakSet()


def _begin_anew_after_a_fork() -> None:
    for pool in list(_pools):
        pool.begin_anew()


if hasattr(os, "register_at_fork"):  # where there is fork; it is called while the child has but one thread
    os.register_at_fork(after_in_child=_begin_anew_after_a_fork)


class Pool(Kept[Client]):
    """Makes requests over kept connections, for any number of threads, without ever mixing up their answers.

    A server that reloads, recycles its workers or stops closes kept connections. A request that finds its connection
    closed goes out on another one: always when nothing of it was sent, and, when the connection is lost before the
    answer, only if the caller says that it may be made twice (`repeatable`, up to three times in all; compare RFC 9110,
    section 9.2.2). What has come of an answer by then is thrown away with the connection.

    After a fork the child opens connections of its own. Use as a context manager, or `close`::

        with Pool("127.0.0.1:7000") as pool:
            print(pool.request(b"hello", repeatable=True))

    Args:
        address: Where to connect, as `prefork_wire.parse_address` reads it.
        framing: How frames are told apart.
        size: How many connections may be open at once; more requests wait for one.
        idle_timeout: Seconds after which an unused connection is closed; less than the server's own is polite.
        connect_timeout: Seconds for connecting, as for `Client`.
        reply_timeout: Seconds for one attempt, as for `Client`, and for waiting for a connection.

    Raises:
        BadAddress: The address cannot be read, or is none to connect to.
        UsageError: A timeout is not above 0, or the size is below 1.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def request(self, payload: bytes, *, repeatable: bool = False) -> bytes:
        """Send one frame and return the payload of the one frame that answers it.

        Args:
            payload: What to send.
            repeatable: Whether the peer may be asked twice: a lost connection is then no error yet.

        Raises:
            BadPayload: The payload cannot be made a frame.
            ConnectFailed: No connection came about.
            PeerError: A subclass says what the peer did.
            ClientBusy: No connection became free within the reply timeout.
            ClientClosed: The pool was closed.
        """
        attempts = Attempts(repeatable=repeatable)
        with self._claimed():
            while True:
                client = self._shelf.take()
                kept = client is not None
                if client is None:
                    client = self._client()
                try:
                    client.connect()
                    return client.request(payload)
                except ConnectionLost as error:
                    if not attempts.allows(error, kept=kept):
                        raise
                finally:
                    self._shelf.put(client)

    def close(self) -> None:
        """Close all connections, those in use as soon as they come back; again is no error."""
        self._shelf.close()

    def _make(self, address: str | Address, framing: Framing, limits: tuple[float, float | None]) -> Client:
        return Client(address, framing, connect_timeout=limits[0], reply_timeout=limits[1])

    def _make_room(self, size: int) -> None:
        self._room = BoundedSemaphore(size)

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        if not self._room.acquire(timeout=self._reply_timeout):
            raise all_in_use(self._limits[0], self._reply_timeout)
        try:
            yield
        finally:
            self._room.release()
