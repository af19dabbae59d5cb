"""TLS as a client sees it: handshakes good and bad, certificates that change, and an end that is no reset."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from support.scorecard import unexpected
from support.server import Server, read_all, read_exactly, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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


class Authority:
    """A certificate authority of this test's own, and files for a server."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.ca = trustme.CA()
        self.folder = folder
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.issue()

    def issue(self) -> None:
        """Write a new certificate and key, each by a rename, as people do."""
        leaf = self.ca.issue_cert("localhost")
        pem = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        for file, data in ((self.cert, pem), (self.key, leaf.private_key_pem.bytes())):
            fresh = file.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.rename(file)

    @property
    def options(self) -> list[str]:
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def client(self, name: str | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority alone, with a certificate for `name` if given."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if name is not None:
            self.ca.issue_cert(f"{name}.example", common_name=name).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def connect(server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """Connect and shake hands; an end without TLS's own close is an error here."""
    plain = socket.create_connection(server.address, 10)
    try:
        return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False, session=session)
    except BaseException:
        plain.close()
        raise


def ask(sock: ssl.SSLSocket, line: bytes) -> bytes:
    sock.sendall(line + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        data = sock.recv(4096)
        assert data, "the server closed"
        answer += data
    return answer.removesuffix(b"\r\n")


def serial(sock: ssl.SSLSocket) -> object:
    certificate = sock.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


def test_two_hundred_connections_are_answered(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    context = authority.client()
    with start(module(WHO).replace("service", "shout"), "--workers", "2", *authority.options) as server:

        def one(number: int) -> bool:
            with connect(server, context) as sock:
                return all(ask(sock, b"a%d" % number * size) == b"A%d" % number * size for size in (1, 700))

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(one, range(200)))
        until(lambda: server.status()["totals"]["connections"] == 0)
        totals = server.status()["totals"]
        assert (totals["accepted"], totals["requests"], totals["errors"]) == (200, 400, 0)
        assert server.stop() == 0


def test_the_handler_sees_what_was_agreed(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    options = [*authority.options, "--tls-client-ca", str(authority.ca_file), "--tls-alpn", "who", "--tls-alpn", "x"]
    with start(module(WHO), "--workers", "1", *options) as server:
        context = authority.client("Ada")
        context.set_alpn_protocols(["y", "x", "who"])
        with connect(server, context) as sock:
            assert ask(sock, b"who am I?") == b"TLSv1.3 who Ada"


def test_a_client_without_the_certificate_that_is_asked_for_is_refused(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO), "--workers", "1", *authority.options, "--tls-client-ca", str(authority.ca_file)) as server:
        with pytest.raises(ssl.SSLError), connect(server, authority.client()) as sock:
            ask(sock, b"let me in")  # with TLS 1.3 the refusal comes with the first answer
        until(lambda: "a TLS handshake failed: peer did not return a certificate" in server.log())
        with connect(server, authority.client("Ada")) as sock:
            assert ask(sock, b"me?") == b"TLSv1.3 - Ada"


def test_a_version_too_old_is_refused(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    old = authority.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with start(module(WHO), "--workers", "1", *authority.options, "--tls-min-version", "1.3") as server:
        with pytest.raises(ssl.SSLError):
            connect(server, old)
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"?") == b"TLSv1.3 - -"
    with start(module(WHO), "--workers", "1", *authority.options) as server, connect(server, old) as sock:
        assert ask(sock, b"?") == b"TLSv1.2 - -"


def test_plain_text_on_the_port_is_one_clear_line_and_harms_nobody(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO), "--workers", "1", *authority.options) as server:
        workers = server.workers()
        with server.connect() as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            read_all(sock)
        with server.connect() as sock:
            sock.sendall(b"\x1b[31mred\r\n" * 20)
            read_all(sock)
        until(lambda: server.status()["totals"]["errors"] == 2)
        lines = [line for line in server.log().splitlines() if "handshake" in line]
        assert len(lines) == 2
        assert all("the peer speaks plain text, and this port TLS" in line for line in lines)
        assert "\x1b" not in server.log()
        assert server.workers() == workers
        until(lambda: server.status()["totals"]["connections"] == 0)


def test_a_peer_that_does_not_shake_hands_holds_up_nobody_and_is_closed_by_the_deadline(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    options = [*authority.options, "--handshake-timeout", "0.5"]
    with start(module(WHO), "--workers", "1", *options) as server:
        silent = [server.connect() for _ in range(20)]
        began = time.monotonic()
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"?") == b"TLSv1.3 - -"
        for one in silent:
            with one:
                assert read_all(one) == b""
        assert time.monotonic() - began < 5
        until(lambda: server.log().count("it was not done within --handshake-timeout") == 20)
        until(lambda: server.status()["totals"]["connections"] == 0)


def test_tickets_are_good_for_every_worker(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where a session is complete with the handshake
    with start(module(WHO), "--workers", "4", *authority.options) as server:
        with connect(server, context) as sock:
            assert ask(sock, b"?")
            session = sock.session
        kept = []
        for _ in range(12):
            kept.append(connect(server, context, session))
            assert ask(kept[-1], b"?")
        assert all(sock.session_reused for sock in kept)
        assert all(worker["accepted"] for worker in server.status()["workers"])
        for sock in kept:
            sock.close()


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


def test_certificates_change_under_load_and_a_broken_one_changes_nothing(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO), "--workers", "2", *authority.options) as server:
        with Visitors(server, authority.client(), 4) as visitors:
            until(lambda: visitors.visits > 20)
            for _ in range(3):
                authority.issue()
                seen = len(visitors.serials)
                assert run("reload", "--control", server.control).returncode == 0
                until(lambda now=seen: len(visitors.serials) > now)  # type: ignore[misc]
            workers, good = server.workers(), authority.cert.read_bytes()
            for broken, why in (
                (b"nonsense", "holds no certificate (PEM)"),
                (good[:200] + b"\n-----END CERTIFICATE-----\n", "cannot be used"),
                (Authority(authority.folder / "other").cert.read_bytes(), "is not the key of the certificate in"),
            ):
                authority.cert.write_bytes(broken)
                told = run("reload", "--control", server.control)
                assert (told.returncode, why in told.stderr, told.stderr.count("\n")) == (1, True, 1), told.stderr
            assert server.workers() == workers
            before = visitors.visits
            until(lambda: visitors.visits > before + 20)
        assert visitors.failures == []
        assert len(visitors.serials) == 4


@pytest.mark.parametrize("service", ["service", "shout"])
def test_a_kept_connection_is_ended_by_a_reload_with_tlss_own_close(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, service: str
) -> None:
    with start(module(WHO).replace("service", service), "--workers", "1", *authority.options) as server:
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"?")
            assert run("reload", "--control", server.control).returncode == 0
            sock.settimeout(10)
            assert sock.recv(100) == b""  # a cut-off would raise here: ragged ends are not suppressed
        until(lambda: [worker["generation"] for worker in server.status()["workers"]] == [2])


def test_starttls_begins_in_the_middle_and_takes_nothing_that_came_before_it(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO), "--workers", "1", *authority.options, "--tls-mode", "starttls") as server:
        with server.connect() as plain:
            plain.sendall(b"?\r\nstarttls\r\n")
            assert read_exactly(plain, 17) == b"plain\r\ngo ahead\r\n"
            with authority.client().wrap_socket(plain, server_hostname="localhost") as sock:
                assert ask(sock, b"?") == b"TLSv1.3 - -"
                assert ask(sock, b"still?") == b"TLSv1.3 - -"
        with server.connect() as plain:  # an attacker in the middle adds a line of his own in plain text
            plain.sendall(b"starttls\r\nevil\r\n")
            assert read_exactly(plain, 10) == b"go ahead\r\n"
            with pytest.raises(OSError, match=r"EOF|reset"):
                authority.client().wrap_socket(plain, server_hostname="localhost")
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert "Traceback" not in server.log()


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


@pytest.mark.parametrize("model", ["threads", "sync"])
def test_blocking_workers_speak_tls_too(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, model: str
) -> None:
    context = authority.client()
    options = ["--workers", "2", "--model", model, *authority.options, "--handshake-timeout", "1"]
    with start(module(BLOCKING).replace("service", "shout"), *options) as server:

        def one(number: int) -> bool:
            with connect(server, context) as sock:
                answers = [ask(sock, b"a%d" % number * size) == b"A%d" % number * size for size in (1, 700, 20_000)]
                sock.unwrap()  # waits for the server's own close
                return all(answers)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(one, range(60)))
        with server.connect() as silent, server.connect() as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            read_all(plain)
            assert read_all(silent) == b""
        until(lambda: "the peer speaks plain text, and this port TLS" in server.log())
        until(lambda: "it was not done within --handshake-timeout" in server.log())
        server.connect().close()  # a health check is no error
        with connect(server, context) as sock:
            assert ask(sock, b"kept") == b"KEPT"
            assert run("reload", "--control", server.control).returncode == 0
            sock.settimeout(10)
            assert sock.recv(100) == b""  # a cut-off would raise
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 2
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("model", ["threads", "sync"])
def test_starttls_in_a_blocking_dialogue(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, model: str
) -> None:
    options = ["--workers", "1", "--model", model, *authority.options, "--tls-mode", "starttls"]
    with start(module(BLOCKING), *options) as server:
        with server.connect() as plain:
            plain.sendall(b"?\r\nstarttls\r\n")
            assert read_exactly(plain, 17) == b"plain\r\ngo ahead\r\n"
            with authority.client().wrap_socket(plain, server_hostname="localhost") as sock:
                assert ask(sock, b"?") == b"TLSv1.3 -"
        with server.connect() as plain:  # an attacker in the middle adds a line of his own in plain text
            plain.sendall(b"starttls\r\nevil\r\n")
            assert read_exactly(plain, 10) == b"go ahead\r\n"
            with pytest.raises(OSError, match=r"EOF|reset"):
                authority.client().wrap_socket(plain, server_hostname="localhost")
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert "Traceback" not in server.log()


ADAPTED = """
    import asyncio

    class Upper(asyncio.Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())

    async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data.upper())
            await writer.drain()
"""


@pytest.mark.parametrize("attribute", ["Upper", "streams"])
def test_what_already_exists_speaks_tls_too(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str
) -> None:
    options = ["--workers", "1", *authority.options, "--drain-timeout", "3"]
    with start(module(ADAPTED).replace("service", attribute), *options) as server:
        for _ in range(2):
            sock = connect(server, authority.client())
            assert ask(sock, b"bye") == b"BYE"
            sock.unwrap().close()  # waits for the server's own close
        with connect(server, authority.client()) as sock:
            assert ask(sock, b"kept") == b"KEPT"
            assert run("reload", "--control", server.control).returncode == 0
            sock.settimeout(10)
            assert sock.recv(100) == b""  # a cut-off would raise
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0
        assert "Traceback" not in server.log()
        assert "returning true" not in server.log()


def test_a_target_that_is_given_plain_sockets_is_refused(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def service(sock, address):\n    pass\n")
    for command in ("check", "serve"):
        told = run(
            command, "app:service", "--bind", "127.0.0.1:0", "--control", "off", "--log-level", "error",
            *authority.options, cwd=tmp_path,
        )  # fmt: skip
        assert (told.returncode, told.stdout, told.stderr.count("\n")) == (3, "", 1), told
        assert "--tls-cert: service is given plain sockets and must do its TLS itself; drop the option" in told.stderr


def test_the_end_of_a_client_that_only_asks_is_clean(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority
) -> None:
    with start(module(WHO).replace("service", "shout"), "--workers", "1", *authority.options) as server:
        sock = connect(server, authority.client())
        assert ask(sock, b"bye") == b"BYE"
        plain = sock.unwrap()  # waits for the server's own close
        plain.close()
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0


def faults(authority: Authority) -> Iterator[tuple[list[str], str]]:
    cert, key, folder = str(authority.cert), str(authority.key), authority.folder
    locked = folder / "locked.pem"
    loaded = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    yield ["--tls-cert", "gone.pem"], "No such file or directory"
    yield ["--tls-cert", str(folder)], "Is a directory"
    yield ["--tls-cert", key], "holds no certificate (PEM)"
    yield ["--tls-cert", cert], "holds no private key (PEM); name its file with --tls-key"
    yield ["--tls-cert", cert, "--tls-key", cert], "holds no private key (PEM)"
    yield ["--tls-cert", cert, "--tls-key", str(locked)], "the key is encrypted"
    yield ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", key], "--tls-client-ca"
    yield ["--tls-cert", cert, "--tls-key", key, "--tls-min-version", "1.1"], "must be one of 1.2, 1.3"
    yield ["--tls-key", key], "--tls-key: means nothing without --tls-cert"
    yield ["--tls-mode", "starttls"], "--tls-mode: means nothing without --tls-cert"


def test_files_that_cannot_be_used_are_told_in_one_line(
    authority: Authority, module: Callable[..., str], tmp_path: Path
) -> None:
    target = module(WHO)
    for options, why in faults(authority):
        for command in ("check", "serve"):
            told = run(command, target, "--bind", "127.0.0.1:0", "--control", "off", *options, cwd=tmp_path)
            assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1), (options, told)
            assert why in told.stderr, (options, told.stderr)


LAST_WORDS = """
    from prefork import Lines, conversation

    @conversation(Lines(max_length=1 << 24))
    async def service(conn):
        await conn.receive()
        if conn.tls is None:
            await conn.start_tls()
            await conn.receive()
        await conn.send(b"x" * 8_000_000)
"""


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_a_peer_that_reads_slowly_gets_the_last_words_too(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, mode: str
) -> None:
    options = ["--workers", "1", *authority.options, "--tls-mode", mode]
    with start(module(LAST_WORDS), *options) as server:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        plain.settimeout(10)
        plain.connect(server.address)
        if mode == "starttls":
            plain.sendall(b"starttls\r\n")
            until(lambda: server.status()["totals"]["bytes_in"] == 10)
        with authority.client().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as sock:
            sock.sendall(b"go\r\n")
            slow_until = time.monotonic() + 4  # longer than a close may take if nobody reads
            size = 0
            while data := sock.recv(65536):
                size += len(data)
                if time.monotonic() < slow_until:
                    time.sleep(0.02)  # what makes it a slow one
            assert size == 8_000_002


def reset(sock: socket.socket) -> None:
    """Close by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("model", ["async", "threads", "sync"])
def test_peers_that_are_gone_before_the_handshake_leave_no_trace(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, model: str
) -> None:
    service = module(BLOCKING).replace("service", "shout")
    with start(service, "--workers", "1", "--model", model, *authority.options) as server:
        workers = server.workers()
        address = server.address
        for number in range(100):
            sock = socket.create_connection(address, 10)
            sock.sendall((b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01")[number % 3])
            reset(sock)
        until(lambda: server.status()["totals"]["accepted"] == 100)
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0
        assert server.workers() == workers
        assert not unexpected(server.log())


STARTTLS_LATER = """
    import asyncio
    import time
    from pathlib import Path
    from prefork import Lines, conversation

    @conversation(Lines())
    async def service(conn):
        await conn.receive()
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        await conn.start_tls()

    @conversation(Lines())
    def blocking(conn):
        conn.receive()
        while not Path("go").exists():
            time.sleep(0.01)
        conn.start_tls()
"""


@pytest.mark.parametrize("attribute", ["service", "blocking"])
@pytest.mark.parametrize("when", ["before", "in the middle", "half-closed", "silent"])
def test_peers_that_leave_around_starttls_leave_no_trace(
    start: Callable[..., Server],
    module: Callable[..., str],
    authority: Authority,
    tmp_path: Path,
    attribute: str,
    when: str,
) -> None:
    options = ["--workers", "1", *authority.options, "--tls-mode", "starttls", "--handshake-timeout", "1"]
    with start(module(STARTTLS_LATER).replace("service", attribute), *options) as server, server.connect() as sock:
        sock.sendall(b"starttls\r\n")
        until(lambda: server.status()["totals"]["bytes_in"] == 10)
        if when == "before":
            reset(sock)
        elif when == "half-closed":
            sock.shutdown(socket.SHUT_WR)
        (tmp_path / "go").touch()
        if when == "in the middle":
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            reset(sock)
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert "Traceback" not in server.log()


def test_what_a_peer_sent_before_its_close_is_handed_out(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, tmp_path: Path
) -> None:
    service = module("""
        import asyncio
        from pathlib import Path
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            lines = []
            async for line in conn:
                await asyncio.sleep(0.1)
                lines.append(line)
            Path("lines").write_bytes(b",".join(lines))
    """)
    with start(service, "--workers", "1", *authority.options) as server:
        sock = connect(server, authority.client())
        sock.sendall(b"a\r\nb\r\nc\r\n")
        sock.unwrap().close()
        until((tmp_path / "lines").exists)
        until(lambda: (tmp_path / "lines").read_bytes() == b"a,b,c")
        until(lambda: server.status()["totals"]["connections"] == 0)


@pytest.mark.parametrize("attribute", ["Upper", "streams"])
def test_bytes_that_are_no_tls_are_nobodys_failure_but_the_peers(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, attribute: str
) -> None:
    with start(module(ADAPTED).replace("service", attribute), "--workers", "1", *authority.options) as server:
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\x17\x03\x03\x00\x20" + b"z" * 32):
            with connect(server, authority.client()) as sock:
                assert ask(sock, b"hi") == b"HI"
                with socket.socket(fileno=os.dup(sock.fileno())) as under:
                    under.sendall(garbage)
                until(lambda: server.status()["totals"]["connections"] == 0)
        assert "Traceback" not in server.log()
