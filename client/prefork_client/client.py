"""The blocking client: one connection, plain sockets.

It owns waiting on a blocking socket, under one deadline per call. It never touches asyncio and takes no lock when
imported, so that it also runs on sockets that gevent has patched.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self

from prefork_client.errors import ClientBusy, PeerClosed
from prefork_client.session import RECEIVE_SIZE, Session, candidates_query, prepare
from prefork_wire import Address, Framing, Lines

_LINES = Lines()


class Client(Session):
    """Sends and receives frames over one connection, waiting for each.

    It never hands out somebody else's answer. After a timeout, a broken frame or an interruption, whatever
    interrupted, the connection is closed for good, and `request` refuses a connection that has something to say
    before it is asked. With `send` and `receive` apart, telling which answer belongs to what is yours.

    One thread at a time: a second one gets ClientBusy. Use as a context manager, or `connect` and `close`::

        with Client("127.0.0.1:7000") as client:
            print(client.request(b"hello"))

    Args:
        address: Where to connect, as `prefork_wire.parse_address` reads it.
        framing: How frames are told apart.
        connect_timeout: Seconds for connecting, all addresses of a name together. Looking up a name is the system
            resolver's work, which keeps its own time.
        reply_timeout: Seconds for one call, however many pieces it sends or receives; None waits for ever.

    Raises:
        BadAddress: The address cannot be read, or is none to connect to.
        UsageError: A timeout is not above 0.
    """

    def __init__(
        self,
        address: str | Address,
        framing: Framing = _LINES,
        *,
        connect_timeout: float = 5.0,
        reply_timeout: float | None = 10.0,
    ) -> None:
        super().__init__(address, framing, connect_timeout, reply_timeout)
        self._turns = [None]  # one turn, for one thread; to pop it is atomic, never waits, and costs less than a lock

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, unless it is done: to the first of the address's candidates that accepts.

        Raises:
            ConnectFailed: None did; a subclass says why the last one did not. It may be tried again.
            ClientClosed: The client was connected before and is over.
        """
        self._take_turn()
        try:
            self._check_not_ended()
            if self._socket is None:
                self._adopt(self._connected())
        except (OSError, UnicodeError) as error:
            raise self._connect_failure(error) from error
        finally:
            self._turns.append(None)

    def _connected(self) -> socket.socket:
        deadline = monotonic() + self.connect_timeout
        if self.address.kind == "unix":
            return _dial(socket.AF_UNIX, 0, self.address.path, self.connect_timeout)
        failure: OSError = TimeoutError("timed out")
        candidates = socket.getaddrinfo(*candidates_query(self.address), type=socket.SOCK_STREAM)
        for number, (family, _, protocol, _, where) in enumerate(candidates):
            # A fair share each: a silent first address must not use up the time of a second one that answers.
            share = (deadline - monotonic()) / (len(candidates) - number)
            if share <= 0:
                break
            try:
                return _dial(family, protocol, where, share)
            except OSError as error:
                failure = error
        raise failure

    def send(self, payload: bytes) -> None:
        """Send one frame.

        Raises:
            BadPayload: The payload cannot be made a frame; the connection stays open.
            PeerError: A subclass says what the peer did; the connection is closed.
            ClientClosed: There is no connection.
        """
        frame = self._encode(payload)
        with self._alone() as sock:
            deadline = self._deadline()
            _limit(sock, deadline)
            _send(sock, frame, deadline)

    def receive(self) -> bytes:
        """Wait for the next frame and return its payload.

        Raises:
            PeerClosed: There are no more frames; the connection is closed.
            PeerError: Another subclass says what the peer did; the connection is closed.
            ClientClosed: There is no connection.
        """
        with self._alone() as sock:
            deadline = self._deadline()
            _limit(sock, deadline)
            return self._receive(sock, deadline)

    def request(self, payload: bytes) -> bytes:
        """Send one frame and return the payload of the one frame that answers it.

        Raises:
            BadPayload: The payload cannot be made a frame; the connection stays open.
            UnexpectedData: Something had arrived before, and would have passed for the answer.
            PeerClosedIdle: The peer had closed before; nothing was sent, so the request may be made again.
            PeerError: Another subclass says what the peer did; the connection is closed.
            ClientClosed: There is no connection.
        """
        frame = self._encode(payload)
        # What `_alone` does, written out: a request is what a client is for, and a generator would be a tenth of it.
        self._take_turn()
        try:
            sock = self._opened()
            try:
                deadline = self._deadline()
                sock.settimeout(0)
                self._refuse_leftovers(sock)
                sock.settimeout(self.reply_timeout)
                _send(sock, frame, deadline)
                return self._receive(sock, deadline)
            except BaseException as error:
                self._give_up(error)
                raise
        finally:
            self._turns.append(None)

    def __iter__(self) -> Iterator[bytes]:
        """Yield frames until the peer closes between two of them; raises as `receive` does otherwise."""
        while True:
            try:
                frame = self.receive()
            except PeerClosed:
                return
            yield frame

    def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent, and stay able to receive (TCP half close)."""
        with self._alone() as sock:
            sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close for good; again is no error. A call still waiting in another thread raises ClientClosed."""
        self.end("close() was called")

    @contextmanager
    def _alone(self) -> Iterator[socket.socket]:
        """Keep the open socket to one call; whatever breaks off the call, ends the connection."""
        self._take_turn()
        try:
            sock = self._opened()
            try:
                yield sock
            except BaseException as error:  # also KeyboardInterrupt, and gevent's timeouts and kills
                self._give_up(error)
                raise
        finally:
            self._turns.append(None)

    def _take_turn(self) -> None:
        try:
            self._turns.pop()
        except IndexError:
            raise ClientBusy(f"{self.address}: another thread is using this client; give each its own") from None

    def _receive(self, sock: socket.socket, deadline: float | None) -> bytes:
        decoder = self._decoder
        while (frame := decoder.take()) is None:
            if deadline is not None:
                _limit(sock, deadline)
            data = sock.recv(RECEIVE_SIZE)
            if not data:
                raise self._peer_closed()
            decoder.feed(data)
        return frame

    def _deadline(self) -> float | None:
        return None if self.reply_timeout is None else monotonic() + self.reply_timeout

    def _release(self) -> None:
        sock, self._socket = self._socket, None
        if sock is None:
            return
        if not self._turns and self._is_own:  # a call is under way, maybe in another thread: this wakes it
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def _limit(sock: socket.socket, deadline: float | None) -> None:
    """Let the next operation on the socket take until `deadline`, on the monotonic clock.

    Raises:
        TimeoutError: It has passed.
    """
    if deadline is None:
        sock.settimeout(None)
        return
    remaining = deadline - monotonic()
    if remaining <= 0:  # 0 would mean: do not wait
        raise TimeoutError("timed out")
    sock.settimeout(remaining)


def _send(sock: socket.socket, frame: bytes, deadline: float | None) -> None:
    """Send all of a frame. Most leave whole; `sendall` costs more, on sockets of gevent's several times as much."""
    sent = sock.send(frame)
    if sent < len(frame):
        _limit(sock, deadline)
        sock.sendall(memoryview(frame)[sent:])


def _dial(family: int, protocol: int, where: str | tuple[Any, ...], seconds: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.settimeout(seconds)
        sock.connect(where)
        prepare(sock)
    except BaseException:
        sock.close()
        raise
    return sock
