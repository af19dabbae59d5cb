"""Load users on plain sockets: the same proof by other means, so that a fault of the client is told from a server's.

It shares no code with the client package: bytes are written, and lines are cut, here. TLS and PROXY headers, of which
that package knows nothing, are spoken here too.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING

from locust import task

from prefork_loadtest.example import WrongAnswer
from prefork_loadtest.failure import Failure, RequestFailed
from prefork_loadtest.measure import Measurement
from prefork_loadtest.proof import SIZES, Prover
from prefork_loadtest.users import KitUser
from prefork_wire import parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from locust.env import Environment

MOST_LINE_BYTES = 8192
RECEIVE_BYTES = 65536
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close(2) send a reset (socket(7))."""


class Plug:
    """One connection: bytes out, lines and their ends in. Every fault becomes a `RequestFailed` of its class.

    It waits without a timer: somebody else has to `expire` it (see `patience`).

    Attributes:
        sock: the socket.
        since: when it began to wait, in seconds of `perf_counter`; 0 while it does not.
        patience_s: how long it may.
    """

    def __init__(self, sock: socket.socket, patience_s: float) -> None:
        self.sock = sock
        self.since = 0.0
        self.patience_s = patience_s
        self._rest = b""
        self._has_expired = False

    def expire(self) -> None:
        """Close it under whoever waits for it: it has waited too long."""
        self._has_expired = True
        self.sock.close()

    def _failed(self, error: OSError) -> RequestFailed:
        return RequestFailed(Failure.TIMEOUT if self._has_expired else self._meaning(error))

    @staticmethod
    def _meaning(error: OSError) -> Failure:
        return Failure.TIMEOUT if isinstance(error, TimeoutError) else Failure.UNEXPECTED_CLOSE

    def send(self, data: bytes) -> None:
        """Write all of it."""
        sock = self.sock
        sock.settimeout(None)
        self.since = time.perf_counter()
        try:
            sent = sock.send(data)
            if sent < len(data):  # seldom, and gevent's sendall costs as much as a request's proof
                sock.sendall(data[sent:])
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self.since = 0.0

    def lines(self, number: int) -> list[bytes]:
        """The next lines, without their ends. More bytes than that are nobody's answer."""
        rest, receive = self._rest, self.sock.recv
        self.since = time.perf_counter()
        try:
            while rest.count(b"\n") < number:
                if len(rest) > number * (MOST_LINE_BYTES + 2):
                    raise RequestFailed(Failure.WRONG_ANSWER)
                data = receive(RECEIVE_BYTES)
                if not data:
                    raise RequestFailed(Failure.TRUNCATED if rest else Failure.UNEXPECTED_CLOSE)
                rest = self._rest = rest + data
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self.since = 0.0
        *found, rest = rest.split(b"\n", number)
        if rest:
            raise RequestFailed(Failure.WRONG_ANSWER)
        self._rest = b""
        return [line.removesuffix(b"\r") for line in found]

    def refuse_leftovers(self) -> None:
        """Fail if something came that nobody asked for: bytes, or an end."""
        self.sock.settimeout(0)
        try:
            found = self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError as error:
            raise RequestFailed(Failure.UNEXPECTED_CLOSE) from error
        raise RequestFailed(Failure.WRONG_ANSWER if found else Failure.UNEXPECTED_CLOSE)

    def close(self, *, reset: bool = False) -> None:
        """Close, by a reset if asked for."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()


class RawUser(KitUser):
    """A user with at most one plain connection, dropped when a request fails."""

    abstract = True
    sizes: Sequence[int] = SIZES

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.prover = Prover(secrets.randbits(64), self.sizes)
        self._plug: Plug | None = None

    def on_stop(self) -> None:
        """Close the connection when Locust ends the user."""
        self.unplug()

    def plug(self, measurement: Measurement) -> Plug:
        """The connection: the one that is open, or a new one."""
        if self._plug is None:
            self._plug = Plug(self.dial(), self.options.reply_timeout_s)
            self.collector.patience.watched.add(self._plug)
            measurement.connected()
        return self._plug

    def dial(self) -> socket.socket:
        """A new connection."""
        address = parse_address(self.host or "")
        timeout_s = self.options.reply_timeout_s
        try:
            if address.kind == "unix":
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(timeout_s)
                sock.connect(address.path)
                return sock
            port = address.port if isinstance(address.port, int) else socket.getservbyname(address.port, "tcp")
            sock = socket.create_connection((address.host, port), timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError as error:
            raise RequestFailed(Failure.TIMEOUT) from error
        except OSError as error:
            raise RequestFailed(Failure.REFUSED) from error
        return sock

    def unplug(self, *, reset: bool = False) -> None:
        """Close the connection, if there is one."""
        plug, self._plug = self._plug, None
        if plug is not None:
            self.collector.patience.watched.discard(plug)
            plug.close(reset=reset)

    def ask(self, name: str, number: int = 1, *, keep: bool = True, reset: bool = False) -> None:
        """Some requests in one write, and the proof that their answers are right and in order.

        Connecting counts to the time only of what is not kept.
        """
        with Measurement(self, name) as measurement:
            try:
                plug = self._plug or self.plug(measurement)
                if keep:
                    measurement.started()
                requests = [self.prover.next() for _ in range(number)]
                plug.refuse_leftovers()
                data = b"\n".join(requests) + b"\n"
                measurement.sends(number, len(data))
                self.write(plug, data)
                for request, answer in zip(requests, plug.lines(number), strict=True):
                    measurement.received += len(answer)
                    self.require(plug, request, answer)
            except BaseException:
                self.unplug()
                raise
        if not keep:
            self.unplug(reset=reset)

    def write(self, plug: Plug, data: bytes) -> None:
        """Send what was made."""
        plug.send(data)

    def require(self, plug: Plug, request: bytes, answer: bytes) -> None:
        """Fail the request unless the answer is right."""
        del plug
        failure = self.prover.check(request, answer)
        if failure is not None:
            raise RequestFailed(failure, WrongAnswer(request, self.prover.expected(request), answer))


class RawEchoUser(RawUser):
    """Closed loop on a plain socket: what `EchoUser` does, without the client package."""

    @task
    def echo(self) -> None:
        """Some requests and their answers."""
        for _ in range(self.turn):
            self.ask("echo raw")


class ResetUser(RawUser):
    """Connect, one request, and an end by reset: what a client does that was killed."""

    @task
    def echo(self) -> None:
        """One connection with one request."""
        self.ask("echo reset", keep=False, reset=True)


class PipelineUser(RawUser):
    """Many requests in one write, many answers in order."""

    DEPTH = 16

    @task
    def echo(self) -> None:
        """One burst."""
        self.ask("echo x16", self.DEPTH)


class FragmentUser(RawUser):
    """A request that is written one byte at a time."""

    sizes = (64,)

    @task
    def echo(self) -> None:
        """One request in many pieces."""
        self.ask("echo pieces")

    def write(self, plug: Plug, data: bytes) -> None:
        """Send every byte by itself, and let others run in between so that it leaves by itself."""
        for number in range(len(data)):
            plug.send(data[number : number + 1])
            time.sleep(0)


class BigUser(RawUser):
    """Frames as large as the limit allows, and one byte less."""

    sizes = (MOST_LINE_BYTES, MOST_LINE_BYTES - 1)

    @task
    def echo(self) -> None:
        """One large request and its answer."""
        self.ask("echo big")


class TlsUser(RawUser):
    """A user whose connection is TLS."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._context = ssl.create_default_context(cafile=self.options.tls_ca or None)

    def dial(self) -> socket.socket:
        """A new connection, with its handshake done and the certificate found right."""
        sock = super().dial()
        try:
            return self._context.wrap_socket(sock, server_hostname=parse_address(self.host or "").host)
        except TimeoutError as error:
            sock.close()
            raise RequestFailed(Failure.TIMEOUT) from error
        except OSError as error:
            sock.close()
            raise RequestFailed(Failure.REFUSED) from error


class TlsEchoUser(TlsUser):
    """The same through TLS, on a kept connection."""

    @task
    def echo(self) -> None:
        """One request and its answer."""
        self.ask("echo tls")


class TlsChurnUser(TlsUser):
    """Connect, shake hands, one request, close."""

    @task
    def echo(self) -> None:
        """One connection with one request."""
        self.ask("echo tls churn", keep=False)


PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_COMMAND, TCP_OVER_IPV4 = 0x21, 0x11


class ProxyUser(RawUser):
    """A PROXY v2 header before the first frame, with an address that nobody else gives; the answer must name it."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._claimed = (ipaddress.IPv4Address(0x0A000000 + secrets.randbelow(2**24)), 1024 + secrets.randbelow(60000))

    def dial(self) -> socket.socket:
        """A new connection with the header sent."""
        sock = super().dial()
        address, port = self._claimed
        body = address.packed + ipaddress.IPv4Address("10.255.255.254").packed + struct.pack("!HH", port, 7)
        sock.sendall(PROXY_V2 + struct.pack("!BBH", PROXY_COMMAND, TCP_OVER_IPV4, len(body)) + body)
        return sock

    @task
    def echo(self) -> None:
        """One request and its answer."""
        self.ask("echo proxy")

    def require(self, plug: Plug, request: bytes, answer: bytes) -> None:
        """The answer begins with the address that the header gave."""
        address, port = self._claimed
        claimed, _, rest = answer.partition(b" ")
        if claimed != (said := f"{address}:{port}".encode()):
            raise RequestFailed(Failure.WRONG_ANSWER, WrongAnswer(request, said + b" " + request, answer))
        super().require(plug, request, rest)
