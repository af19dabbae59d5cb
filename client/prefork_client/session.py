"""What both clients share: their settings, the life of their one connection, and the seam where errors are translated.

It owns the promise that nobody else's answer is handed out, as far as it needs no waiting: a connection on which
anything went wrong is over, and a request goes out only on a connection that has nothing to say. It never waits.
"""

import errno
import os
import socket
from abc import ABC, abstractmethod

from prefork_client.errors import (
    BadAddress,
    BadFrame,
    BadPayload,
    ClientClosed,
    ClientError,
    ConnectFailed,
    ConnectTimeout,
    NameNotFound,
    PeerClosed,
    PeerClosedIdle,
    PeerReset,
    Refused,
    ReplyTimeout,
    Truncated,
    UnexpectedData,
    Unreachable,
    UsageError,
)
from prefork_wire import Address, FrameError, FrameTruncated, Framing, parse_address

LONGEST = 1e9  # seconds that may be waited: what counts in nanoseconds overflows soon behind that
RECEIVE_SIZE = 65536  # bytes asked of the kernel at once: a socket buffer's usual filling


class Session(ABC):
    """One connection to one address, from not yet connected over open to closed for good.

    Attributes:
        address: Where to connect.
        framing: How frames are told apart.
        connect_timeout: Seconds for connecting, all addresses of a name together.
        reply_timeout: Seconds for one call, however many pieces it sends or receives; None waits for ever.
    """

    def __init__(
        self, address: str | Address, framing: Framing, connect_timeout: float, reply_timeout: float | None
    ) -> None:
        """Take the settings; nothing is opened yet."""
        try:
            self.address = parse_address(address) if isinstance(address, str) else address
        except ValueError as error:
            raise BadAddress(str(error)) from error
        if self.address.kind == "fd":
            raise BadAddress(f"address '{self.address}' is for listening; write HOST:PORT or unix:/PATH")
        if self.address.kind == "tcp" and self.address.port == 0:
            raise BadAddress(f"address '{self.address}' has port 0, which nobody listens on; write the server's port")
        for name, seconds in (("connect_timeout", connect_timeout), ("reply_timeout", reply_timeout)):
            if seconds is not None and not 0 < seconds <= LONGEST:
                raise UsageError(f"{name} is {seconds} seconds; give more than 0, and at most {LONGEST:g}")
        self.framing = framing
        self.connect_timeout = connect_timeout
        self.reply_timeout = reply_timeout
        self._decoder = framing.decoder()
        self._socket: socket.socket | None = None
        self._ended: str | None = None  # why, once it is over
        self._pid = 0  # of the process that connected

    def __repr__(self) -> str:
        state = "open" if self._socket else f"closed: {self._ended}" if self._ended else "not connected"
        return f"<{type(self).__name__} {self.address} {state}>"

    @abstractmethod
    def _release(self) -> None:
        """Let go of the socket."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as this side knows."""
        return self._socket is not None and self._ended is None

    def end(self, why: str) -> None:
        """Close for good, without waiting; the first reason stays, and is told to whoever still uses this client."""
        if self._ended is None:
            self._ended = why
        self._release()

    def _check_not_ended(self) -> None:
        if self._ended is not None:
            raise ClientClosed(f"{self.address}: this client is closed ({self._ended}); make a new one")

    def _adopt(self, sock: socket.socket) -> None:
        self._socket = sock
        self._pid = os.getpid()
        if self._ended is not None:  # close() was called meanwhile
            self._release()
            self._check_not_ended()

    @property
    def _is_own(self) -> bool:
        """Whether this process has connected: what it does to another's connection, it does to both."""
        return self._pid == os.getpid()

    def _opened(self) -> socket.socket:
        """Return the open socket.

        Raises:
            ClientClosed: There is none, or it is another process's: after a fork both would read each other's answers.
        """
        if self._socket is not None and not self._is_own:
            self.end("connected before a fork, by another process")
        self._check_not_ended()
        if self._socket is None:
            raise ClientClosed(f"{self.address}: not connected yet; call connect() or use a with block")
        return self._socket

    def _encode(self, payload: bytes) -> bytes:
        try:
            return self.framing.encode(payload)
        except FrameError as error:
            raise BadPayload(f"{self.address}: not sent: {error}") from error

    def _refuse_leftovers(self, sock: socket.socket) -> None:
        """Make sure that whatever arrives from now on was sent after this moment; `sock` must not block."""
        if not self._decoder.buffered:
            try:
                data = sock.recv(1)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                raise PeerClosedIdle(f"{self.address}: closed the connection before the request; connect again")
        raise UnexpectedData(
            f"{self.address}: data was there before the request; receive what the service says first, "
            "and check that the framing is the server's"
        )

    def _peer_closed(self) -> PeerClosed:
        """Return the error for the peer's end; raises FrameTruncated in the middle of a frame."""
        self._decoder.end()
        return PeerClosed(f"{self.address}: closed the connection; look into the server's log")

    def _give_up(self, error: BaseException) -> None:
        """Close for good because of `error`, and raise what it means here; return where it means nothing more."""
        if isinstance(error, Exception):
            self._check_not_ended()  # close() was called under this call, and is what broke it off
        meaning = None
        try:
            meaning = self._meaning(error)
        finally:  # whatever else goes wrong or interrupts here: what may still come is nobody's answer
            self.end(str(meaning or type(error).__name__))
        if meaning is not None and meaning is not error:
            raise meaning from error

    def _meaning(self, error: BaseException) -> ClientError | None:
        where = self.address
        match error:
            case ClientError():
                return error
            case FrameTruncated():
                return Truncated(f"{where}: closed the connection in the middle of a frame; look into the server's log")
            case FrameError():
                return BadFrame(f"{where}: {error}; check that the framing is the server's")
            case TimeoutError() if error.errno is None:  # else the kernel has given the peer up: ETIMEDOUT
                # without a limit of ours it is somebody else's, such as an alarm's
                return (
                    None
                    if self.reply_timeout is None
                    else ReplyTimeout(
                        f"{where}: no reply within {self.reply_timeout:g} s; wait longer or try again later"
                    )
                )
            case OSError():
                return PeerReset(f"{where}: {_reason(error)}; look into the server's log")
        return None

    def _connect_failure(self, error: Exception) -> ConnectFailed:
        where = self.address
        match error:
            case socket.gaierror() if error.errno == socket.EAI_SERVICE:
                return NameNotFound(f"{where}: the service {where.port!r} is unknown here; write its port as a number")
            case socket.gaierror() | UnicodeError():  # the second: a name that cannot be encoded for DNS
                return NameNotFound(f"{where}: {_reason(error)}; check the name of the host")
            case ConnectionRefusedError() | FileNotFoundError():
                return Refused(f"{where}: {_reason(error)}; is the server running there?")
            case TimeoutError():
                return ConnectTimeout(
                    f"{where}: no connection within {self.connect_timeout:g} s; is the server overloaded?"
                )
            case BlockingIOError():
                return ConnectTimeout(f"{where}: its accept queue is full; is it overloaded?")
        return Unreachable(f"{where}: {_reason(error)}; check the address and the network")


def _reason(error: Exception) -> str:
    """Return the system's own words: asyncio, for one, puts others in their place."""
    text = str(error)
    if isinstance(error, socket.gaierror):
        text = error.strerror or text
    elif isinstance(error, OSError) and error.errno:
        text = os.strerror(error.errno)
    return text[:1].lower() + text[1:]


def candidates_query(address: Address) -> tuple[str | None, str | int]:
    """Return host and port for getaddrinfo; no host means loopback there (RFC 3493, section 6.1)."""
    return address.host or None, address.port


def prepare(sock: socket.socket) -> None:
    """Make a freshly connected socket ready for frames.

    Raises:
        ConnectionRefusedError: The socket is connected to itself. TCP allows it (RFC 9293, simultaneous open), and it
            happens on loopback when nobody listens and the kernel picks the very port as the client's own: an echo
            service in perfect health, to all appearances.
        BlockingIOError: The Unix socket is not connected after all.
    """
    try:
        peer = sock.getpeername()
    except OSError as error:
        if sock.family == socket.AF_UNIX:
            # asyncio takes EAGAIN, by which connect(2) reports a full accept queue, for a connection under way.
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        return  # reset meanwhile: the first call will meet it
    if sock.family == socket.AF_UNIX:
        return
    if sock.getsockname() == peer:
        raise ConnectionRefusedError("connected only to itself")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
