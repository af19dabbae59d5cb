"""What a client sees of a server that simply serves: every model, every kind of address, every framing case."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.server import Server, clean_environment, exchange, read_all, read_exactly
from support.tls import connect as tls_connect
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.tls import Authority

MODELS = ("async", "sync", "threads")


@pytest.mark.parametrize("model", MODELS)
def test_two_hundred_connections_get_every_byte_back(start: Callable[..., Server], model: str) -> None:
    with start("echo", "--workers", "4", "--model", model) as server:
        address = server.address

        def one(number: int) -> bool:
            data = b"%d:" % number + os.urandom(3000)
            return exchange(address, data) == data

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(one, range(200)))
        until(lambda: server.status()["totals"]["connections"] == 0, what="all connections are accounted for as closed")
        assert server.status()["totals"]["accepted"] == 200
        assert server.stop() == 0


def test_log_line_names_the_bound_port(start: Callable[..., Server]) -> None:
    with start() as server:
        found = re.search(r"listens on 127\.0\.0\.1:(\d+) for echo, ", server.log())
        assert found is not None
        assert server.address == ("127.0.0.1", int(found[1]))


def test_status_carries_the_fields_of_the_design(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2") as server:
        exchange(server.address, b"x")
        status = server.status()
        assert status.keys() >= {
            "state", "version", "pid", "generation", "uptime_s", "listeners", "workers", "totals"
        }  # fmt: skip
        assert status["pid"] == server.process.pid
        assert status["listeners"][0].keys() >= {"address", "backlog", "queued"}
        assert status["workers"][0].keys() >= {
            "slot", "pid", "generation", "state", "connections", "accepted", "requests", "errors", "rss_bytes", "age_s"
        }  # fmt: skip
        assert [w["slot"] for w in status["workers"]] == [0, 1]
        assert all(w["rss_bytes"] > 1_000_000 for w in status["workers"])
        assert status["totals"]["accepted"] == sum(w["accepted"] for w in status["workers"]) == 1


@pytest.mark.parametrize("model", MODELS)
def test_pipelined_and_dripped_frames_are_each_answered_once(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    service = module("""
        from prefork import Lines, reply

        @reply(Lines(newline=b"\\n"))
        def service(line: bytes) -> bytes | None:
            return line.upper() if line else None
    """)
    with start(service, "--workers", "1", "--model", model) as server, server.connect() as sock:
        sock.sendall(b"a\nbc\r\n\nd\n")
        assert read_exactly(sock, 7) == b"A\nBC\nD\n"
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"drip\n":
            sock.sendall(bytes([byte]))
        assert read_exactly(sock, 5) == b"DRIP\n"
        assert server.status()["totals"]["requests"] == 5


@pytest.mark.parametrize("model", MODELS)
def test_line_over_the_limit_is_refused_logged_and_closed_the_worker_unharmed(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    service = module("""
        from prefork import Lines, reply

        @reply(Lines(max_length=10))
        def service(line: bytes) -> bytes:
            return line
    """)
    with start(service, "--workers", "1", "--model", model) as server:
        workers = server.workers()
        assert exchange(server.address, b"0123456789\n") == b"0123456789\r\n"
        assert exchange(server.address, b"good\n0123456789A\nnever\n") == b"good\r\n"
        with server.connect() as sock:  # refused before the line has even ended
            sock.sendall(b"x" * 5000)
            assert read_all(sock) == b""
        assert exchange(server.address, b"after\n") == b"after\r\n"
        assert server.workers() == workers
        log = server.log()
        assert log.count("refused a frame") == 2
        assert "xxx" not in log
        assert "Traceback" not in log
        assert server.status()["totals"]["errors"] == 2


@pytest.mark.parametrize("model", MODELS)
def test_handler_that_raises_ends_its_connection_alone(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    service = module("""
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            return str(1 // int(line)).encode()
    """)
    with start(service, "--workers", "1", "--model", model) as server:
        assert exchange(server.address, b"1\n0\n1\n") == b"1\r\n"
        assert exchange(server.address, b"1\n") == b"1\r\n"
        assert "ZeroDivisionError" in server.log()


EXITS = """
    import asyncio, sys
    from prefork import Lines, conversation, reply

    def answer(line: bytes) -> bytes:
        return sys.exit(7) if line == b"exit" else line

    @reply(Lines())
    def plain(line: bytes) -> bytes:
        return answer(line)

    @reply(Lines(), blocking=True)
    def pool(line: bytes) -> bytes:
        return answer(line)

    @reply(Lines(), concurrency=3)
    async def waits(line: bytes) -> bytes:
        await asyncio.sleep(0)
        return answer(line)

    @conversation(Lines())
    async def dialogue(conn) -> None:
        async for line in conn:
            await conn.send(answer(line))

    @conversation(Lines())
    def blocking(conn) -> None:
        for line in conn:
            conn.send(answer(line))
"""


@pytest.mark.parametrize(
    ("attribute", "model"),
    [
        ("plain", "async"),
        ("plain", "threads"),
        ("pool", "async"),
        ("waits", "async"),
        ("dialogue", "async"),
        ("blocking", "threads"),
        ("blocking", "sync"),
    ],
)
def test_handler_that_calls_exit_ends_its_connection_alone(
    start: Callable[..., Server], module: Callable[..., str], attribute: str, model: str
) -> None:
    with start(module(EXITS).replace("service", attribute), "--workers", "1", "--model", model) as server:
        workers = server.workers()
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(server.connect())] if model != "sync" else []
            for _ in range(2):
                for other in others:
                    other.sendall(b"kept\n")
                    assert read_exactly(other, 6) == b"kept\r\n"
                assert exchange(server.address, b"one\nexit\ntwo\n") == b"one\r\n"
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.workers() == workers
        assert server.status()["totals"]["errors"] == 2
        assert "the handler failed" in server.log()
        assert server.stop() == 0


def test_frames_that_a_handler_was_never_given_are_not_counted(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            async for line in conn:
                conn.abort()
    """)
    with start(service, "--workers", "1") as server:
        with server.connect() as sock:
            sock.sendall(b"one\ntwo\nthree\n")
            with contextlib.suppress(ConnectionResetError):
                read_all(sock)
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["requests"] == 1


@pytest.mark.parametrize("model", MODELS)
def test_what_came_before_a_fault_in_the_same_piece_is_answered(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    service = module("""
        from prefork import LengthPrefixed, reply

        @reply(LengthPrefixed(1, max_length=4))
        def service(frame: bytes) -> bytes | None:
            return {b"none": None, b"long": b"longer", b"text": "text"}.get(frame, frame)
    """)
    with start(service, "--workers", "1", "--model", model) as server:
        for fault in (b"\x05", b"\x04long", b"\x04text"):  # the peer's, and two of the handler's
            with server.connect() as sock:
                sock.sendall(b"\x01a\x04none\x02bc" + fault + b"\x01d")
                assert read_all(sock) == b"\x01a\x02bc", f"before {fault!r}"
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 3
        log = server.log()
        assert "FrameTooLarge" in log
        assert "TypeError" in log


def test_answer_that_is_no_bytes_ends_the_connection_behind_those_before_it(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        from prefork import FixedSize, reply

        @reply(FixedSize(4))
        def service(frame: bytes) -> bytes:
            return frame if frame == b"good" else "text"
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"goodbad.")
        assert read_all(sock) == b"good"
        assert server.log().count("the handler failed") == 1
        assert server.status()["totals"]["errors"] == 1


@pytest.mark.parametrize("model", MODELS)
def test_large_answers_to_a_peer_that_reads_late_all_come_in_order(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    service = module("""
        from prefork import Lines, reply

        @reply(Lines(max_length=40_000))
        def service(line: bytes) -> bytes:
            return line * 5_000
    """)
    expected = b"".join(b"%06d" % number * 5_000 + b"\r\n" for number in range(400))  # 12 MB
    with start(service, "--workers", "1", "--model", model) as server, server.connect() as sock:
        with ThreadPoolExecutor(1) as sender:
            sent = sender.submit(sock.sendall, b"".join(b"%06d\n" % number for number in range(400)))
            until(lambda: server.status()["totals"]["bytes_out"] > 1 << 20)  # it waits for its reader by now
            assert read_exactly(sock, len(expected)) == expected
            sent.result(10)
        assert server.status()["totals"]["requests"] == 400


@pytest.mark.parametrize(
    ("model", "keyword", "wait"), [("async", "async ", "await "), ("threads", "", ""), ("sync", "", "")]
)
def test_dialogue_speaks_first_takes_turns_and_ends(
    start: Callable[..., Server], module: Callable[..., str], model: str, keyword: str, wait: str
) -> None:
    service = module(f"""
        from prefork import Lines, conversation

        @conversation(Lines(newline=b"\\n"))
        {keyword}def service(conn):
            {wait}conn.send(b"name?")
            name = {wait}conn.receive()
            {wait}conn.send(b"hello " + name)
            {keyword}for line in conn:
                if line == b"bye":
                    {wait}conn.send(b"bye")
                    return
                {wait}conn.send(b"again?")
    """)
    with start(service, "--workers", "1", "--model", model) as server, server.connect() as sock:
        lines = sock.makefile("rb")
        assert lines.readline() == b"name?\n"
        sock.sendall(b"Ada\n")
        assert lines.readline() == b"hello Ada\n"
        sock.sendall(b"x\ny\nbye\nignored\n")
        assert lines.readlines() == [b"again?\n", b"again?\n", b"bye\n"]
        lines.close()


BREAKING = """
    from dataclasses import dataclass, field
    from prefork import Lines, reply

    @dataclass(frozen=True)
    class Breaking(Lines):
        made: list = field(default_factory=list)

        def decoder(self):
            self.made.append(1)
            if len(self.made) % 3 == 0:
                raise RuntimeError("no decoder this time")
            return super().decoder()

    @reply(Breaking())
    def service(line: bytes) -> bytes:
        return line
"""


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_framing_that_raises_costs_its_own_connection_and_nothing_is_left_of_that(
    start: Callable[..., Server], module: Callable[..., str], authority: Authority, model: str, *, tls: bool
) -> None:
    context = authority.client()
    options = authority.options if tls else ()
    with start(module(BREAKING), "--workers", "1", "--model", model, *options) as server:
        (pid,) = server.workers().values()
        answers: list[bytes] = []
        held = 0
        for number in range(12):
            if number == 1:  # the first one may have opened what stays
                until(lambda: server.status()["totals"]["connections"] == 0, what="the first one is gone")
                held = descriptors(pid)
            try:
                with tls_connect(server, context) if tls else server.connect() as sock:
                    sock.sendall(b"one\n")
                    answers.append(sock.recv(10))
            except OSError:
                answers.append(b"")
        assert answers.count(b"one\r\n") == 8, answers
        assert answers.count(b"") == 4, answers
        until(lambda: server.status()["totals"]["connections"] == 0, what="nothing is left of them")
        until(lambda: descriptors(pid) <= held, what="no descriptor is left")
        assert server.status()["totals"]["errors"] == 4
        log = server.log()
        assert log.count("RuntimeError: no decoder") == log.count("Traceback") == log.count("the handler failed") > 0
        assert list(server.workers().values()) == [pid]


def test_async_reply_keeps_the_order_of_its_connection(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio
        from prefork import Lines, reply

        @reply(Lines(newline=b"\\n"))
        async def service(line: bytes) -> bytes:
            await asyncio.sleep(0.05 if line == b"slow" else 0)
            return line
    """)
    with start(service, "--workers", "1") as server:
        assert exchange(server.address, b"slow\nfast\n") == b"slow\nfast\n"


@pytest.mark.parametrize("how", ["ValueError('on purpose')", "asyncio.CancelledError"])
def test_lifespan_that_fails_is_named(start: Callable[..., Server], module: Callable[..., str], how: str) -> None:
    service = module(f"""
        import asyncio
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            return line

        @service.lifespan
        async def life():
            raise {how}
            yield
    """)
    with start(service, "--workers", "1", wait_for="") as server:
        assert server.process.wait(20) == 3
        assert "the lifespan of service failed" in server.log()


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("async", "@service.lifespan\nasync def life():\n    state.append('up')\n    yield\n    print('down')"),
        ("threads", "@service.lifespan\ndef life():\n    state.append('up')\n    yield\n    print('down')"),
    ],
)
def test_lifespan_surrounds_each_worker(
    start: Callable[..., Server], module: Callable[..., str], model: str, code: str
) -> None:
    target = module(
        "from prefork import Lines, reply\nstate = []\n"
        "@reply(Lines())\ndef service(line: bytes) -> bytes:\n    return state[0].encode()\n" + code
    )
    with start(target, "--workers", "2", "--model", model) as server:
        assert exchange(server.address, b"?\n") == b"up\r\n"
        assert server.stop() == 0
        assert server.log().count("down") == 2


def test_connection_knows_both_its_addresses_or_that_it_is_gone(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    service = module(f"""
        from pathlib import Path
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            async for line in conn:
                if line == b"WHERE":
                    await conn.send(f"{{conn.peer}} {{conn.local}}".encode())
            Path({str(told)!r}).write_text(f"{{conn.peer}} {{conn.local}}")
    """)
    with start(service, "--workers", "1", "--bind", "[::1]:0", "--bind", "127.0.0.1:0") as server:
        for listener in server.status()["listeners"]:
            host, _, port = listener["address"].rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as sock:
                sock.sendall(b"WHERE\r\n")
                peer = f"{host}:{sock.getsockname()[1]}"
                assert sock.makefile("rb").readline() == f"{peer} {host}:{port}\r\n".encode()
        until(told.exists, what="the handlers have ended")
        told.unlink()
        with server.connect() as sock:  # reset before the handler has asked
            sock.sendall(b"HELLO\r\n")
            peer = "{}:{}".format(*sock.getsockname()[:2]).replace("::1", "[::1]")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: told.exists() and told.read_text() == f"{peer} gone", what="the handler is told that it is gone")


@pytest.mark.parametrize("model", MODELS)
def test_second_of_two_small_answers_does_not_wait_for_the_first_to_be_acknowledged(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    """With Nagle's algorithm it would, and a peer that has nothing to say acknowledges after 40 ms only."""
    service = module(f"""
        import socket
        from prefork import BlockingConnection, Connection, Lines, conversation

        def is_set(sock) -> bytes:
            return b"%d" % sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        @conversation(Lines())
        def blocking(conn: BlockingConnection) -> None:
            for _ in conn:
                conn.send(is_set(conn._socket))

        @conversation(Lines())
        async def waiting(conn: Connection) -> None:
            async for _ in conn:
                await conn.send(is_set(conn._transport.get_extra_info("socket")))

        service = waiting if {model!r} == "async" else blocking
    """)
    with start(service, "--workers", "1", "--model", model) as server, server.connect() as sock:
        sock.sendall(b"?\r\n")
        assert sock.makefile("rb").readline() == b"1\r\n"


def test_several_addresses_are_served_at_once(start: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    for model in MODELS:
        with start("echo", "--model", model, "--bind", f"unix:{path}", "--bind", "127.0.0.1:0") as server:
            for address in server.addresses():
                assert exchange(address, b"tcp") == b"tcp"
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(b"unix")
                assert sock.recv(10) == b"unix"
            assert server.stop() == 0
        assert not path.exists()


def test_stale_unix_socket_is_replaced_and_a_live_one_is_not(start: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with start("echo", bind=f"unix:{path}"), start("echo", bind=f"unix:{path}", wait_for="") as second:
        assert second.process.wait(10) == 4
        assert f"--bind unix:{path}: another program listens there" in second.log()
        assert path.exists()


def test_ipv6_and_both_families_by_an_empty_host(start: Callable[..., Server]) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with start("echo", bind="[::1]:0") as server:
        assert server.addresses()[0][0] == "::1"
        assert exchange(server.address, b"six") == b"six"
    with start("echo", bind=":0") as server:
        port = server.address[1]
        assert exchange(("127.0.0.1", port), b"four") == b"four"
        assert exchange(("::1", port), b"six") == b"six"


def test_listening_socket_is_taken_over_by_descriptor(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "prefork", "serve", "echo", "--bind", f"fd://{fd}", "--control", "off"],
            pass_fds=[fd], env=clean_environment(), stderr=subprocess.DEVNULL, cwd=tmp_path,
        )  # fmt: skip
        try:
            assert exchange(listener.getsockname(), b"handed over") == b"handed over"
        finally:
            process.terminate()
            assert process.wait(10) == 0


def test_sockets_of_a_service_manager_come_first(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # what systemd does: descriptor 3, LISTEN_FDS, and LISTEN_PID of the process that is to have it
        starter = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
            "os.execv(sys.executable, [sys.executable, '-m', 'prefork', 'serve', 'echo', '--control', 'off'])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", starter, str(listener.fileno())],
            pass_fds=[listener.fileno()], env=clean_environment(), stderr=subprocess.DEVNULL, cwd=tmp_path,
        )  # fmt: skip
        try:
            assert exchange(listener.getsockname(), b"activated") == b"activated"
        finally:
            process.terminate()
            assert process.wait(10) == 0


def test_worker_whose_listener_was_shut_down_leaves_and_does_not_spin(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import os, socket
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            for name in os.listdir("/proc/self/fd") if line == b"break" else ():
                try:
                    sock = socket.socket(fileno=os.dup(int(name)))
                except OSError:
                    continue
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    sock.shutdown(socket.SHUT_RDWR)
            return line
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"break\n")
        assert read_exactly(sock, 7) == b"break\r\n"
        until(lambda: "cannot accept any more: Invalid argument; leaving" in server.log())
        sock.sendall(b"still\n")  # whoever is connected is served on
        assert read_exactly(sock, 7) == b"still\r\n"


def test_connections_spread_over_idle_async_workers(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "4") as server:
        connections = [server.connect() for _ in range(80)]
        try:
            for sock in connections:
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            held = [w["connections"] for w in server.status()["workers"]]
            assert sum(held) == 80
            assert min(held) >= 10, held
        finally:
            for sock in connections:
                sock.close()


def test_at_its_connection_limit_a_worker_leaves_newcomers_in_the_queue(start: Callable[..., Server]) -> None:
    with (
        start("echo", "--workers", "1", "--max-connections", "2") as server,
        server.connect(),
        server.connect() as second,
    ):
        until(lambda: server.status()["totals"]["connections"] == 2)
        with server.connect(timeout=5) as third:
            third.sendall(b"later")
            until(lambda: server.status()["listeners"][0]["queued"] == 1, what="the third waits in the kernel's queue")
            assert server.workers("full")
            second.close()
            assert third.recv(5) == b"later"
        until(lambda: server.workers("serving"), what="it says that it has room again")


LONG = 4 << 20
"""Bytes of an answer, more than the kernel takes at once."""

ODD_ANSWERS = """
    from prefork import Lines, Raw, reply

    shared = bytearray(4 << 20)

    def answer(what: bytes):
        if what.strip() == b"text":
            return "text"
        if what.strip() == b"number":
            return 7
        if what.strip() == b"view":
            return memoryview(b"view")
        shared[:] = what[:1] * len(shared)
        return shared

    service = reply(FRAMING)(answer)
"""


@pytest.mark.parametrize("framing", ["Lines", "Raw"])
def test_an_answer_that_is_no_bytes_is_sent_as_it_was_or_ends_its_connection_alone(
    start: Callable[..., Server], module: Callable[..., str], framing: str
) -> None:
    end = b"\r\n" if framing == "Lines" else b""
    target = module(ODD_ANSWERS.replace("FRAMING", f"{framing}(max_length={LONG})"))
    with start(target, "--workers", "1") as server:
        for errors, wrong in enumerate((b"text", b"number"), 1):
            assert exchange(server.address, wrong + b"\n") == b""
            assert server.status()["totals"]["errors"] == errors
        until(lambda: server.log().count("Traceback") == 2)
        assert exchange(server.address, b"view\n") == b"view" + end
        with server.connect() as one, server.connect() as other:
            one.sendall(b"a\n")
            assert read_exactly(one, 1) == b"a"
            other.sendall(b"b\n")  # the handler uses its buffer again, while most of what it held is still to be sent
            assert read_exactly(other, LONG) == b"b" * LONG
            assert read_exactly(one, LONG - 1) == b"a" * (LONG - 1)
        assert server.status()["totals"]["errors"] == 2
