"""Code that was not written for prefork: how it is recognised, and that drain, deadlines and counters hold for it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from support.server import Server, alive, exchange, read_all, read_exactly, reset, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.tls import Authority

    Start = Callable[..., Server]
    Module = Callable[..., str]

PROTOCOL = """
    import asyncio

    class service(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            if b"fail" in data:
                raise ValueError("as asked")
            self.transport.write(data)
"""
BUFFERED = """
    import asyncio

    class service(asyncio.BufferedProtocol):
        def connection_made(self, transport):
            self.transport, self.buffer = transport, bytearray(7)

        def get_buffer(self, hint):
            return self.buffer

        def buffer_updated(self, size):
            if b"fail" in self.buffer:
                raise ValueError("as asked")
            self.transport.write(bytes(self.buffer[:size]))
            self.buffer[:] = bytes(7)
"""
STREAMS = """
    async def service(reader, writer):
        while data := await reader.read(1000):
            if b"fail" in data:
                raise ValueError("as asked")
            writer.write(data)
            await writer.drain()
"""
WHO = """
    import asyncio, os, pathlib

    class service(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            pathlib.Path("new").write_text(repr(self.transport.get_extra_info("peername")))
            os.rename("new", "seen")
"""
HANDLER = """
    import socketserver

    class service(socketserver.StreamRequestHandler):
        def handle(self):
            while data := self.rfile.read1(1000):
                if b"fail" in data:
                    raise ValueError("as asked")
                self.wfile.write(data)
"""
PLAIN_HANDLER = """
    import socketserver

    class service(socketserver.BaseRequestHandler):
        def handle(self):
            while data := self.request.recv(1000):
                if b"fail" in data:
                    raise ValueError("as asked")
                self.request.sendall(data)
"""
FUNCTION = """
    def service(sock, address):
        while data := sock.recv(1000):
            if b"fail" in data:
                raise ValueError("as asked")
            sock.sendall(data)
"""
ECHOES = {
    "protocol": PROTOCOL,
    "buffered": BUFFERED,
    "streams": STREAMS,
    "socketserver": HANDLER,
    "plain": PLAIN_HANDLER,
    "function": FUNCTION,
}
each_echo = pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)


# What is recognised, and what is refused. -----------------------------------------------------------------------------


KINDS = """
    import asyncio, functools, http.server, socketserver

    class Protocol(asyncio.Protocol):
        def __init__(self, name="x"): ...
    class Buffered(asyncio.BufferedProtocol): ...
    class Needy(asyncio.Protocol):
        def __init__(self, name): ...
    class Datagram(asyncio.DatagramProtocol): ...
    class Handler(socketserver.BaseRequestHandler): ...
    pages = functools.partial(http.server.SimpleHTTPRequestHandler, directory="pages")
    class Packets(socketserver.DatagramRequestHandler): ...
    partial = functools.partial(Needy, "x")
    def factory(): return Protocol()
    def function(sock, address, greeting="hello"): ...
    def one(data): ...
    def told(reader, writer): ...
    async def streams(reader, writer): ...
    async def listening(listener): ...
    async def three(a, b, c): ...
    def generator(sock, address): yield
    async def async_generator(reader, writer): yield
    class Generator:
        def __call__(self, sock, address): yield
    callable_generator = Generator()
    class Callback:
        async def __call__(self, reader, writer): ...
    callback = Callback()
    number = 3
"""


NEVER_RUN = "nobody would ask it for what it yields, and so it would never run; take out its `yield`"


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("Protocol", [], "(protocol) on 127.0.0.1:0 with 1 async workers"),
        ("Buffered", [], "(protocol) on 127.0.0.1:0 with 1 async workers"),
        ("partial", [], "(protocol) on 127.0.0.1:0 with 1 async workers"),
        ("factory", ["--adapter", "protocol"], "(protocol) on 127.0.0.1:0 with 1 async workers"),
        ("streams", [], "(streams) on 127.0.0.1:0 with 1 async workers"),
        ("callback", [], "(streams) on 127.0.0.1:0 with 1 async workers"),
        ("told", ["--adapter", "streams"], "(streams) on 127.0.0.1:0 with 1 async workers"),
        ("Handler", [], "(socketserver) on 127.0.0.1:0 with 1 threads workers"),
        ("pages", [], "(socketserver) on 127.0.0.1:0 with 1 threads workers"),
        ("pages", ["--adapter", "socketserver"], "(socketserver) on 127.0.0.1:0 with 1 threads workers"),
        ("function", [], "(function) on 127.0.0.1:0 with 1 threads workers"),
        ("function", ["--model", "sync"], "(function) on 127.0.0.1:0 with 1 sync workers"),
        ("listening", [], "(listening) on 127.0.0.1:0 with 1 async workers"),
    ],
)
def test_target_is_recognised_or_named(
    module: Module, tmp_path: Path, target: str, options: list[str], said: str
) -> None:
    module(KINDS)
    checked = run("check", f"app:{target}", "--bind", "127.0.0.1:0", "--workers", "1", *options, cwd=tmp_path)
    assert (checked.stderr, checked.stdout) == ("", f"ok: app:{target} {said}\n")


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("app:factory", [], "cannot load 'app:factory': it is a function, not a service; if it makes an "),
        ("app:one", [], "cannot load 'app:one': it is a function, not a service; decorate a function with @reply"),
        ("app:three", [], "cannot load 'app:three': it is a function, not a service; "),
        ("app:number", [], "cannot load 'app:number': it is of type int, not a service; "),
        ("app:Datagram", [], "cannot load 'app:Datagram': it is the class Datagram, not a service; "),
        (
            "socketserver:TCPServer",
            [],
            "cannot load 'socketserver:TCPServer': it is the class TCPServer, not a service; a",
        ),
        ("app:Needy", [], "--adapter protocol: app:Needy cannot be made without arguments (missing a required "),
        ("app:Packets", [], "--adapter socketserver: app:Packets handles datagrams; "),
        ("app:number", ["--adapter", "streams"], "--adapter streams: app:number is of type int; it needs a callback "),
        ("app:streams", ["--adapter", "protocol"], "--adapter protocol: app:streams is an `async def`; use --adapter "),
        ("app:streams", ["--adapter", "function"], "--adapter function: app:streams is an `async def`; use --adapter "),
        ("app:Handler", ["--adapter", "function"], "--adapter function: app:Handler is the class Handler; use --adap"),
        ("app:Protocol", ["--adapter", "socketserver"], "--adapter socketserver: app:Protocol is the class Protocol;"),
        ("app:one", ["--adapter", "streams"], "--adapter streams: app:one cannot be called so (too many positional"),
        ("app:one", ["--adapter", "listening"], "--adapter listening: app:one is no `async def`; it needs an "),
        ("app:generator", [], f"cannot load 'app:generator': it is a generator function, not a service; {NEVER_RUN}"),
        ("app:async_generator", [], "cannot load 'app:async_generator': it is a generator function, not a service; "),
        ("app:callable_generator", [], "cannot load 'app:callable_generator': it is a generator function, not a serv"),
        (
            "app:generator",
            ["--adapter", "function"],
            f"--adapter function: app:generator is a generator function; {NEVER_RUN}",
        ),
        ("app:async_generator", ["--adapter", "streams"], "--adapter streams: app:async_generator is a generator func"),
        ("app:async_generator", ["--adapter", "listening"], "--adapter listening: app:async_generator is a generator "),
        ("echo", ["--adapter", "streams"], "--adapter streams: echo is a built-in service; drop the option"),
        ("app:function", ["--model", "async"], "--model async: function (adapter function) blocks; use --model thr"),
        ("app:Protocol", ["--model", "sync"], "--model sync: Protocol (adapter protocol) needs an event loop; use "),
    ],
)
def test_what_no_adapter_fits_is_refused_in_one_line(
    module: Module, tmp_path: Path, target: str, options: list[str], said: str
) -> None:
    module(KINDS)
    checked = run("check", target, "--bind", "127.0.0.1:0", *options, cwd=tmp_path)
    assert checked.returncode == 3
    (line,) = checked.stderr.splitlines()
    assert line.startswith(f"prefork: {said}"), line


def test_unknown_adapter_is_refused(tmp_path: Path) -> None:
    checked = run("check", "echo", "--adapter", "wsgi", cwd=tmp_path)
    assert checked.returncode == 2
    assert checked.stderr.startswith("prefork: --adapter 'wsgi': must be one of protocol, streams, socketserver, func")


MADE = """
    import asyncio

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    def service():
        return Echo()
"""
TOLD = """
    import asyncio

    async def talk(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    tasks = set()

    def service(reader, writer):
        tasks.add(asyncio.create_task(talk(reader, writer)))
"""
ACCEPTS = """
    import asyncio

    async def service(listener):
        async def client(reader, writer):
            with listener.connection():
                while data := await reader.read(1000):
                    writer.write(data)
                writer.close()

        servers = [await asyncio.start_server(client, sock=sock) for sock in listener.sockets]
        listener.ready()
        await listener.draining()
        for server in servers:
            server.close()
        await listener.idle()
"""


@pytest.mark.parametrize(
    ("adapter", "code"),
    [
        ("protocol", PROTOCOL),
        ("protocol", MADE),
        ("streams", STREAMS),
        ("streams", TOLD),
        ("socketserver", HANDLER),
        ("function", FUNCTION),
        ("listening", ACCEPTS),
    ],
    ids=["protocol", "factory", "streams", "told", "socketserver", "function", "listening"],
)
def test_adapter_that_is_named_serves(start: Start, module: Module, adapter: str, code: str) -> None:
    with start(module(code), "--workers", "1", "--adapter", adapter) as server:
        for _ in range(2):
            assert exchange(server.address, b"hello") == b"hello"
        until(lambda: server.status()["totals"]["connections"] == 0)
        totals = server.status()["totals"]
        assert (totals["accepted"], totals["errors"]) == (2, 0)
        assert server.stop() == 0


# What holds for all of them. ------------------------------------------------------------------------------------------


@each_echo
def test_every_byte_comes_back_and_is_counted(start: Start, module: Module, echo: str) -> None:
    sent = bytes(range(256)) * 2000
    with start(module(echo), "--workers", "1") as server:
        with server.connect() as sock:
            sock.sendall(sent[:100])
            assert read_exactly(sock, 100) == sent[:100]
            totals = server.status()["totals"]
            assert (totals["connections"], totals["accepted"]) == (1, 1)
        assert exchange(server.address, sent) == sent
        until(lambda: server.status()["totals"]["connections"] == 0, what="both have ended")
        totals = server.status()["totals"]
        assert (totals["bytes_in"], totals["bytes_out"]) == (len(sent) + 100, len(sent) + 100)
        assert (totals["accepted"], totals["errors"]) == (2, 0)
        assert server.stop() == 0


@each_echo
@pytest.mark.parametrize("error", ["ValueError", "SystemExit"])
def test_code_that_raises_ends_its_connection_alone(start: Start, module: Module, echo: str, error: str) -> None:
    raising = module(echo.replace("ValueError", error))
    with start(raising, "--workers", "1") as server, server.connect() as other:
        before = server.workers()
        other.sendall(b"one")
        assert read_exactly(other, 3) == b"one"
        assert exchange(server.address, b"fail") == b""  # an end of file, never a reset
        until(lambda: f"{error}: as asked" in server.log(), what="the traceback is in the log")
        other.sendall(b"two")
        assert read_exactly(other, 3) == b"two"
        assert server.workers() == before
        assert server.status()["totals"]["errors"] == 1


@each_echo
@pytest.mark.parametrize(
    ("option", "sent", "said"),
    [
        ("--first-byte-timeout", b"", "sent nothing within --first-byte-timeout"),
        ("--idle-timeout", b"hello", "was idle for --idle-timeout"),
    ],
)
def test_silent_peer_is_closed_by_the_deadline_that_names_it(
    start: Start, module: Module, echo: str, option: str, sent: bytes, said: str
) -> None:
    with start(module(echo), "--workers", "1", option, "0.5", "--log-level", "debug") as server:
        began = time.monotonic()
        with server.connect() as sock:
            sock.sendall(sent)
            assert read_all(sock) == sent
            assert 0.5 <= time.monotonic() - began < 5
        until(lambda: said in server.log())
        until(lambda: server.status()["totals"]["connections"] == 0, what="it has left the accounts")
        assert "Traceback" not in server.log()
        assert server.status()["totals"]["errors"] == 0


@each_echo
def test_peer_that_does_not_read_is_dropped_and_memory_stays_bounded(start: Start, module: Module, echo: str) -> None:
    with start(module(echo), "--workers", "1", "--write-timeout", "1") as server, server.connect() as sock:
        sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError, ConnectionError):  # the drop comes first where little is taken at a time
            for _ in range(640):
                sock.send(b"x" * 65536)  # the server leaves the bytes unread
            pytest.fail("the server has taken 40 MB and the peer nothing")
        until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped")
        assert server.status()["workers"][0]["rss_bytes"] < 60_000_000


def test_protocol_is_told_of_the_peers_end_once_also_where_it_goes_on_to_send(start: Start, module: Module) -> None:
    service = module("""
        import asyncio

        class service(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def eof_received(self):
                print("the end", flush=True)
                self.transport.write(bytes(8_000_000))
                self.task = asyncio.create_task(self.close())
                return True

            async def close(self):
                while self.transport.get_write_buffer_size():
                    await asyncio.sleep(0.01)
                self.transport.close()
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        sock.shutdown(socket.SHUT_WR)
        assert len(read_all(sock)) == 8_000_000
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.log().count("the end") == 1


def test_what_a_protocol_sends_to_a_lost_connection_is_dropped(start: Start, module: Module) -> None:
    service = module("""
        import asyncio

        class service(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def connection_lost(self, exc):
                self.transport.write(b"too late")
                print("lost", self.transport.is_closing(), flush=True)
    """)
    with start(service, "--workers", "1") as server:
        for end in (socket.socket.close, reset):
            with server.connect() as sock:
                until(lambda: server.status()["totals"]["connections"] == 1)
                end(sock)
            until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.log().count("lost True") == 2
        assert server.status()["totals"]["errors"] == 0
        assert server.status()["totals"]["bytes_out"] == 0


HASTY = {
    "protocol": """
        import asyncio

        class service(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(b"enough")
                self.transport.close()

            def connection_lost(self, exc):
                assert exc is None
                print("told", flush=True)
    """,
    "streams": """
        async def service(reader, writer):
            await reader.read(1)
            writer.write(b"enough")
            writer.close()
            await writer.wait_closed()
            print("told", flush=True)
    """,
    "function": """
        def service(sock, address):
            sock.recv(1)
            sock.sendall(b"enough")
            sock.close()
            print("told", flush=True)
    """,
}


@pytest.mark.parametrize("hasty", HASTY.values(), ids=HASTY)
def test_peer_that_is_still_sending_reads_the_last_words_and_no_reset(start: Start, module: Module, hasty: str) -> None:
    with start(module(hasty), "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"x")
        until(lambda: server.status()["totals"]["bytes_out"] == 6, what="it has been answered")
        for _ in range(100):
            sock.sendall(b"x" * 10_000)  # after a close with a reset this fails, or the answer is gone
        assert read_all(sock) == b"enough"
        sock.close()
        until(lambda: "told" in server.log())
        assert server.status()["totals"]["errors"] == 0


@each_echo
def test_connections_beyond_the_limit_wait_in_the_queue(start: Start, module: Module, echo: str) -> None:
    with (
        start(module(echo), "--workers", "1", "--max-connections", "1") as server,
        server.connect() as first,
        server.connect() as second,
    ):
        first.sendall(b"one")
        assert read_exactly(first, 3) == b"one"
        second.sendall(b"two")
        until(lambda: server.status()["listeners"][0]["queued"] == 1, what="the second waits")
        first.close()
        assert read_exactly(second, 3) == b"two"


# Drain. ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [[], ["--deny", "192.0.2.0/24"]], ids=["alone", "behind a rule"])
def test_address_of_a_peer_that_has_left_is_known(
    start: Start, module: Module, tmp_path: Path, rule: list[str]
) -> None:
    with start(module(WHO), "--workers", "1", *rule) as server:
        (worker,) = server.workers().values()
        os.kill(worker, signal.SIGSTOP)
        with server.connect() as sock:
            address = sock.getsockname()
            sock.sendall(b"who?")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        os.kill(worker, signal.SIGCONT)
        until((tmp_path / "seen").exists)
        assert (tmp_path / "seen").read_text() == repr(address)


@each_echo
def test_quiet_connection_is_ended_in_order_by_a_reload(start: Start, module: Module, echo: str) -> None:
    with start(module(echo), "--workers", "1", "--drain-timeout", "6") as server, server.connect() as sock:
        (old,) = server.workers().values()
        sock.sendall(b"hello")
        assert read_exactly(sock, 5) == b"hello"
        assert server.ask(command="reload").get("ok")
        began = time.monotonic()
        assert read_all(sock) == b""
        assert time.monotonic() - began < 4  # a sixth of the drain, not its end
        sock.close()
        until(lambda: not alive(old), what="the old worker has left")
        assert "Traceback" not in server.log()
        assert server.status()["totals"]["errors"] == 0


SLOW = {
    "protocol": """
        import asyncio

        class service(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport, self.got = transport, b""

            def data_received(self, data):
                self.got += data
                if self.got.endswith(b"!"):
                    self.transport.write(self.got)
    """,
    "streams": """
        async def service(reader, writer):
            writer.write(await reader.readuntil(b"!"))
            await reader.read()
    """,
    "function": """
        def service(sock, address):
            got = b""
            while not got.endswith(b"!"):
                got += sock.recv(1000)
            sock.sendall(got)
            sock.recv(1)
    """,
    "socketserver": """
        import socketserver

        class service(socketserver.StreamRequestHandler):
            def handle(self):
                got = b""
                while not got.endswith(b"!"):
                    got += self.rfile.read1(1000)
                self.wfile.write(got)
                self.rfile.read(1)
    """,
}


@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW)
def test_pause_in_the_middle_of_a_message_is_no_end(start: Start, module: Module, slow: str) -> None:
    """The message's second half comes when an idle connection of the same worker has been ended for its silence."""
    with (
        start(module(slow), "--workers", "1", "--drain-timeout", "9") as server,
        server.connect() as idle,
        server.connect() as busy,
    ):
        (old,) = server.workers().values()
        idle.sendall(b"whole!")
        assert read_exactly(idle, 6) == b"whole!"
        busy.sendall(b"first half, ")
        until(lambda: server.status()["totals"]["bytes_in"] == 18, what="both have arrived")
        assert server.ask(command="reload").get("ok")
        assert read_all(idle) == b""
        busy.sendall(b"second half!")
        assert read_exactly(busy, 24) == b"first half, second half!"
        assert alive(old)


UPLOAD = {
    "streams": """
        async def service(reader, writer):
            whole = await reader.read(-1)
            open("stored", "wb").write(whole)
    """,
    "function": """
        def service(sock, address):
            with sock.makefile("rb") as file:
                whole = file.read()
            open("stored", "wb").write(whole)
    """,
    "socketserver": """
        import socketserver

        class service(socketserver.StreamRequestHandler):
            def handle(self):
                whole = self.rfile.read()
                open("stored", "wb").write(whole)
    """,
}


@pytest.mark.parametrize("upload", UPLOAD.values(), ids=UPLOAD)
def test_half_a_message_never_passes_for_a_whole_one(start: Start, module: Module, tmp_path: Path, upload: str) -> None:
    with start(module(upload), "--workers", "1", "--drain-timeout", "3") as server:
        with server.connect() as sock:
            (old,) = server.workers().values()
            sock.sendall(b"the first half")
            until(lambda: server.status()["totals"]["bytes_in"] == 14, what="it has arrived")
            assert server.ask(command="reload").get("ok")
            assert read_all(sock) == b""  # ended in the last part of the drain
        until(lambda: not alive(old), what="the old worker has left")
        assert not (tmp_path / "stored").exists()
        assert "Traceback" not in server.log()
        assert exchange(server.address, b"a whole one") == b""
        until((tmp_path / "stored").exists)
        assert (tmp_path / "stored").read_bytes() == b"a whole one"


def test_protocol_that_hears_of_the_drain_ends_by_itself(start: Start, module: Module) -> None:
    service = module("""
        import asyncio

        class service(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                connection = self.transport.get_extra_info("prefork")
                connection.count_request()
                self.transport.write(b"draining\\n" if connection.draining else b"serving\\n")
                if data == b"bye\\n":
                    self.transport.close()

            def connection_draining(self):
                self.transport.write(b"please leave\\n")
    """)
    with start(service, "--workers", "1", "--drain-timeout", "3") as server, server.connect() as sock:
        lines = sock.makefile("rb")
        sock.sendall(b"hello\n")
        assert lines.readline() == b"serving\n"
        assert server.status()["totals"]["requests"] == 1
        assert server.ask(command="reload").get("ok")
        assert lines.readline() == b"please leave\n"
        # a connection that knows nothing of the drain would be ended after half a second of silence
        with server.connect() as probe:
            probe.settimeout(0.8)
            with pytest.raises(TimeoutError):
                probe.recv(1)
        sock.sendall(b"bye\n")
        assert lines.readline() == b"draining\n"
        assert lines.read() == b""


def test_callback_that_works_on_after_its_peer_has_left_is_not_cut_off(
    start: Start, module: Module, tmp_path: Path
) -> None:
    service = module("""
        import asyncio, pathlib

        async def service(reader, writer):
            data = await reader.read(-1)
            writer.close()
            while not pathlib.Path("go").exists():
                await asyncio.sleep(0.01)
            pathlib.Path("stored").write_bytes(data)
    """)
    with start(service, "--workers", "1") as server:
        (old,) = server.workers().values()
        assert exchange(server.address, b"to be stored") == b""
        assert server.ask(command="reload").get("ok")
        assert server.status()["totals"]["connections"] == 1  # its work counts
        (tmp_path / "go").touch()
        until((tmp_path / "stored").exists, what="the callback has come to its end")
        until(lambda: not alive(old), what="the old worker has left")


# Each by itself. ------------------------------------------------------------------------------------------------------


def test_handler_meets_a_stand_in_for_its_server(start: Start, module: Module) -> None:
    service = module("""
        import socketserver

        class service(socketserver.BaseRequestHandler):
            def handle(self):
                self.server.visits = getattr(self.server, "visits", 0) + 1
                assert self.server.RequestHandlerClass is service
                assert self.client_address == self.request.getpeername()
                try:
                    self.server.shutdown()
                except RuntimeError as error:
                    said = str(error)
                self.request.sendall(f"{self.server.server_address[1]} {self.server.visits} {said}".encode())
    """)
    with start(service, "--workers", "1") as server:
        port = server.address[1]
        said = "a handler cannot shut down a preforking server; `prefork stop` does"
        assert exchange(server.address, b"") == f"{port} 1 {said}".encode()
        assert exchange(server.address, b"") == f"{port} 2 {said}".encode()
        assert server.status()["totals"]["requests"] == 2


def test_handler_class_that_is_given_a_folder_by_a_partial_serves_it(
    start: Start, module: Module, tmp_path: Path
) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.html").write_text("a page")
    service = module("""
        import functools, http.server

        service = functools.partial(http.server.SimpleHTTPRequestHandler, directory="pages")
    """)
    with start(service, "--workers", "1") as server:
        head, _, body = exchange(server.address, b"GET / HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 OK")
        assert body == b"a page"


@pytest.mark.parametrize("call", ['sock.sendall(b"too late")', "sock.recv(1)"])
def test_function_that_goes_on_behind_its_own_close_is_told_in_the_log(start: Start, module: Module, call: str) -> None:
    service = module(f"""
        def service(sock, address):
            sock.close()
            {call}
    """)
    with start(service, "--workers", "1") as server:
        assert exchange(server.address, b"") == b""
        until(lambda: "OSError: [Errno 9] Bad file descriptor" in server.log())
        assert server.status()["totals"]["errors"] == 1


def test_timeout_that_a_function_sets_is_its_own(start: Start, module: Module) -> None:
    service = module("""
        def service(sock, address):
            sock.settimeout(0.2)
            try:
                sock.recv(1)
            except TimeoutError:
                sock.sendall(b"too slow")
            with sock:
                pass
            assert sock.fileno() == -1
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        assert read_all(sock) == b"too slow"
        assert server.status()["totals"]["errors"] == 0


def test_tls_of_the_protocols_own_goes_through(start: Start, module: Module, tmp_path: Path) -> None:
    """STARTTLS as aiosmtpd does it: another protocol, a buffered one, is put in its place by `set_protocol`."""
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, *subject], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    service = module("""
        import functools, ssl
        from aiosmtpd.handlers import Sink
        from aiosmtpd.smtp import SMTP

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("cert.pem", "key.pem")
        service = functools.partial(SMTP, Sink(), hostname="localhost", tls_context=context, require_starttls=True)
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        lines = sock.makefile("rb")
        assert lines.readline().startswith(b"220 ")
        sock.sendall(b"EHLO me\r\n")
        while not lines.readline().startswith(b"250 "):
            pass
        sock.sendall(b"STARTTLS\r\n")
        assert lines.readline().startswith(b"220 ")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with context.wrap_socket(sock, server_hostname="localhost") as safe:
            safe.sendall(b"EHLO me\r\nMAIL FROM:<ada@example.org>\r\n")
            heard = b""
            while b"250 OK" not in heard:
                heard += safe.recv(1000)


@pytest.mark.parametrize("read", ["readline()", "readuntil()"])
def test_line_that_is_too_long_for_the_reader_is_the_peers_fault(start: Start, module: Module, read: str) -> None:
    service = module(f"""
        async def service(reader, writer):
            writer.write(await reader.{read})
    """)
    with start(service, "--workers", "1", "--access-log") as server:
        with server.connect() as sock:
            sock.sendall(b"x" * 200_000)
            assert read_all(sock) == b""
        until(lambda: 'reason="Separator is not found' in server.log())
        assert server.status()["totals"]["errors"] == 1
        assert "refused a frame" in server.log()
        assert "Traceback" not in server.log()


OWN_TLS = """
    import asyncio, ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")

    class protocol(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.task = transport, None

        def data_received(self, data):
            if data == b"starttls\\n":
                self.transport.write(b"go ahead\\n")
                self.task = asyncio.create_task(self.secure())
            else:
                self.transport.write(data.upper())

        async def secure(self):
            start = asyncio.get_running_loop().start_tls
            try:
                self.transport = await start(
                    self.transport, self, context, server_side=True, ssl_handshake_timeout=0.5
                )
            except OSError:
                print("no TLS", flush=True)
            else:
                self.transport.get_extra_info("prefork").count_request()

        def connection_lost(self, exc):
            print("lost", repr(exc), flush=True)

    async def streams(reader, writer):
        while line := await reader.readline():
            if line == b"starttls\\n":
                writer.write(b"go ahead\\n")
                await writer.start_tls(context, ssl_handshake_timeout=0.5)
                writer.get_extra_info("prefork").count_request()
            else:
                writer.write(line.upper())
        print("lost None", flush=True)
"""


@pytest.mark.parametrize("attribute", ["protocol", "streams"])
def test_tls_that_the_code_begins_by_asyncios_own_means(
    start: Start, module: Module, authority: Authority, attribute: str
) -> None:
    target = module(OWN_TLS).replace("service", attribute)
    with start(target, "--workers", "1", "--drain-timeout", "3") as server:

        def begin() -> ssl.SSLSocket:
            plain = server.connect()
            plain.sendall(b"starttls\n")
            assert read_exactly(plain, 9) == b"go ahead\n"
            return authority.client().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)

        with begin() as sock:
            for size in (10, 60_000):
                sock.sendall(b"x" * size + b"\n")
                assert read_exactly(sock, size + 1) == b"X" * size + b"\n"
            sock.unwrap()
            until(lambda: "lost None" in server.log())
        with begin() as kept:
            kept.sendall(b"kept\n")
            assert read_exactly(kept, 5) == b"KEPT\n"
            totals = server.status()["totals"]
            assert (totals["accepted"], totals["requests"], totals["errors"]) == (2, 2, 0)
            assert server.ask(command="reload").get("ok")
            with contextlib.suppress(ssl.SSLEOFError):  # the worker's end is one of the socket
                assert kept.recv(100) == b""
        until(lambda: server.status()["totals"]["connections"] == 0)
        for instead in (b"no TLS at all\n", b""):  # and the handshake's own limit
            with server.connect() as plain:
                plain.sendall(b"starttls\n")
                assert read_exactly(plain, 9) == b"go ahead\n"
                plain.sendall(instead)
                assert read_all(plain) in {b"", b"\x15\x03\x01\x00\x02\x02\x46"}
            until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0, server.log()
        assert "Traceback" not in server.log()


# Servers that accept by themselves. -----------------------------------------------------------------------------------

LISTENING = """
    import asyncio, pathlib

    async def service(listener):
        async def client(reader, writer):
            with listener.connection():
                while data := await reader.read(1000):
                    writer.write(data)
                writer.close()

        while not pathlib.Path("open").exists():
            await asyncio.sleep(0.01)
        servers = [await asyncio.start_server(client, sock=sock) for sock in listener.sockets]
        listener.ready()
        await listener.draining()
        for server in servers:
            server.close()
        await listener.idle()
"""


def test_worker_is_ready_only_once_its_server_says_so(start: Start, module: Module, tmp_path: Path) -> None:
    with start(module(LISTENING), "--workers", "1", wait_for="starting") as server:
        assert server.workers() == {}
        (tmp_path / "open").touch()
        until(lambda: server.status()["state"] == "running", what="it serves")
        (old,) = server.workers().values()
        (tmp_path / "open").unlink()
        server.send(signal.SIGHUP)
        until(lambda: server.workers("starting"), what="the new worker starts")
        assert exchange(server.address, b"still served") == b"still served"
        assert alive(old)
        (tmp_path / "open").touch()
        until(lambda: not alive(old), what="the old worker has left")
        assert exchange(server.address, b"served anew") == b"served anew"


def test_accept_queue_survives_reloads_of_a_server_that_accepts_by_itself(
    start: Start, module: Module, tmp_path: Path
) -> None:
    (tmp_path / "open").touch()
    with start(module(LISTENING), "--workers", "2") as server, server.connect() as kept:
        kept.sendall(b"kept")
        assert read_exactly(kept, 4) == b"kept"
        for generation in (2, 3):
            before = set(server.workers().values())
            assert server.ask(command="reload").get("generation") == generation
            while set(server.workers("draining").values()) & before:
                assert exchange(server.address, b"new") == b"new"
                kept.sendall(b"kept")  # it keeps its worker until its own end
                assert read_exactly(kept, 4) == b"kept"
                if generation == 2:
                    break
        kept.shutdown(socket.SHUT_WR)
        assert read_all(kept) == b""
        until(lambda: len(server.processes()) == 3, what="only the third generation is left")
        assert server.stop() == 0


def test_stop_serves_the_queue_of_a_server_that_accepts_by_itself(start: Start, module: Module) -> None:
    service = module("""
        import asyncio

        async def service(listener):
            async def accept():
                while True:  # so slowly that a queue comes to be
                    await asyncio.sleep(0.02)
                    sock, _ = await asyncio.get_running_loop().sock_accept(listener.sockets[0])
                    with sock:
                        await asyncio.get_running_loop().sock_sendall(sock, b"served")

            task = asyncio.create_task(accept())
            listener.ready()
            await listener.draining()
            task.cancel()
    """)
    with start(service, "--workers", "1") as server:
        opened = [server.connect() for _ in range(30)]
        server.send(signal.SIGTERM)
        assert [read_all(sock) for sock in opened] == [b"served"] * 30
        assert server.process.wait(15) == 0
        for sock in opened:
            sock.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("async def service(listener): raise OSError('no luck')", "service failed before it was ready: OSError: no lu"),
        ("async def service(listener): pass", "service returned without listener.ready(): it must serve until"),
        ("async def service(conn):\n        async for line in conn: pass", "service failed before it was ready: Type"),
    ],
)
def test_server_that_ends_before_it_is_ready_is_one_line_and_exit_code_3(
    start: Start, module: Module, code: str, said: str
) -> None:
    with start(module(f"\n    {code}\n"), "--workers", "1", wait_for="") as server:
        assert server.process.wait(20) == 3
        assert said in server.log()


def test_server_that_ends_although_nobody_told_it_to_is_replaced(start: Start, module: Module, tmp_path: Path) -> None:
    service = module("""
        import asyncio, pathlib

        async def service(listener):
            listener.ready()
            while not pathlib.Path("end").exists():
                await asyncio.sleep(0.01)
            pathlib.Path("end").unlink()
    """)
    with start(service, "--workers", "1") as server:
        (tmp_path / "end").touch()
        until(lambda: server.has_replaced(1), 20, what="it is replaced")
        assert "service ended, and nobody had told it to drain" in server.log()


def test_server_that_accepts_by_itself_goes_on_when_one_of_its_clients_calls_exit(start: Start, module: Module) -> None:
    exits = ACCEPTS.replace("writer.write(data)", "writer.write(data if data != b'exit' else exit(7))")
    with start(module(exits), "--workers", "1") as server, server.connect() as other:
        workers = server.workers()
        other.sendall(b"one")
        assert read_exactly(other, 3) == b"one"
        assert exchange(server.address, b"exit") == b""
        until(lambda: "the service called exit(), and its worker goes on" in server.log())
        other.sendall(b"two")
        assert read_exactly(other, 3) == b"two"
        assert server.workers() == workers


def test_server_that_does_not_end_is_dropped_at_the_drain_timeout(start: Start, module: Module) -> None:
    service = module("""
        import asyncio

        async def service(listener):
            listener.ready()
            await asyncio.sleep(1000)
    """)
    with start(service, "--workers", "1", "--drain-timeout", "1") as server:
        assert server.stop() == 0
        assert "its server did not end within the drain timeout; dropped" in server.log()
