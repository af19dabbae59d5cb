"""A certificate authority, clients that speak TLS, and services that say what they see of it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Self, TypeVar

import trustme

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from support.server import Server

T = TypeVar("T")

WHO = """
    from prefork import Connection, Lines, conversation, reply

    @reply(Lines())
    def shout(line: bytes) -> bytes:
        return line.upper()

    @conversation(Lines())
    async def service(conn: Connection) -> None:
        async for line in conn:
            tls = conn.tls
            if line == b"starttls":
                await conn.send(b"go ahead")
                await conn.start_tls()
            elif tls is None:
                await conn.send(b"plain")
            else:
                subject = dict(pair[0] for pair in tls.certificate["subject"]) if tls.certificate else {}
                words = [tls.version, tls.alpn or "-", subject.get("commonName", "-")]
                await conn.send(" ".join(words).encode())
"""


BLOCKING = """
    from prefork import BlockingConnection, Lines, conversation, reply

    @reply(Lines(max_length=100_000))
    def shout(line: bytes) -> bytes:
        return line.upper()

    @conversation(Lines())
    def service(conn: BlockingConnection) -> None:
        for line in conn:
            if line == b"starttls":
                conn.send(b"go ahead")
                conn.start_tls()
            else:
                conn.send(f"{conn.tls.version} {conn.tls.alpn or '-'}".encode() if conn.tls else b"plain")
"""


ADAPTED = """
    import asyncio
    import socketserver

    class Upper(asyncio.Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())

    async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data.upper())
            await writer.drain()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                self.wfile.write(line.upper())

    class Plain(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(1000):
                self.request.sendall(data.upper())

    def function(sock: object, address: object) -> None:
        while data := sock.recv(1000):
            sock.sendall(data.upper())
"""

KINDS = {
    "Upper": "async",
    "streams": "async",
    "Handler": "threads",
    "Plain": "threads",
    "function": "sync",
}
"""What is in `ADAPTED`, and a model for each."""


class Authority:
    """A certificate authority of a test's own, and files for a server."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.ca = trustme.CA()
        self.folder = folder
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.issue()

    def issue(self, *names: str, expires: datetime | None = None, file: str = "") -> list[str]:
        """Write a new certificate and key, each by a rename, as people do; return the options that name them."""
        leaf = self.ca.issue_cert(*(names or ("localhost",)), not_after=expires)
        cert, key = (
            (self.folder / f"{file}-cert.pem", self.folder / f"{file}-key.pem") if file else (self.cert, self.key)
        )
        pem = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        for path, data in ((cert, pem), (key, leaf.private_key_pem.bytes())):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.rename(path)
        return ["--tls-cert", str(cert), "--tls-key", str(key)]

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def client(self, name: str | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority alone, with a certificate for `name` if given."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if name is not None:
            self.ca.issue_cert(f"{name}.example", common_name=name).configure_cert(context)
        return context


def connect(
    server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None = None, name: str = "localhost"
) -> ssl.SSLSocket:
    """Connect and shake hands; an end without TLS's own close is an error here."""
    plain = socket.create_connection(server.address, 10)
    try:
        return context.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False, session=session)
    except BaseException:
        plain.close()
        raise


def ask(sock: ssl.SSLSocket, line: bytes) -> bytes:
    """Send a line and return the answer."""
    sock.sendall(line + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        data = sock.recv(4096)
        assert data, "the server closed"
        answer += data
    return answer.removesuffix(b"\r\n")


class Segments:
    """A client that sends only when it is told to: whatever it has to say until then leaves in one segment."""

    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        self.sock = socket.create_connection(server.address, 10)
        self._came, self._unsent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._came, self._unsent, server_hostname="localhost")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self) -> None:
        """Send all that it has to say."""
        self.sock.sendall(self._unsent.read())

    def say_close(self) -> None:
        """Have TLS's own close to say."""
        with contextlib.suppress(ssl.SSLWantReadError):  # the server's own has not come yet
            self.tls.unwrap()

    def wait(self, step: Callable[[], T]) -> T:
        """Do what may need more of the server, sending as it goes; return what that gives."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.send()
                data = self.sock.recv(65536)
                self._came.write(data) if data else self._came.write_eof()


def serial(sock: ssl.SSLSocket) -> object:
    """Return the serial number of the certificate that the server has shown."""
    certificate = sock.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


class Visitors:
    """Threads that connect, ask and leave, again and again, each handshake anew; every failure is kept."""

    def __init__(self, server: Server, context: ssl.SSLContext, count: int) -> None:
        self.failures: list[str] = []
        self.serials: set[object] = set()
        self.visits = 0
        self._server, self._context = server, context
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._visit) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def _visit(self) -> None:
        while not self._over.wait(0.005):
            try:
                with connect(self._server, self._context) as sock:
                    if ask(sock, b"?") != b"TLSv1.3 - -":
                        self.failures.append("wrong")
                    self.serials.add(serial(sock))
                    self.visits += 1
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
