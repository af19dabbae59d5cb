"""The log of the real program: the access line in every model and adapter, and what strangers can make it write."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from support.server import exchange, read_all, read_exactly, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.server import Server

    Start = Callable[..., Server]
    Module = Callable[..., str]

MODELS = ("async", "sync", "threads")

REPLY = """
    from prefork import Lines, reply

    @reply(Lines(max_length=100))
    def service(line: bytes) -> bytes:
        return str(1 // (line != b"fail")).encode() + line
"""
DIALOGUE = """
    from prefork import Connection, Lines, conversation

    @conversation(Lines(max_length=100))
    async def service(conn: Connection) -> None:
        async for line in conn:
            if line == b"bye":
                return
            await conn.send(str(1 // (line != b"fail")).encode() + line)
"""
BLOCKING = DIALOGUE.replace("async def", "def").replace("async for", "for").replace("await ", "")
PROTOCOL = """
    import asyncio

    class service(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            for line in data.splitlines():
                self.transport.get_extra_info("prefork").count_request()
                if line == b"bye":
                    self.transport.close()
                    return
                self.transport.write(str(1 // (line != b"fail")).encode() + line + b"\\r\\n")
"""
STREAMS = """
    async def service(reader, writer):
        while line := await reader.readline():
            if line.strip() == b"bye":
                break
            writer.write(str(1 // (line.strip() != b"fail")).encode() + line.strip() + b"\\r\\n")
        writer.close()
"""
FUNCTION = """
    def service(sock, address):
        with sock.makefile("rb") as lines:
            for line in lines:
                if line.strip() == b"bye":
                    return
                sock.sendall(str(1 // (line.strip() != b"fail")).encode() + line.strip() + b"\\r\\n")
"""
HANDLER = """
    import socketserver

    class service(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                if line.strip() == b"bye":
                    return
                self.wfile.write(str(1 // (line.strip() != b"fail")).encode() + line.strip() + b"\\r\\n")
"""

SERVICES = {
    "reply, async": (REPLY, "async", 2),
    "reply, sync": (REPLY, "sync", 2),
    "reply, threads": (REPLY, "threads", 2),
    "dialogue, async": (DIALOGUE, "async", 2),
    "dialogue, sync": (BLOCKING, "sync", 2),
    "dialogue, threads": (BLOCKING, "threads", 2),
    "protocol": (PROTOCOL, "async", 2),
    "streams": (STREAMS, "async", 0),  # only the callback knows what a request is
    "function": (FUNCTION, "threads", 1),  # a call is a request
    "socketserver": (HANDLER, "threads", 1),
}
each_service = pytest.mark.parametrize(("code", "model", "frames"), SERVICES.values(), ids=SERVICES)


def options(model: str, *more: str) -> tuple[str, ...]:
    return ("--workers", "1", "--model", model, "--access-log", "--log-format", "json", *more)


def access(server: Server, count: int = 1) -> list[dict[str, Any]]:
    """Return the access log's lines once there are so many of them."""

    def lines() -> list[dict[str, Any]]:
        written = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
        return [entry for entry in written if entry["message"] == "closed"]

    return until(lambda: found if len(found := lines()) >= count else [], what=f"{count} access lines")


@each_service
def test_access_line_has_who_how_long_how_much_and_why(
    start: Start, module: Module, code: str, model: str, frames: int
) -> None:
    with start(module(code), *options(model)) as server:
        with server.connect() as sock:
            sock.sendall(b"one\r\ntwo\r\n")
            assert read_exactly(sock, 12) == b"1one\r\n1two\r\n"
            peer = "{}:{}".format(*sock.getsockname())
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
        (entry,) = access(server)
        assert entry["pid"] == server.workers()[0]
        assert (entry["connection"], entry["peer"]) == (1, peer)
        assert 0 <= entry["seconds"] < 5
        assert (entry["frames"], entry["bytes_in"], entry["bytes_out"]) == (frames, 10, 12)
        assert entry["reason"] in {"the peer closed", "the handler returned", "the service closed"}
        totals = server.status()["totals"]  # the worker's own account has the same
        assert (totals["requests"], totals["bytes_in"], totals["bytes_out"]) == (frames, 10, 12)


@each_service
def test_access_line_tells_a_handler_that_failed_and_a_peer_that_reset(
    start: Start, module: Module, code: str, model: str, frames: int
) -> None:
    del frames
    with start(module(code), *options(model)) as server:
        assert exchange(server.address, b"fail\r\n") == b""
        assert access(server)[0]["reason"] == "the handler failed: ZeroDivisionError"
        with server.connect() as sock:
            sock.sendall(b"one\r\n")
            assert sock.recv(100) == b"1one\r\n"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert access(server, 2)[1]["reason"] == "Connection reset by peer"


@each_service
def test_access_line_tells_a_deadline_and_a_drain(
    start: Start, module: Module, code: str, model: str, frames: int
) -> None:
    del frames
    with start(module(code), *options(model, "--idle-timeout", "0.3", "--drain-timeout", "6")) as server:
        with server.connect() as sock:
            sock.sendall(b"one\r\n")
            assert read_all(sock) == b"1one\r\n"
        assert access(server)[0]["reason"] == "was idle for --idle-timeout"
    with start(module(code), *options(model, "--drain-timeout", "6")) as server:
        with server.connect() as sock:
            sock.sendall(b"one\r\n")
            assert sock.recv(100) == b"1one\r\n"
            server.ask(command="stop")
            assert read_all(sock) == b""
        assert access(server)[0]["reason"] == "the worker drains"


@pytest.mark.parametrize("model", MODELS)
def test_access_line_tells_a_frame_that_was_refused_or_cut_short(start: Start, module: Module, model: str) -> None:
    with start(module(REPLY), *options(model)) as server:
        exchange(server.address, b"x" * 200)
        assert "100" in access(server)[0]["reason"]
        exchange(server.address, b"half")
        assert access(server, 2)[1]["reason"] == "the peer closed in the middle of a frame"


def test_lines_that_cannot_be_written_are_counted_for_each_process_and_kept_when_it_is_gone(start: Start) -> None:
    options = ("--workers", "2", "--access-log", "--log-file", "/dev/full")
    with start("echo", *options) as server:
        for _ in range(20):
            exchange(server.address, b"x")
        until(lambda: not server.status()["totals"]["connections"])
        status = server.status()
        assert sum(worker["log_dropped"] for worker in status["workers"]) == 20
        assert status["totals"]["log_dropped"] > 20  # and the master's own
        server.ask(command="reload")
        until(lambda: {worker["generation"] for worker in server.status()["workers"]} == {2})
        assert not any(worker["log_dropped"] for worker in server.status()["workers"])
        assert server.status()["totals"]["log_dropped"] > status["totals"]["log_dropped"]
        said = run("status", "--control", server.control).stdout.splitlines()[-1]
        assert re.fullmatch(r"  \d+ log lines could not be written", said), said


def test_log_file_that_cannot_be_reopened_is_told_and_the_old_one_is_kept(start: Start, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "prefork.log"
    with start("echo", "--workers", "1", "--access-log", "--log-file", str(path)) as server:
        (tmp_path / "logs").rename(tmp_path / "moved")
        done = run("reopen-logs", "--control", server.control)
        assert (done.returncode, done.stdout) == (1, "")
        assert "cannot reopen the log, the old file is still written to: No such file or directory" in done.stderr
        workers = server.workers()
        exchange(server.address, b"x")
        until(lambda: " closed " in (tmp_path / "moved" / "prefork.log").read_text())
        (tmp_path / "moved").rename(tmp_path / "logs")
        path.rename(tmp_path / "logs" / "prefork.log.1")
        assert run("reopen-logs", "--control", server.control).returncode == 0
        assert path.exists()
        assert server.workers() == workers


def test_worker_that_starts_while_the_log_is_reopened_writes_to_the_new_file(
    start: Start, module: Module, tmp_path: Path
) -> None:
    path = tmp_path / "prefork.log"
    service = module("    import pathlib, time\n    while pathlib.Path('hold').exists(): time.sleep(0.01)\n" + REPLY)
    options = ["--workers", "1", "--access-log", "--log-file", str(path)]
    (tmp_path / "hold").touch()
    with start(service, *options, wait_for="starting") as server:
        until(lambda: server.workers("starting"))
        path.rename(tmp_path / "prefork.log.1")
        assert run("reopen-logs", "--control", server.control).returncode == 0
        (tmp_path / "hold").unlink()
        until(server.workers)

        def is_told_of() -> bool:
            exchange(server.address, b"one\r\n")
            return " closed " in path.read_text()

        until(is_told_of, what="the access line is in the new file")


def test_reload_turns_the_access_log_on_and_off(start: Start, module: Module, tmp_path: Path) -> None:
    def is_written_of(server: Server) -> bool:
        exchange(server.address, b"one\r\n")
        until(lambda: not server.status()["totals"]["connections"])
        return " closed " in server.log()

    with start(module(REPLY), "--workers", "1") as server:
        assert not is_written_of(server)
        (tmp_path / "prefork.toml").write_text("access-log = true\n")
        server.ask(command="reload")
        until(lambda: is_written_of(server))
        (tmp_path / "prefork.toml").unlink()
        server.ask(command="reload")
        until(lambda: len(server.status()["workers"]) == 1)
        written = server.log().count(" closed ")
        is_written_of(server)
        server.stop()
        assert server.log().count(" closed ") == written


@pytest.mark.parametrize("model", MODELS)
def test_access_line_tells_a_handshake_that_failed_and_few_of_them_are_complained_of(
    start: Start, module: Module, tmp_path: Path, model: str
) -> None:
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    with start(module(REPLY), *options(model, "--tls-cert", str(tmp_path / "server.pem"))) as server:
        for _ in range(20):
            with server.connect() as sock, contextlib.suppress(ConnectionError):
                sock.sendall(b"plain text\r\n" * 10)
                read_all(sock)
        found = access(server, 20)
        assert {entry["reason"] for entry in found} == {"the TLS handshake failed"}
        assert all(entry["peer"].startswith("127.0.0.1:") for entry in found)
        assert 1 <= server.log().count("a TLS handshake failed") <= 5


@pytest.mark.parametrize(
    "code",
    [DIALOGUE, PROTOCOL, STREAMS, FUNCTION, HANDLER],
    ids=["dialogue", "protocol", "streams", "def", "socketserver"],
)
def test_access_line_tells_that_the_service_itself_closed(start: Start, module: Module, code: str) -> None:
    with start(module(code), "--workers", "1", "--access-log") as server:
        with server.connect() as sock:
            sock.sendall(b"bye\r\n")
            assert read_all(sock) == b""
        line = until(lambda: [one for one in server.log().splitlines() if " closed connection=" in one])[0]
        assert re.search(
            r'Z info    closed connection=1 peer=127\.0\.0\.1:\d+ seconds=\d\.\d+ frames=\d bytes_in=5 bytes_out=0 '
            rf'reason="(the handler returned|the service closed)" pid={server.workers()[0]}$',
            line,
        ), line  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_strangers_cannot_fill_the_log_and_what_is_left_out_is_counted(
    start: Start, module: Module, model: str
) -> None:
    with start(module(REPLY), "--workers", "1", "--model", model) as server:
        for _ in range(30):
            exchange(server.address, b"x" * 200)
            exchange(server.address, b"fail\r\n")
        until(lambda: server.status()["totals"]["errors"] == 60)

        def written(what: str) -> int:
            return server.log().count(what)

        # no more than two spans can have passed meanwhile
        assert 5 <= written("refused a frame") <= 15
        assert 5 <= written("the handler failed") <= 15
        assert written("Traceback") == written("the handler failed")

        def left_out_is_told() -> bool:
            exchange(server.address, b"fail\r\n")
            return "left_out=" in server.log()

        until(left_out_is_told)
