"""Both clients against real servers: the same cases for both."""

import select
import socket
import struct
import threading
from pathlib import Path

import pytest

from client.conftest import DEADLINE, Face, MakeClient, Serve, Server, echo, hold_until
from prefork_client import (
    BadAddress,
    BadFrame,
    BadPayload,
    ClientClosed,
    ClientError,
    ConnectTimeout,
    NameNotFound,
    PeerClosed,
    PeerClosedIdle,
    PeerReset,
    Refused,
    ReplyTimeout,
    Truncated,
    UnexpectedData,
    UsageError,
)
from prefork_client.session import prepare
from prefork_wire import Delimited, FixedSize, Framing, LengthPrefixed, Lines, Netstring, Raw

SHORT = 0.2  # seconds, for timeouts that must happen


def wait_until_readable(client: Face) -> None:
    assert client._socket is not None
    readable, _, _ = select.select([client._socket], [], [], DEADLINE)
    assert readable


def assert_over(client: Face) -> None:
    """The connection is closed, and every further call says so."""
    assert client._socket is None
    with pytest.raises(ClientClosed):
        client.request(b"another")
    with pytest.raises(ClientClosed):
        client.receive()
    with pytest.raises(ClientClosed):
        client.send(b"another")
    with pytest.raises(ClientClosed):
        client.connect()


# What works


@pytest.mark.parametrize(
    ("framing", "payloads"),
    [
        (Lines(), [b"one", b"", b"two\r"]),
        (Lines(newline=b"\n"), [b"one", b""]),
        (Delimited(b"END"), [b"one", b"two"]),
        (LengthPrefixed(), [b"one", b"", bytes(1 << 20)]),
        (LengthPrefixed(2, "little"), [b"one", bytes(65535)]),
        (FixedSize(3), [b"one", b"two"]),
        (Netstring(), [b"one", b"", bytes(300_000)]),
        (Raw(), [b"one", b"two"]),
    ],
    ids=str,
)
def test_an_echo_comes_back(make_client: MakeClient, serve: Serve, framing: Framing, payloads: list[bytes]) -> None:
    def echo_frames(connection: socket.socket) -> None:
        decoder = framing.decoder()
        while data := connection.recv(65536):
            decoder.feed(data)
            while (frame := decoder.take()) is not None:
                connection.sendall(framing.encode(frame))

    with make_client(serve(echo_frames), framing) as client:
        assert [client.request(payload) for payload in payloads] == payloads


def test_frames_are_iterated_until_the_peer_closes(make_client: MakeClient, serve: Serve) -> None:
    with make_client(serve(lambda connection: connection.sendall(b"one\r\ntwo\r\nthree\n"))) as client:
        assert list(client) == [b"one", b"two", b"three"]
        assert_over(client)


def test_half_a_close_leaves_receiving_open(make_client: MakeClient, serve: Serve) -> None:
    def count(connection: socket.socket) -> None:
        lines = 0
        while data := connection.recv(100):
            lines += data.count(b"\n")
        connection.sendall(b"%d\n" % lines)

    with make_client(serve(count)) as client:
        client.send(b"one")
        client.send(b"two")
        client.send_eof()
        assert client.receive() == b"2"


def test_a_service_that_speaks_first_is_received_first(make_client: MakeClient, serve: Serve) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"hello\n")
        echo(connection)

    with make_client(serve(greet)) as client:
        assert client.receive() == b"hello"
        assert client.request(b"one") == b"one"


def test_a_payload_that_makes_no_frame_leaves_the_connection_open(make_client: MakeClient, echo_server: Server) -> None:
    with make_client(echo_server) as client:
        with pytest.raises(BadPayload):
            client.request(b"two\nlines")
        assert client.request(b"one") == b"one"


def test_waiting_for_ever_is_possible(make_client: MakeClient, echo_server: Server) -> None:
    with make_client(echo_server, reply_timeout=None) as client:
        assert client.request(b"one") == b"one"


def test_small_frames_are_not_delayed(make_client: MakeClient, echo_server: Server) -> None:
    with make_client(echo_server) as client:
        assert client._socket is not None
        assert client._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# Addresses and connecting


def test_a_unix_socket_is_an_address(make_client: MakeClient, serve: Serve, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "echo.sock"))
    listener.listen()
    with make_client(serve(echo, listener)) as client:
        assert client.request(b"one") == b"one"


def test_ipv6_is_an_address(make_client: MakeClient, serve: Serve) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    server = serve(echo, listener)
    assert server.address.startswith("[::1]:")
    with make_client(server) as client:
        assert client.request(b"one") == b"one"


@pytest.mark.parametrize("host", ["localhost", ""])
def test_every_candidate_of_a_name_is_tried(make_client: MakeClient, echo_server: Server, host: str) -> None:
    port = echo_server.listener.getsockname()[1]
    with make_client(f"{host}:{port}") as client:
        assert client.request(b"one") == b"one"


def test_a_service_name_is_looked_up(make_client: MakeClient) -> None:
    try:
        port = socket.getservbyname("systat", "tcp")
    except OSError:
        pytest.skip("no services database here")
    # Nobody has run systat, port 11, for decades; its refusal shows that the name was found.
    assert port == 11
    with pytest.raises(Refused):
        make_client("127.0.0.1:systat").connect()


@pytest.mark.parametrize("address", ["127.0.0.1:no-such-service", "a" * 70 + ".invalid:7"])
def test_an_unknown_name_is_said_to_be_unknown(make_client: MakeClient, address: str) -> None:
    with pytest.raises(NameNotFound, match=address):
        make_client(address).connect()


@pytest.mark.parametrize("address", ["localhost", "fd://3", "127.0.0.1:0"])
def test_an_address_to_which_nobody_can_connect_is_refused_at_once(make_client: MakeClient, address: str) -> None:
    with pytest.raises(BadAddress):
        make_client(address)


def test_a_timeout_of_nothing_is_refused_at_once(make_client: MakeClient) -> None:
    with pytest.raises(UsageError, match="reply_timeout is 0 seconds"):
        make_client("127.0.0.1:7", reply_timeout=0)
    with pytest.raises(UsageError, match="connect_timeout is -1 seconds"):
        make_client("127.0.0.1:7", connect_timeout=-1)


def test_a_port_where_nobody_listens_refuses(make_client: MakeClient, silent_port: str) -> None:
    with pytest.raises(Refused, match=silent_port):
        make_client(silent_port).connect()


def test_a_unix_socket_that_is_not_there_refuses(make_client: MakeClient, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        make_client(f"unix:{tmp_path}/none.sock").connect()


def test_connecting_to_a_full_queue_times_out(make_client: MakeClient, full_listener: str) -> None:
    with pytest.raises(ConnectTimeout, match=r"no connection within 0\.2 s"):
        make_client(full_listener, connect_timeout=SHORT).connect()


def test_a_full_unix_queue_is_no_connection(make_client: MakeClient, tmp_path: Path) -> None:
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(path)
        listener.listen(0)
        waiting.connect(path)
        with pytest.raises(ClientError) as failed:
            make_client(f"unix:{path}", connect_timeout=SHORT).connect()
        assert type(failed.value) is ConnectTimeout


def test_connecting_may_be_tried_again(make_client: MakeClient, serve: Serve) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    client = make_client(f"127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(Refused):
        client.connect()

    listener.listen()
    serve(echo, listener)

    with client:
        assert client.request(b"one") == b"one"


def test_a_connection_to_oneself_is_refused() -> None:
    with socket.socket() as lonely:
        lonely.bind(("127.0.0.1", 0))
        lonely.connect(lonely.getsockname())
        with pytest.raises(ConnectionRefusedError, match="itself"):
            prepare(lonely)


def test_a_client_that_is_not_connected_says_so(make_client: MakeClient, echo_server: Server) -> None:
    client = make_client(echo_server)
    with pytest.raises(ClientClosed, match="not connected yet"):
        client.request(b"one")
    with client:
        client.connect()  # again is no error
        assert client.request(b"one") == b"one"
    client.close()  # again is no error
    with pytest.raises(ClientClosed, match=r"close\(\) was called"):
        client.request(b"one")
    assert_over(client)


# What never happens: somebody else's answer


def test_a_late_answer_is_never_given_to_the_next_request(make_client: MakeClient, serve: Serve) -> None:
    timed_out = threading.Event()
    answered = threading.Event()

    def answer_late(connection: socket.socket) -> None:
        connection.recv(100)
        timed_out.wait(DEADLINE)
        try:
            connection.sendall(b"answer to the first\n")
        finally:
            answered.set()

    with make_client(serve(answer_late), reply_timeout=SHORT) as client:
        with pytest.raises(ReplyTimeout, match=r"no reply within 0\.2 s"):
            client.request(b"first")
        timed_out.set()
        assert answered.wait(DEADLINE)
        with pytest.raises(ClientClosed, match="no reply within"):
            client.request(b"second")
        assert_over(client)


def test_a_peer_that_trickles_does_not_stretch_the_deadline(make_client: MakeClient, serve: Serve) -> None:
    over = threading.Event()

    def trickle(connection: socket.socket) -> None:
        # Each byte comes well within the timeout; the line never ends.
        while not over.wait(SHORT / 10):
            connection.sendall(b".")

    try:
        with make_client(serve(trickle), reply_timeout=SHORT) as client, pytest.raises(ReplyTimeout):
            client.receive()
    finally:
        over.set()


def test_a_peer_that_never_reads_does_not_stretch_the_deadline(make_client: MakeClient, serve: Serve) -> None:
    over = threading.Event()
    with make_client(serve(hold_until(over)), Raw(), reply_timeout=SHORT) as client:
        with pytest.raises(ReplyTimeout):
            client.send(bytes(64 << 20))
        over.set()
        assert_over(client)


def test_a_second_answer_in_the_same_segment_is_unexpected(make_client: MakeClient, serve: Serve) -> None:
    def answer_twice(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"answer\nanswer\n")
        connection.recv(100)

    with make_client(serve(answer_twice)) as client:
        assert client.request(b"first") == b"answer"
        with pytest.raises(UnexpectedData):
            client.request(b"second")
        assert_over(client)


def test_bytes_that_wait_in_the_kernel_are_unexpected(make_client: MakeClient, serve: Serve) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"hello\n")
        connection.recv(100)

    with make_client(serve(greet)) as client:
        wait_until_readable(client)
        with pytest.raises(UnexpectedData):
            client.request(b"first")
        assert_over(client)


# What peers do


def test_a_peer_that_closed_before_the_request_was_sent_nothing(make_client: MakeClient, serve: Serve) -> None:
    def answer_once(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100))

    with make_client(serve(answer_once)) as client:
        assert client.request(b"one") == b"one"
        wait_until_readable(client)
        with pytest.raises(PeerClosedIdle):
            client.request(b"two")
        assert_over(client)


def test_a_peer_that_closes_instead_of_answering(make_client: MakeClient, serve: Serve) -> None:
    with make_client(serve(lambda connection: connection.recv(100))) as client:
        with pytest.raises(PeerClosed) as failed:
            client.request(b"one")
        assert type(failed.value) is PeerClosed
        assert_over(client)


def test_a_peer_that_closes_in_the_middle_of_a_frame(make_client: MakeClient, serve: Serve) -> None:
    def answer_half(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"12:hello")

    with make_client(serve(answer_half), Netstring()) as client:
        with pytest.raises(Truncated):
            client.request(b"one")
        assert_over(client)


def test_iteration_does_not_hide_a_truncated_frame(make_client: MakeClient, serve: Serve) -> None:
    with make_client(serve(lambda connection: connection.sendall(b"one\ntw"))) as client:
        frames = iter(client)
        assert next(frames) == b"one"
        with pytest.raises(Truncated):
            next(frames)
        assert_over(client)


def test_a_peer_that_resets(make_client: MakeClient, serve: Serve) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(100)
        # Linger for no time at all: close sends RST.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with make_client(serve(reset)) as client:
        with pytest.raises(PeerReset, match="connection reset by peer"):
            client.request(b"one")
        assert_over(client)


def test_a_frame_too_large_is_bad(make_client: MakeClient, serve: Serve) -> None:
    def boast(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"\xff\xff\xff\xff")

    with make_client(serve(boast), LengthPrefixed()) as client:
        with pytest.raises(BadFrame, match="limit is 1048576"):
            client.request(b"one")
        assert_over(client)


def test_a_frame_of_another_framing_is_bad_and_not_shown(make_client: MakeClient, serve: Serve) -> None:
    def answer_line(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"secret\n")

    with make_client(serve(answer_line), Netstring()) as client:
        with pytest.raises(BadFrame) as failed:
            client.request(b"one")
        assert "secret" not in str(failed.value)
        assert_over(client)
