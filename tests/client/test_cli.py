"""The command line, as a real process against real servers."""

import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.conftest import DEADLINE, Serve, Server, echo, hold_until

COMMAND = [sys.executable, "-W", "error", "-m", "prefork_client"]


def run(*arguments: str, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], input=typed, capture_output=True, timeout=60, check=False)


def assert_failed(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """It ended with `code` and exactly one line on standard error."""
    complaint = done.stderr.decode()
    assert (done.returncode, complaint.count("\n")) == (code, 1), complaint
    assert complaint.startswith("prefork-client: ")
    for word in words:
        assert word in complaint


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *arguments], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def test_send_prints_each_reply(echo_server: Server) -> None:
    done = run("send", echo_server.address, "one", "two words")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\ntwo words\n", b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ADDRESS", "one", "--framing", "netstring", "--", "-x"],
        ["ADDRESS", "--framing", "netstring", "--", "one", "-x"],
        ["--framing", "netstring", "--", "ADDRESS", "one", "-x"],
    ],
    ids=" ".join,
)
def test_send_takes_what_is_behind_two_dashes_for_text(echo_server: Server, arguments: list[str]) -> None:
    done = run("send", *(echo_server.address if word == "ADDRESS" else word for word in arguments))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\n-x\n", b"")


def test_send_refuses_an_option_that_there_is_not(echo_server: Server) -> None:
    done = run("send", echo_server.address, "--framing", "netstring", "one", "-x")
    assert done.returncode == 2
    assert b"unrecognized arguments: -x" in done.stderr


@pytest.mark.parametrize("arguments", [["--framing", "netstring", "one", "two"], ["one", "--timeout", "5", "two"]])
def test_send_takes_options_between_address_and_texts(echo_server: Server, arguments: list[str]) -> None:
    done = run("send", echo_server.address, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\ntwo\n", b"")


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_send_reads_lines(echo_server: Server, arguments: list[str]) -> None:
    done = run("send", echo_server.address, *arguments, typed=b"one\r\n\ntwo")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\n\ntwo\n", b"")


@pytest.mark.parametrize("framing", ["lines", "lf", "netstring", "length1", "length2", "length4", "length8", "raw"])
def test_every_framing_has_a_name(echo_server: Server, framing: str) -> None:
    done = run("send", echo_server.address, "one", "--framing", framing)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\n", b"")


def test_ping_prints_microseconds(echo_server: Server) -> None:
    done = run("ping", echo_server.address, "--count", "2", "--interval", "0.001")
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, len(lines), done.stderr) == (0, 2, b"")
    assert lines[0].startswith(f"{echo_server.address}: round trip ")
    assert " us" in lines[0]


def test_ping_prints_json(echo_server: Server) -> None:
    done = run("ping", echo_server.address, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["address"], report["ok"]) == (0, echo_server.address, True)
    assert 0 < report["round_trip_us"] < DEADLINE * 1e6
    assert 0 < report["connect_us"] < DEADLINE * 1e6


def test_ping_asks_other_services_other_things(serve: Serve) -> None:
    def answer(connection: socket.socket) -> None:
        while connection.recv(100):
            connection.sendall(b"PONG\n")

    server = serve(answer)
    assert run("ping", server.address, "--send", "PING", "--expect", "PONG").returncode == 0
    assert run("ping", server.address, "--send", "PING").returncode == 0
    assert run("ping", server.address, "--expect", "PONG").returncode == 0
    assert_failed(run("ping", server.address), 1, server.address, "something else")
    assert_failed(run("ping", server.address, "--send", "PING", "--expect", "ping"), 1, "something else")


def test_ping_only_connects_to_services_that_speak_first(serve: Serve) -> None:
    server = serve(lambda connection: connection.sendall(b"Monday\n"))
    done = run("ping", server.address, "--connect-only")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"connected in" in done.stdout


def test_ping_goes_on_after_a_failure_and_remembers_it(serve: Serve) -> None:
    connections = iter((True, False))

    def fail_first(connection: socket.socket) -> None:
        if not next(connections):
            echo(connection)

    done = run("ping", serve(fail_first).address, "--count", "2", "--interval", "0.001", "--json")
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [report["ok"] for report in reports] == [False, True]
    assert reports[0]["error"] in {"PeerClosed", "PeerClosedIdle", "PeerReset"}


def test_a_peer_that_was_never_reached_is_5(silent_port: str, full_listener: str) -> None:
    for command in ("send", "ping", "chat"):
        assert_failed(run(command, silent_port), 5, silent_port, "connection refused", "is the server running")
    assert_failed(run("ping", full_listener, "--connect-timeout", "0.2"), 5, full_listener, "within 0.2 s")
    assert_failed(run("ping", "127.0.0.1:no-such-service"), 5, "no-such-service")


def test_a_peer_that_fails_is_1(serve: Serve) -> None:
    close = serve(lambda connection: connection.recv(100))
    assert_failed(run("send", close.address, "one"), 1, close.address, "closed the connection")

    def halve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"half")

    truncate = serve(halve)
    assert_failed(run("send", truncate.address, "one"), 1, truncate.address, "middle of a frame")
    assert_failed(run("chat", truncate.address, typed=b"one\n"), 1, truncate.address, "middle of a frame")

    over = threading.Event()
    silent = serve(hold_until(over))
    assert_failed(run("ping", silent.address, "--timeout", "0.2"), 1, silent.address, "no reply within 0.2 s")
    over.set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ping", "nowhere"], ["'nowhere' has no port"]),
        (["ping", "fd://3"], ["for listening"]),
        (["ping", "127.0.0.1:7", "--connect-only", "--send", "x"], ["--connect-only"]),
    ],
)
def test_usage_is_2(arguments: list[str], words: list[str]) -> None:
    assert_failed(run(*arguments), 2, *words)


def test_a_text_that_makes_no_frame_is_2(echo_server: Server) -> None:
    assert_failed(run("send", echo_server.address, "two\nlines"), 2, "not sent", "newline")
    assert_failed(run("chat", echo_server.address, typed=b"x" * 9000), 2, "not sent", "8192")


@pytest.mark.parametrize(
    "arguments",
    [[], ["unknown"], ["ping"], ["ping", "x:1", "--timeout", "0"], ["ping", "x:1", "--timeout", "1e10"],
     ["ping", "x:1", "--count", "0"]],
)  # fmt: skip
def test_options_that_make_no_sense_are_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith(b"prefork-client ")
    assert b"Exit codes" in run("--help").stdout


def test_chat_ends_with_its_input(echo_server: Server) -> None:
    lines = b"".join(b"%d\n" % number for number in range(1000))
    done = run("chat", echo_server.address, typed=lines + b"last")
    assert (done.returncode, done.stdout, done.stderr) == (0, lines + b"last\n", b"")


def test_no_peer_drives_the_terminal(serve: Serve) -> None:
    server = serve(lambda connection: connection.sendall("\x1b[2J \x9b2J é\t".encode() + b"\x9b2J\r\n"))
    ours, theirs = pty.openpty()
    try:
        command = [*COMMAND, "chat", server.address]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=theirs, timeout=60, check=False)
        assert done.returncode == 0
        assert os.read(ours, 100).decode() == "?[2J ?2J é\t\N{REPLACEMENT CHARACTER}2J\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_chat_waits_for_input_that_does_not_wait_itself(echo_server: Server) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with subprocess.Popen([*COMMAND, "chat", echo_server.address], stdin=ours, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            for line in (b"one\n", b"two\n"):
                os.write(theirs, line)
                assert process.stdout.readline() == line
            os.close(theirs)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            os.close(ours)


def test_chat_says_that_its_input_cannot_be_read(echo_server: Server) -> None:
    with Path(os.devnull).open("wb") as only_written:
        command = [*COMMAND, "chat", echo_server.address]
        done = subprocess.run(command, stdin=only_written, capture_output=True, timeout=60, check=False)
    assert_failed(done, 2, "standard input: Bad file descriptor")


@pytest.mark.parametrize(
    ("streams", "words"),
    [(">&-", "standard output is closed"), ("<&-", "standard input is closed"),
     (">/dev/full", "standard output: No space left on device")],
)  # fmt: skip
@pytest.mark.parametrize("command", ["send", "chat"])
def test_closed_and_full_streams_are_told_in_a_line(
    echo_server: Server, command: str, streams: str, words: str
) -> None:
    script = f"echo one | {shlex.join([*COMMAND, command, echo_server.address])} {streams}"
    assert_failed(subprocess.run(["sh", "-c", script], capture_output=True, timeout=60, check=False), 2, words)


def test_chat_gives_a_peer_that_goes_on_talking_a_limited_time(serve: Serve) -> None:
    over = threading.Event()
    server = serve(hold_until(over))
    done = run("chat", server.address, "--timeout", "0.2")
    over.set()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_chat_ends_with_its_peer(serve: Serve) -> None:
    server = serve(lambda connection: connection.sendall(b"hello\n"))
    with running("chat", server.address) as process:  # its input stays open
        assert process.wait(DEADLINE) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b"hello\n"


def test_chat_shows_what_arrives_while_nothing_is_typed(serve: Serve) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"hello\n")
        echo(connection)

    with running("chat", serve(greet).address) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"hello\n"
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"one\n"


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("command", ["chat", "send"])
def test_an_interrupt_is_130_without_a_word(serve: Serve, command: str) -> None:
    def greet(connection: socket.socket) -> None:
        connected.set()
        echo(connection)

    connected = threading.Event()
    with running(command, serve(greet).address) as process:
        assert connected.wait(DEADLINE)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("command", ["chat", "send"])
def test_a_reader_that_goes_away_is_141_without_a_word(echo_server: Server, command: str) -> None:
    with running(command, echo_server.address) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        process.stdin.write(b"two\n")
        process.stdin.flush()
        assert process.wait(DEADLINE) == 141
        assert process.stderr.read() == b""
