"""The socket of a `handle(sock, address)` function behind TLS: the function reads and writes, and sees no record.

TLS is spoken over two buffers (`ssl.MemoryBIO`), so the socket underneath is waited for as any other in `sockets`: by
the same limits, however slowly a record comes, and until the worker drains. What the function may ask of TLS has the
names of `ssl.SSLSocket`. One thread may read while another one writes. This file never accepts.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from prefork.adapters.opaque import Ended
from prefork.adapters.sockets import WatchedSocket
from prefork.connection import edge
from prefork.connection.edge import LINGER, RECEIVE_SIZE, ConnectionEnded
from prefork.connection.poll import wait_for
from prefork.connection.tls import report
from prefork.scoreboard import Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from prefork.adapters.course import Course
    from prefork.connection.terms import Terms

T = TypeVar("T")

_HEADER: Final = 5
"""Bytes of a record's header, the last two of which say how many follow (RFC 8446, section 5.1)."""


def _refusal(name: str, kind: type[Exception]) -> Any:  # noqa: ANN401 - each stands for a method of another signature
    """Return a method that refuses to be called."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise kind(f"{name} is not allowed behind TLS")

    return refuse


class SecureSocket(WatchedSocket):
    """The server's side of TLS with a plain socket's face; flags are refused, as `ssl.SSLSocket` does."""

    def __init__(self, sock: socket.socket, course: Course, terms: Terms) -> None:
        super().__init__(sock, course)
        self._came, self._leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = terms.context.wrap_bio(self._came, self._leaves, server_side=True)
        self._handshake_timeout = terms.handshake_timeout
        self._header, self._missing = b"", _HEADER  # of the record that comes, and how many bytes until it goes on
        self._guard = threading.Lock()  # of all these: never held while the peer is waited for
        self._sending = threading.Lock()  # keeps the records in their order
        self._unsent = memoryview(b"")  # records that the kernel has not taken yet

    def begin(self, peer: str) -> None:
        """Shake hands.

        Raises:
            ConnectionEnded: the peer would not, or not in time.
        """
        deadline = time.monotonic() + self._handshake_timeout
        try:
            while not self._has_shaken_hands():
                self._send_records(math.inf)
                if not wait_for(self.fileno(), select.POLLIN, deadline, self.course.wakes):
                    raise TimeoutError
                self._take_record()
            self._send_records(math.inf)
            self.course.begin()
        except OSError as error:
            self.course.cells[Field.ERRORS] += bool(report(error, peer))
            self.course.over = edge.NO_HANDSHAKE
            raise ConnectionEnded(self.course.over) from error

    # What a function may ask. ----------------------------------------------------------------------------------------

    def version(self) -> str | None:
        """Return the version of TLS that was agreed, such as TLSv1.3."""
        return self._tls.version()

    def cipher(self) -> tuple[str, str, int] | None:
        """Return the cipher that was agreed, its version and its bits."""
        return self._tls.cipher()

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that was agreed by ALPN (RFC 7301), if any."""
        return self._tls.selected_alpn_protocol()

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - as ssl has it
        """Return the client's certificate, if one was asked for and verified, as `ssl.SSLSocket.getpeercert` does."""
        return self._tls.getpeercert(binary_form)

    def pending(self) -> int:
        """Return how many bytes can be read that no poll would tell of."""
        return self._tls.pending()

    # A socket's own. -------------------------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return what comes; b"" at the peer's end.

        Raises:
            Ended: the peer was too slow, or the worker drains.
        """
        data = self._read(lambda: self._tls.read(bufsize), b"", flags) if bufsize else b""
        self.course.has_received(len(data))
        return data

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Write what comes into `buffer` and return its size; the same as `recv` otherwise."""
        view = memoryview(buffer).cast("B")
        view = view[: nbytes or len(view)]
        size = self._read(lambda: int(self._tls.read(len(view), view)), 0, flags) if view else 0
        self.course.has_received(size)
        return size

    def _send(self, data: Buffer, flags: int, until: float) -> int:
        """Send a part of `data`, at least a byte, and return how much."""
        _refuse(flags)
        self._send_records(until)  # what there was no room for in the time that the function gave it
        view = memoryview(data).cast("B")[:RECEIVE_SIZE]
        if not view:
            return 0
        try:
            with self._guard:
                sent = self._tls.write(view)
        except ssl.SSLError as error:  # such as what has come was no TLS
            self.course.note(error)
            raise
        try:
            self._send_records(until)
        except Ended:
            raise
        except (BlockingIOError, TimeoutError):
            pass  # the next call does: to its function this is sent
        self.course.has_sent(sent)
        return sent

    # They know nothing of TLS: what they send would be plain text on the wire, what they read no text at all.
    # The errors are those of `ssl.SSLSocket`.
    sendmsg = _refusal("sendmsg", NotImplementedError)
    recvmsg = _refusal("recvmsg", NotImplementedError)
    recvmsg_into = _refusal("recvmsg_into", NotImplementedError)
    dup = _refusal("dup", NotImplementedError)
    sendto = _refusal("sendto", ValueError)
    recvfrom = _refusal("recvfrom", ValueError)
    recvfrom_into = _refusal("recvfrom_into", ValueError)

    def shutdown(self, how: int, /) -> None:
        """Say TLS's own end before the socket's; what the peer still sends can be read."""
        if how != socket.SHUT_RD:
            limits = self.course.limits
            self.course.limits = limits._replace(write=min(LINGER, limits.write))  # nothing else is sent any more
            self.course.found_room()  # that counts from here
            # it waits for the peer's end, which we do not; or complains of what was left unread, or of a handshake
            with contextlib.suppress(ssl.SSLError, ValueError), self._guard:
                self._tls.unwrap()
            with contextlib.suppress(OSError, ValueError):  # the peer goes as it likes, the function closes
                self._send_records(math.inf, closing=True)
        super().shutdown(how)

    # Inside. ---------------------------------------------------------------------------------------------------------

    def _has_shaken_hands(self) -> bool:
        with self._guard:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
        return True

    def _read(self, read: Callable[[], T], nothing: T, flags: int) -> T:
        _refuse(flags)
        until = self._own_deadline()
        while not self.course.over:
            try:
                with self._guard:
                    found = read()
            except ssl.SSLWantReadError:
                left = self._send_what_fits()  # of TLS's own too
                if self._own != 0:
                    self.course.await_bytes(self, until, select.POLLIN | select.POLLOUT if left else select.POLLIN)
                self._take_record()
            except ssl.SSLZeroReturnError:
                break
            except ssl.SSLError as error:
                self.course.note(error)
            else:
                return found
        return nothing

    def _take_record(self) -> None:
        """Take what is there of one record, and no byte of the next: who asks the kernel is to hear of that one."""
        try:
            with self._guard:
                while self._take_part():
                    pass
        except OSError as error:
            self.course.note(error, waits=self._own != 0)

    def _take_part(self) -> bool:
        """Take what is there of a record's header or of what follows it; say whether it goes on."""
        data = socket.socket.recv(self, self._missing, socket.MSG_DONTWAIT)
        if not data:
            self._came.write_eof()
            return False
        self._came.write(data)
        self._missing -= len(data)
        if len(self._header) < _HEADER:
            self._header += data
            if not self._missing:
                self._missing = int.from_bytes(self._header[3:], "big")
        if not self._missing:
            self._header, self._missing = b"", _HEADER
            return False
        return True

    def _send_records(self, until: float, *, closing: bool = False) -> None:
        """Give the kernel what TLS has made, until the function's own deadline; one thread at a time.

        Who closes waits for room whatever the function's own limit, but not for a thread that does not come to its end.
        """
        if not self._sending.acquire(timeout=LINGER if closing else -1):
            return
        try:
            while self._has_records():
                sent = self.course.push(self, self._hand_over, 0, until, waits=closing or self._own != 0)
                self._unsent = self._unsent[sent:]
        finally:
            self._sending.release()

    def _send_what_fits(self) -> bool:
        """Do the same without waiting, for who reads; say whether it is to be told when there is room for the rest."""
        if not self._sending.acquire(blocking=False):
            return False  # another thread sends it
        try:
            while self._has_records():
                self._unsent = self._unsent[self._hand_over(socket.MSG_DONTWAIT) :]
                self.course.found_room()
        except BlockingIOError:
            return True
        except OSError:  # there is none any more, and it is not what was asked for
            return False
        finally:
            self._sending.release()
        return False

    def _has_records(self) -> bool:
        """Say whether `_unsent` has something to send, filled anew if need be."""
        if not self._unsent and self._leaves.pending:
            with self._guard:
                self._unsent = memoryview(self._leaves.read())
        return bool(self._unsent)

    def _hand_over(self, how: int) -> int:
        return socket.socket.send(self, self._unsent, how)


def _refuse(flags: int) -> None:
    if flags:
        raise ValueError("flags are not allowed behind TLS")
