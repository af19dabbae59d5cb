"""The socket of a `handle(sock, address)` function: each of its calls keeps what holds for `recv` and `send`."""

from __future__ import annotations

import contextlib
import re
import signal
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from support.server import Server, alive, exchange, read_all, read_exactly, reset
from support.tls import Authority, Segments, connect
from support.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., Server]
    Module = Callable[..., str]

HEAD = """
    import select, socket, threading, time
    import prefork.adapters.opaque
    from socket import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_WAITALL

    def into(size, take):
        buffer = bytearray(size)
        return bytes(buffer[: take(buffer)])

    def into_two(sock, size, flags=0):
        one, two = bytearray(3), bytearray(size - 3)
        size = sock.recvmsg_into([one, two], 0, flags)[0]
        return bytes(one + two)[:size]
"""
READS = {
    "recv": "sock.recv({}, {})",
    "recv_into": "into({}, lambda buffer: sock.recv_into(buffer, 0, {}))",
    "recvfrom": "sock.recvfrom({}, {})[0]",
    "recvfrom_into": "into({}, lambda buffer: sock.recvfrom_into(buffer, 0, {})[0])",
    "recvmsg": "sock.recvmsg({}, 0, {})[0]",
    "recvmsg_into": "into_two(sock, {}, {})",
}
SENDS = {
    "send": "sock.send({}, {})",
    "sendall": "sock.sendall({}, {})",
    "sendto": "sock.sendto({}, {}, address)",
    "sendmsg": "sock.sendmsg([{}], [], {})",
}
each_read = pytest.mark.parametrize("read", READS.values(), ids=READS)
each_send = pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
with_and_without_tls = pytest.mark.parametrize("way", ["plain", "tls"])


def function(body: str) -> str:
    """Return a module with a function of a socket and an address."""
    return HEAD + "\n    def service(sock, address):\n" + body


@contextlib.contextmanager
def served(
    start: Start, target: str, authority: Authority | None, *options: str
) -> Iterator[tuple[Server, socket.socket]]:
    """Yield a server of one worker and a connection to it, with TLS if there is an authority."""
    tls = authority.options if authority is not None else []
    with (
        start(target, "--workers", "1", "--log-level", "debug", *tls, *options) as server,
        connect(server, authority.client()) if authority is not None else server.connect() as sock,
    ):
        yield server, sock


# Behind TLS. ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("sock.sendmsg([b'secret'])", "NotImplementedError: sendmsg"),
        ("sock.sendto(b'secret', address)", "ValueError: sendto"),
        ("socket.send_fds(sock, [b'secret'], [0])", "NotImplementedError: sendmsg"),
        ("sock.recvmsg(100)", "NotImplementedError: recvmsg"),
        ("sock.recvmsg_into([bytearray(100)])", "NotImplementedError: recvmsg_into"),
        ("sock.recvfrom(100)", "ValueError: recvfrom"),
        ("sock.recvfrom_into(bytearray(100))", "ValueError: recvfrom_into"),
        ("socket.recv_fds(sock, 100, 1)", "NotImplementedError: recvmsg"),
        ("sock.dup()", "NotImplementedError: dup"),
    ],
)
def test_what_would_pass_tls_by_is_refused(
    start: Start, module: Module, authority: Authority, call: str, error: str
) -> None:
    service = function(f"""
        try:
            {call}
        except (NotImplementedError, ValueError) as error:
            sock.sendall(f"{{type(error).__name__}}: {{error}}".encode())
    """)
    with served(start, module(service), authority) as (_, sock):
        sock.sendall(b"something to read")
        assert read_all(sock) == f"{error} is not allowed behind TLS".encode()


def test_files_of_a_socket_and_files_that_it_sends_are_behind_tls(
    start: Start, module: Module, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    service = function("""
        with sock.makefile("rwb") as file, open("page", "rb") as page:
            file.write(file.readline().upper())
            file.flush()
            sock.sendfile(page)
    """)
    with served(start, module(service), authority) as (server, sock):
        sock.sendall(b"hello\n")
        assert read_all(sock) == b"HELLO\na page"
        until(lambda: server.status()["totals"]["bytes_out"] == 12)


def test_function_that_asks_the_kernel_hears_of_every_record(
    start: Start, module: Module, authority: Authority
) -> None:
    service = function("""
        for _ in range(3):
            select.select([sock], [], [])
            sock.sendall(sock.recv(100))
    """)
    with (
        start(module(service), "--workers", "1", *authority.options) as server,
        Segments(server, authority.client()) as client,
    ):
        client.wait(client.tls.do_handshake)
        for word in (b"one", b"two", b"six"):
            client.tls.write(word)
        client.send()  # in one segment, and the end of the handshake with them
        assert b"".join(client.wait(lambda: client.tls.read(3)) for _ in range(3)) == b"onetwosix"


def test_who_leaves_something_unread_ends_in_order(start: Start, module: Module, authority: Authority) -> None:
    service = function("""
        sock.sendall(sock.recv(5))
    """)
    with served(start, module(service), authority) as (_, sock):
        sock.sendall(b"hello, and a lot that it does not want to know")
        assert read_all(sock) == b"hello"  # without TLS's own end this is an error


def test_peer_whose_handshake_is_refused_is_told_why(start: Start, module: Module, authority: Authority) -> None:
    options = [*authority.options, "--tls-client-ca", str(authority.ca_file)]
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the client waits for the answer
    with (
        start(module(POLLS), "--workers", "1", *options) as server,
        pytest.raises(ssl.SSLError, match="ALERT_HANDSHAKE_FAILURE"),
    ):
        connect(server, context)


FILLS = """
        {own}
        sent = 0
        try:
            while True:
                sent += sock.send(bytes(65536))
        except (BlockingIOError, TimeoutError):
            print("sent", sent, flush=True)
    """


def sent_by(server: Server) -> int:
    """Return how much a function that fills its socket says that it has sent, once there is no more room."""
    found = until(lambda: re.search(r"^sent (\d+)$", server.log(), re.MULTILINE), what="there is no more room")
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    "before",
    ["sock.settimeout(60)", "sock.setblocking(False); select.select([sock], [], [])"],
    ids=["", "non-blocking"],
)
def test_who_reads_does_not_wait_for_room(start: Start, module: Module, authority: Authority, before: str) -> None:
    service = function(
        FILLS.format(own="sock.settimeout(0.2)")
        + f"""
        {before}
        data = sock.recv(100)
        sock.settimeout(60)
        sock.sendall(data)
    """
    )
    with served(start, module(service), authority) as (server, sock):
        sent = sent_by(server)
        sock.sendall(b"hello")
        until(lambda: server.status()["totals"]["bytes_in"] == 5, what="it is read")
        assert read_all(sock) == bytes(sent) + b"hello"


def test_what_there_was_no_room_for_leaves_while_its_function_reads(
    start: Start, module: Module, authority: Authority
) -> None:
    service = function(
        FILLS.format(own="sock.settimeout(0.2)")
        + """
        sock.settimeout(60)
        sock.sendall(sock.recv(100))
    """
    )
    with served(start, module(service), authority) as (server, sock):
        sent = sent_by(server)
        assert read_exactly(sock, sent) == bytes(sent)
        sock.sendall(b"hello")
        assert read_all(sock) == b"hello"


@pytest.mark.parametrize(
    "own",
    ["sock.setblocking(False)", "sock.settimeout(0.2)", "sock.recv(1); sock.settimeout(0.2)"],
    ids=["non-blocking", "settimeout", "unread"],
)
def test_what_is_said_to_be_sent_arrives_before_the_end(
    start: Start, module: Module, authority: Authority, own: str
) -> None:
    with served(start, module(function(FILLS.format(own=own))), authority) as (server, sock):
        sock.sendall(b"hello")
        sent = sent_by(server)
        assert read_all(sock) == bytes(sent)


# Deadlines and counters. ----------------------------------------------------------------------------------------------


@each_read
@pytest.mark.parametrize("own", ["", "sock.settimeout(3600)"], ids=["", "settimeout"])
def test_silent_peer_is_closed_whatever_reads(start: Start, module: Module, read: str, own: str) -> None:
    service = function(f"""
        {own}
        {read.format(100, 0)}
    """)
    with served(start, module(service), None, "--first-byte-timeout", "0.5") as (server, sock):
        assert read_all(sock) == b""
        until(lambda: "sent nothing within --first-byte-timeout" in server.log())
        assert "Traceback" not in server.log()


@each_send
@pytest.mark.parametrize("own", ["", "sock.settimeout(3600)"], ids=["", "settimeout"])
def test_peer_that_does_not_read_is_dropped_whatever_sends(start: Start, module: Module, send: str, own: str) -> None:
    service = function(f"""
        {own}
        while True:
            {send.format("bytes(100_000)", 0)}
    """)
    with served(start, module(service), None, "--write-timeout", "0.5", "--access-log") as (server, _):
        until(lambda: "did not read its replies within --write-timeout" in server.log())
        until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped")
        assert "Traceback" not in server.log()


def test_own_limit_that_is_longer_does_not_put_off_the_write_timeout_behind_tls(
    start: Start, module: Module, authority: Authority
) -> None:
    service = function("""
        sock.settimeout(3600)
        while True:
            sock.sendall(bytes(100_000))
    """)
    with served(start, module(service), authority, "--write-timeout", "0.5", "--access-log") as (server, _):
        until(lambda: "did not read its replies within --write-timeout" in server.log())
        until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped")


@each_read
@each_send
def test_every_byte_is_counted_whatever_reads_or_sends(start: Start, module: Module, read: str, send: str) -> None:
    service = function(f"""
        while data := {read.format(100, 0)}:
            {send.format("data", 0)}
    """)
    with start(module(service), "--workers", "1") as server:
        assert exchange(server.address, b"x" * 1000) == b"x" * 1000
        until(lambda: server.status()["totals"]["connections"] == 0)
        totals = server.status()["totals"]
        assert (totals["bytes_in"], totals["bytes_out"], totals["errors"]) == (1000, 1000, 0)


@pytest.mark.parametrize("flags", ["0", "MSG_WAITALL"])
@pytest.mark.parametrize("call", ["recv_into", "recvfrom_into"])
def test_nothing_is_read_that_there_is_no_room_for(start: Start, module: Module, call: str, flags: str) -> None:
    service = function(f"""
        try:
            sock.{call}(bytearray(3), 5, {flags})
        except ValueError:
            sock.sendall(sock.recv(5, MSG_WAITALL))
    """)
    with start(module(service), "--workers", "1") as server:
        assert exchange(server.address, b"hello") == b"hello"


@with_and_without_tls
def test_who_wants_nothing_does_not_wait(start: Start, module: Module, authority: Authority, way: str) -> None:
    service = function("""
        sock.sendall(repr((sock.recv(0), sock.recv_into(bytearray()))).encode())
    """)
    with served(start, module(service), authority if way == "tls" else None) as (_, sock):
        assert read_all(sock) == b"(b'', 0)"


def test_who_sends_nothing_puts_nothing_off(start: Start, module: Module) -> None:
    service = function("""
        sock.settimeout(0.1)
        while True:
            try:
                sock.recv(100)
            except prefork.adapters.opaque.Ended:
                raise
            except TimeoutError:
                sock.send(b"")
    """)
    with served(start, module(service), None, "--first-byte-timeout", "0.5", "--access-log") as (server, sock):
        assert read_all(sock) == b""
        until(lambda: "sent nothing within --first-byte-timeout" in server.log())


@with_and_without_tls
def test_time_to_the_first_byte_counts_from_the_beginning(
    start: Start, module: Module, authority: Authority, way: str
) -> None:
    service = function("""
        time.sleep(1.2)  # it is at work
        began = time.monotonic()
        try:
            sock.recv(100)
        except TimeoutError:
            sock.sendall(b"%r" % (time.monotonic() - began < 0.6))
    """)
    options = ["--first-byte-timeout", "1"]
    with served(start, module(service), authority if way == "tls" else None, *options) as (_, sock):
        assert read_all(sock) == b"True"


@with_and_without_tls
def test_first_byte_that_came_in_time_is_read_however_late(
    start: Start, module: Module, authority: Authority, way: str
) -> None:
    service = function("""
        time.sleep(0.7)  # it is at work
        sock.sendall(sock.recv(100))
    """)
    options = ["--first-byte-timeout", "0.5"]
    with served(start, module(service), authority if way == "tls" else None, *options) as (_, sock):
        sock.sendall(b"hello")
        assert read_all(sock) == b"hello"


# Limits of the function's own. ----------------------------------------------------------------------------------------


POLLS = function("""
        sock.settimeout(0.1)
        while True:
            try:
                data = sock.recv(1000)
            except TimeoutError:
                continue
            if not data:
                break
            sock.sendall(data)
    """)


@with_and_without_tls
@pytest.mark.parametrize(
    ("option", "sent"), [("--first-byte-timeout", b""), ("--idle-timeout", b"hello")], ids=["first byte", "idle"]
)
def test_function_that_waits_in_short_steps_gives_its_peer_no_more_time(
    start: Start, module: Module, authority: Authority, way: str, option: str, sent: bytes
) -> None:
    with served(start, module(POLLS), authority if way == "tls" else None, option, "0.5", "--access-log") as (
        server,
        sock,
    ):
        sock.sendall(sent)
        assert read_all(sock) == sent
        until(lambda: option in server.log())
        assert "Traceback" not in server.log()


@with_and_without_tls
def test_function_that_waits_in_short_steps_drains_as_soon_as_others(
    start: Start, module: Module, authority: Authority, way: str
) -> None:
    options = ["--drain-timeout", "12"]  # a silence of 2 seconds is the end, and in the last 4 a shorter one
    with served(start, module(POLLS), authority if way == "tls" else None, *options) as (server, sock):
        (old,) = server.workers().values()
        sock.sendall(b"hello")
        assert read_exactly(sock, 5) == b"hello"
        began = time.monotonic()
        assert server.ask(command="reload").get("ok")
        assert read_all(sock) == b""
        assert time.monotonic() - began < 7
        until(lambda: not alive(old), what="the old worker has left")


@with_and_without_tls
def test_newcomer_of_a_draining_worker_is_given_a_second_for_its_first_byte(
    start: Start, module: Module, authority: Authority, way: str
) -> None:
    # with this drain a silence of half a second ends the others
    with served(start, module(POLLS), authority if way == "tls" else None, "--drain-timeout", "3") as (server, sock):
        until(lambda: server.status()["totals"]["requests"] == 1)
        began = time.monotonic()
        server.send(signal.SIGTERM)
        assert read_all(sock) == b""
        assert 1 <= time.monotonic() - began < 3


@with_and_without_tls
@pytest.mark.parametrize("call", ["sock.recv(1)", "sock.sendall(bytes(30_000_000))"], ids=["recv", "sendall"])
def test_own_limit_that_runs_out_is_the_peers_doing(
    start: Start, module: Module, authority: Authority, way: str, call: str
) -> None:
    service = function(f"""
        sock.settimeout(0.2)
        {call}
    """)
    with served(start, module(service), authority if way == "tls" else None) as (server, _):
        until(lambda: server.status()["totals"]["requests"] == 1)
        until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped")
        assert "timed out" in server.log()
        assert "Traceback" not in server.log()
        assert server.status()["totals"]["errors"] == 0


def test_peer_that_sends_now_and_then_is_not_closed_by_a_function_that_waits_in_short_steps(
    start: Start, module: Module
) -> None:
    with served(start, module(POLLS), None, "--idle-timeout", "1") as (_, sock):
        began = time.monotonic()
        while time.monotonic() - began < 2:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        assert read_all(sock) == b""


def test_what_another_thread_sends_puts_off_the_end_of_who_waits(start: Start, module: Module) -> None:
    service = function("""
        def tick():
            for _ in range(20):
                sock.sendall(b".")
                time.sleep(0.1)

        threading.Thread(target=tick).start()
        while sock.recv(100):
            pass
    """)
    with served(start, module(service), None, "--first-byte-timeout", "1") as (_, sock):
        assert read_all(sock) == b"." * 20


def test_function_that_tries_to_send_in_short_steps_gives_its_peer_no_more_time(start: Start, module: Module) -> None:
    service = function("""
        sock.settimeout(0.1)
        while True:
            try:
                sock.send(bytes(100_000))
            except TimeoutError:
                continue
    """)
    with served(start, module(service), None, "--write-timeout", "0.5", "--access-log") as (server, _):
        until(lambda: "did not read its replies within --write-timeout" in server.log())
        until(lambda: server.status()["totals"]["connections"] == 0, what="it is dropped")
        assert "Traceback" not in server.log()


@with_and_without_tls
def test_own_limit_is_for_all_that_sendall_sends(start: Start, module: Module, authority: Authority, way: str) -> None:
    service = function("""
        sock.settimeout(1)
        try:
            sock.sendall(bytes(30_000_000))
        except TimeoutError as error:
            print("sendall:", error, flush=True)
    """)
    with served(start, module(service), authority if way == "tls" else None) as (server, sock):
        got = 0

        def is_told_while_the_peer_reads() -> bool:  # at the pace of `until`
            nonlocal got
            got += len(sock.recv(20_000))
            return "sendall: timed out" in server.log()

        until(is_told_while_the_peer_reads)
        with contextlib.suppress(ssl.SSLError):  # a record that was cut off
            got += len(read_all(sock))
        assert 0 < got < 30_000_000
        assert server.status()["totals"]["errors"] == 0


def test_own_limit_is_seen_as_it_was_set(start: Start, module: Module) -> None:
    service = function("""
        seen = []
        for limit in (None, 2, 0, 0.5):
            sock.settimeout(limit)
            seen.append((sock.gettimeout(), sock.timeout, sock.getblocking()))
        sock.setblocking(False)
        seen.append(sock.gettimeout())
        sock.setblocking(True)
        seen.append(sock.gettimeout())
        sock.sendall(repr(seen).encode())
    """)
    with served(start, module(service), None) as (_, sock):
        seen = [(None, None, True), (2.0, 2.0, True), (0.0, 0.0, False), (0.5, 0.5, True), 0.0, None]
        assert read_all(sock) == repr(seen).encode()


# Flags. ---------------------------------------------------------------------------------------------------------------


WHOLE = """
        sock.recv(1, MSG_PEEK)
        sock.sendall(b"seen ")
        {before}
        sock.sendall({read})
    """
each_whole_read = pytest.mark.parametrize(
    "read",
    [*(read.format(10, "MSG_WAITALL") for read in READS.values()), READS["recv"].format(10, "MSG_WAITALL | MSG_PEEK")],
    ids=[*READS, "peek"],
)


@each_whole_read
@pytest.mark.parametrize("before", ["", "sock.settimeout(60)"], ids=["", "settimeout"])
def test_who_waits_for_all_gets_all(start: Start, module: Module, read: str, before: str) -> None:
    with served(start, module(function(WHOLE.format(read=read, before=before))), None) as (server, sock):
        sock.sendall(b"half")
        assert read_exactly(sock, 5) == b"seen "
        if "PEEK" not in read:  # what is only looked at is not counted
            until(lambda: server.status()["totals"]["bytes_in"] == 4, what="the first half is taken")
        sock.sendall(b" whole")
        assert read_exactly(sock, 10) == b"half whole"


@each_whole_read
def test_who_waits_for_all_gets_less_at_the_peers_end(start: Start, module: Module, read: str) -> None:
    with start(module(function(WHOLE.format(read=read, before=""))), "--workers", "1") as server:
        assert exchange(server.address, b"half") == b"seen half"


@each_whole_read
def test_who_waits_for_all_is_told_of_a_peer_that_stops_halfway(start: Start, module: Module, read: str) -> None:
    options = ["--idle-timeout", "0.5", "--first-byte-timeout", "0.5", "--access-log"]
    with served(start, module(function(WHOLE.format(read=read, before=""))), None, *options) as (server, sock):
        sock.sendall(b"half")
        assert read_all(sock) == b"seen "
        until(lambda: "-timeout" in server.log())
        assert "Traceback" not in server.log()


@pytest.mark.parametrize(
    "call",
    [
        *(read.format(10, "MSG_DONTWAIT") for read in READS.values()),
        READS["recv"].format(10, "MSG_DONTWAIT | MSG_PEEK"),
        READS["recv"].format(10, "MSG_DONTWAIT | MSG_WAITALL"),
    ],
    ids=[*READS, "peek", "all"],
)
@pytest.mark.parametrize("own", ["", "sock.settimeout(60)"], ids=["", "settimeout"])
def test_who_does_not_want_to_wait_reads_at_once(start: Start, module: Module, call: str, own: str) -> None:
    service = function(f"""
        {own}
        try:
            {call}
        except BlockingIOError:
            sock.sendall(b"nothing yet")
    """)
    with served(start, module(service), None, "--first-byte-timeout", "0.5") as (_, sock):
        assert read_all(sock) == b"nothing yet"


@each_send
def test_who_does_not_want_to_wait_sends_at_once(start: Start, module: Module, send: str) -> None:
    service = function(f"""
        try:
            while True:
                {send.format("bytes(100_000)", "MSG_DONTWAIT")}
        except BlockingIOError:
            print("full", flush=True)
            sock.sendall(b"and the rest")
    """)
    with served(start, module(service), None, "--write-timeout", "5") as (server, sock):
        until(lambda: "full" in server.log(), 4)
        assert read_all(sock).endswith(b"\0and the rest")


# Several sockets of one connection. -----------------------------------------------------------------------------------


def test_duplicate_of_a_socket_is_one_of_the_same_connection(start: Start, module: Module) -> None:
    service = function("""
        sock.settimeout(30)
        twin = sock.dup()
        assert (twin.gettimeout(), twin.getpeername(), twin.get_inheritable()) == (30, address, False)
        sock.close()
        twin.sendall(twin.recv(100))
        with twin.dup():
            pass
        with twin.makefile("rwb") as file:
            file.write(file.readline())
        twin.close()
        print("closed", flush=True)
        time.sleep(3600)
    """)
    with served(start, module(service), None) as (server, sock):
        sock.sendall(b"hello")
        assert read_exactly(sock, 5) == b"hello"
        sock.sendall(b"again\n")
        assert read_all(sock) == b"again\n"  # the last that closes ends it
        sock.close()
        until(lambda: "closed" in server.log())
        totals = server.status()["totals"]
        assert (totals["bytes_in"], totals["bytes_out"]) == (11, 11)


def test_deadline_holds_for_a_duplicate(start: Start, module: Module) -> None:
    service = function("""
        twin = sock.dup()
        sock.sendall(b"hello")
        twin.recv(1)
    """)
    with served(start, module(service), None, "--first-byte-timeout", "0.5") as (server, sock):
        assert read_all(sock) == b"hello"
        until(lambda: "sent nothing within --first-byte-timeout" in server.log())
        assert "Traceback" not in server.log()


def test_nothing_is_kept_of_a_connection_that_failed(start: Start, module: Module) -> None:
    service = """
        import gc, weakref

        gc.disable()  # a cycle would be there for good
        payloads = weakref.WeakSet()

        class Payload: ...

        def service(sock, address):
            sock.sendall(b"%d" % len(payloads))
            payload = Payload()
            payloads.add(payload)
            sock.recv(100)
    """
    with start(module(service), "--workers", "1", "--access-log") as server:
        with server.connect() as sock:
            assert read_exactly(sock, 1) == b"0"
            reset(sock)
        until(lambda: "Connection reset" in server.log(), what="it has failed")
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert exchange(server.address, b"") == b"0"


def test_class_whose_instances_are_generator_functions_is_none(start: Start, module: Module) -> None:
    service = """
        from socketserver import StreamRequestHandler

        class service(StreamRequestHandler):
            def handle(self):
                for line in self():
                    self.wfile.write(line.upper())

            def __call__(self):
                yield from self.rfile
    """
    with start(module(service), "--workers", "1") as server:
        assert exchange(server.address, b"hello\n") == b"HELLO\n"


# At the end of a drain. -----------------------------------------------------------------------------------------------


def test_connection_whose_function_hangs_is_dropped_at_the_drain_timeout_and_the_log_says_so(
    start: Start, module: Module
) -> None:
    service = function("""
        sock.sendall(b"hello")
        time.sleep(3600)
    """)
    with served(start, module(service), None, "--drain-timeout", "1") as (server, sock):
        assert read_exactly(sock, 5) == b"hello"
        assert server.stop() == 0
        assert read_all(sock) == b""
        assert server.log().count("dropped 1 connections at the end of its drain") == 1
