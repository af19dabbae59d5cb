"""The examples, run by the real server and used by real clients that nobody here wrote."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prefork_wire import FrameInvalid, FrameTooLarge, FrameTruncated
from support import clients
from support.server import Server, exchange, read_all, read_exactly, run
from support.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


def serve(target: str, *options: str, tmp_path: Path) -> Server:
    return Server(target, *options, tmp_path=tmp_path, cwd=EXAMPLES)


def lines_of(server: Server) -> tuple[str, str]:
    host, port = server.address
    return host, str(port)


@contextlib.contextmanager
def connections_to_every_worker(server: Server) -> Iterator[list[socket.socket]]:
    """Open connections and keep them until each worker holds one at least."""
    with contextlib.ExitStack() as stack:
        opened: list[socket.socket] = []

        def all_hold_one() -> bool:
            opened.append(stack.enter_context(server.connect()))
            return all(w["connections"] for w in server.status()["workers"])

        until(all_hold_one, what="every worker holds a connection")
        yield opened


# Every example. -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_names_a_command_that_loads_the_example(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    commands = re.findall(r"^ {4}prefork serve (.+)$", docstring, re.MULTILINE)
    assert len(commands) == 1
    checked = run("check", *commands[0].split(), cwd=EXAMPLES.parent)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith(f"ok: {path.stem}:")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_names_a_client(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert re.search(r"^ {4}(nc|telnet|redis-cli|printf .* \| nc) ", docstring, re.MULTILINE)


# shout.py -------------------------------------------------------------------------------------------------------------


def test_shout_answers_netcat(tmp_path: Path) -> None:
    with serve("shout:shout", tmp_path=tmp_path) as server:
        heard = clients.ask("nc", "-N", *lines_of(server), stdin=b"hello\nworld\n")
    assert heard == b"HELLO\r\nWORLD\r\n"


@pytest.mark.parametrize("model", ["async", "sync", "threads"])
def test_shout_runs_in_every_model(tmp_path: Path, model: str) -> None:
    with serve("shout:shout", "--model", model, "--workers", "2", tmp_path=tmp_path) as server:
        assert exchange(server.address, b"one\ntwo\r\n") == b"ONE\r\nTWO\r\n"


def test_line_above_the_limit_is_refused_and_the_worker_unharmed(tmp_path: Path) -> None:
    with serve("shout:shout", "--workers", "1", tmp_path=tmp_path) as server:
        before = server.workers()
        assert exchange(server.address, b"good\n" + b"x" * 8193) == b"GOOD\r\n"
        until(lambda: "refused a frame" in server.log(), what="the refusal is logged")
        assert exchange(server.address, b"x" * 8192 + b"\n") == b"X" * 8192 + b"\r\n"
        assert server.workers() == before


# greet_blocking.py ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sync", "threads"])
@pytest.mark.parametrize("client", ["telnet", "nc", "curl"])
def test_greeting_over_a_real_terminal_client(tmp_path: Path, model: str, client: str) -> None:
    with serve("greet_blocking:greet", "--model", model, "--workers", "2", tmp_path=tmp_path) as server:
        host, port = lines_of(server)
        arguments = ("-sN", f"telnet://{host}:{port}") if client == "curl" else (host, port)
        with clients.Dialogue(client, *arguments) as dialogue:
            dialogue.hear("Please enter your name now!")
            dialogue.say("Ada")
            dialogue.hear("Hello, Ada!")
            dialogue.say("")
            dialogue.hear("Please enter your name now!")
            dialogue.say("quit")
            dialogue.hear("Goodbye!")
            if client == "telnet":  # the others wait for their own input to end
                dialogue.ended()
        until(lambda: server.status()["totals"]["connections"] == 0, what="the connection has ended")
        assert len(server.workers()) == 2


def test_sync_worker_leaves_the_next_caller_in_the_accept_queue(tmp_path: Path) -> None:
    prompt = b"Please enter your name now!\r\n"
    with (
        serve("greet_blocking:greet", "--model", "sync", "--workers", "1", tmp_path=tmp_path) as server,
        server.connect() as first,
    ):
        assert read_exactly(first, len(prompt)) == prompt
        with server.connect() as second:
            until(lambda: server.status()["listeners"][0]["queued"] == 1, what="the second waits in the queue")
            first.sendall(b"quit\n")
            assert read_all(first) == b"Goodbye!\r\n"
            first.close()
            assert read_exactly(second, len(prompt)) == prompt


# lifespan.py ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """Return a folder with a copy of the example: its database is made beside it."""
    folder = tmp_path / "notebook"
    folder.mkdir()
    shutil.copy(EXAMPLES / "lifespan.py", folder)
    return folder


def test_notebook_answers_netcat(tmp_path: Path, notebook: Path) -> None:
    with Server("lifespan:notebook", tmp_path=tmp_path, cwd=notebook) as server:
        asked = b"put milk two litres\nget milk\nget bread\nput bread one loaf\npages\nwhat\n"
        heard = clients.ask("nc", "-N", *lines_of(server), stdin=asked)
    assert heard.splitlines() == [
        b"ok",
        b"two litres",
        b"error: no such page",
        b"ok",
        b"bread milk",
        b"error: put PAGE TEXT, get PAGE, or pages",
    ]


def test_every_worker_reads_what_one_worker_wrote(tmp_path: Path, notebook: Path) -> None:
    with Server("lifespan:notebook", "--workers", "2", tmp_path=tmp_path, cwd=notebook) as server:
        assert exchange(server.address, b"put milk two litres\n") == b"ok\r\n"
        with connections_to_every_worker(server) as connections:
            for connection in connections:
                connection.sendall(b"get milk\n")
                assert read_exactly(connection, 12) == b"two litres\r\n"


def test_workers_that_start_at_the_same_moment_all_open_the_database(tmp_path: Path, notebook: Path) -> None:
    with Server("lifespan:notebook", "--workers", "8", tmp_path=tmp_path, cwd=notebook) as server:
        assert len(server.workers()) == 8
        assert "error" not in server.log()
        assert server.stop(signal.SIGTERM) == 0


def test_database_that_cannot_be_opened_is_one_line_and_exit_code_3(tmp_path: Path, notebook: Path) -> None:
    (notebook / "notebook.db").mkdir()
    with Server("lifespan:notebook", tmp_path=tmp_path, cwd=notebook, wait_for="") as server:
        assert server.process.wait(20) == 3
        assert "the lifespan of notebook failed: OperationalError: unable to open database file" in server.log()


# resp.py, by Redis's own clients --------------------------------------------------------------------------------------


def redis_cli(server: Server, *words: str, stdin: bytes = b"") -> bytes:
    return clients.ask("redis-cli", "-p", lines_of(server)[1], *words, stdin=stdin)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    with serve("resp:redis", "--workers", "1", tmp_path=tmp_path) as server:
        yield server


def test_redis_cli_stores_and_reads(redis: Server) -> None:
    session = [
        ("PING", b"PONG"),
        ("PING hello", b"hello"),
        ("ECHO hello", b"hello"),
        ("SET greeting hello", b"OK"),
        ("GET greeting", b"hello"),
        ("GET nothing", b""),
        ("INCR visits", b"1"),
        ("INCR visits", b"2"),
        ("INCR greeting", b"ERR value is not an integer or out of range"),
        ("DEL greeting visits nothing", b"2"),
        ("GET greeting", b""),
        ("CONFIG GET save", b"save"),
    ]
    for command, answer in session:
        assert redis_cli(redis, *command.split()).splitlines()[0] == answer, command


def test_redis_cli_is_told_what_is_wrong(redis: Server) -> None:
    assert redis_cli(redis, "HGET", "a", "b").startswith(b"ERR unknown command 'HGET'")
    assert redis_cli(redis, "GET").startswith(b"ERR wrong number of arguments for 'get' command")
    assert redis_cli(redis, "SET", "a").startswith(b"ERR wrong number of arguments for 'set' command")
    assert redis_cli(redis, "A\r\nB").startswith(b"ERR unknown command 'A\\r\\nB'")


def test_values_are_any_bytes(redis: Server) -> None:
    value = bytes(range(256)) + b"\r\n$3\r\n*1\r\n"
    assert redis_cli(redis, "-x", "SET", "key", stdin=value) == b"OK\n"
    assert redis_cli(redis, "--raw", "GET", "key") == value + b"\n"


def test_redis_cli_reads_commands_from_its_input(redis: Server) -> None:
    heard = redis_cli(redis, stdin=b"SET a 1\nINCR a\nGET a\n")
    assert heard.split() == [b"OK", b"2", b"2"]


@pytest.mark.parametrize(
    "manner", [(), ("-P", "16"), ("-k", "0")], ids=["one by one", "pipelined", "a connection each"]
)
def test_redis_benchmark_counts_every_request(redis: Server, manner: tuple[str, ...]) -> None:
    tests = ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"]
    each = 2000
    heard = clients.ask(
        "redis-benchmark", "-p", lines_of(redis)[1], "-t", ",".join(tests).lower(), "-n", str(each), "-c", "20", "-q",
        *manner,
    ).decode()  # fmt: skip
    for name in tests:
        assert re.search(rf"{name}: [\d.]+ requests per second", heard), heard
    assert redis_cli(redis, "INCR", "counter:__rand_int__") == f"{each + 1}\n".encode()
    totals = redis.status()["totals"]
    assert totals["requests"] >= len(tests) * each
    assert totals["errors"] == 0


def test_inline_commands_by_netcat(redis: Server) -> None:
    heard = clients.ask("nc", "-N", *lines_of(redis), stdin=b"ping\r\n\r\nset a 1\nget a\n")
    assert heard == b"+PONG\r\n+OK\r\n$1\r\n1\r\n"


def test_each_worker_has_its_own_keys(tmp_path: Path) -> None:
    with (
        serve("resp:redis", "--workers", "2", tmp_path=tmp_path) as server,
        connections_to_every_worker(server) as connections,
    ):
        answers = []
        for connection in connections:
            connection.sendall(b"INCR n\r\n")
            answers.append(read_exactly(connection, 4))
    assert answers.count(b":1\r\n") == 2


def test_string_above_the_limit_is_refused_from_its_header(redis: Server) -> None:
    before = redis.workers()
    with redis.connect() as sock:
        sock.sendall(b"*2\r\n$4\r\nPING\r\n$70000\r\n")  # not one byte of the string is sent, and none is waited for
        assert read_all(sock) == b""
    assert redis_cli(redis, "PING") == b"PONG\n"
    assert redis.workers() == before
    assert redis.status()["totals"]["errors"] == 1


# resp.py, its framing -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resp() -> Any:  # noqa: ANN401 - a module
    spec = importlib.util.spec_from_file_location("example_resp", EXAMPLES / "resp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


COMMANDS = [
    b"PING\r\n",
    b"ping\n",
    b"\r\n",
    b"*0\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$6\r\n\r\n$1\r\n\r\n",
]
WORDS = [[b"PING"], [b"ping"], [], [], [b"PING"], [b"SET", b"a", b""], [b"ECHO", b"\r\n$1\r\n"]]


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_commands_are_cut_whatever_the_pieces(resp: Any, step: int) -> None:  # noqa: ANN401
    decoder = resp.Resp().decoder()
    stream = b"".join(COMMANDS)
    found = []
    for at in range(0, len(stream), step):
        decoder.feed(stream[at : at + step])
        while (command := decoder.take()) is not None:
            found.append(command)
    assert found == COMMANDS
    assert [resp.words_of(command) for command in found] == WORDS
    assert decoder.buffered == 0
    decoder.end()


def test_what_follows_a_command_is_left_for_another_framing(resp: Any) -> None:  # noqa: ANN401
    decoder = resp.Resp().decoder()
    decoder.feed(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI")
    assert decoder.take() == b"*1\r\n$4\r\nPING\r\n"
    assert decoder.take() is None
    assert decoder.rest() == b"*1\r\n$4\r\nPI"
    decoder.end()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"*-1\r\n", FrameInvalid),
        (b"*x\r\n", FrameInvalid),
        (b"*1\r\n+4\r\n", FrameInvalid),
        (b"*1\r\n$-1\r\n", FrameInvalid),
        (b"*1\r\n$\r\n", FrameInvalid),
        (b"*1\r\n$1_0\r\n", FrameInvalid),
        (b"*1\r\n$4\r\nPINGxx", FrameInvalid),
        (b"*1\r\n$99\r\n", FrameTooLarge),
        (b"*50\r\n", FrameTooLarge),
        (b"*999\r\n", FrameTooLarge),
        (b"*9999999999999999999999\r\n", FrameInvalid),
        (b"x" * 4096, FrameTooLarge),
    ],
)
def test_bad_bytes_are_refused_for_good(resp: Any, data: bytes, error: type[Exception]) -> None:  # noqa: ANN401
    decoder = resp.Resp(max_length=100).decoder()
    decoder.feed(b"PING\n" + data)
    assert decoder.take() == b"PING\n"
    with pytest.raises(error):
        decoder.take()
    decoder.feed(b"PING\n")
    with pytest.raises(error):
        decoder.take()
    assert decoder.buffered == 0


def test_command_cut_off_by_the_end_is_truncated(resp: Any) -> None:  # noqa: ANN401
    decoder = resp.Resp().decoder()
    decoder.feed(b"*1\r\n$4\r\nPI")
    assert decoder.take() is None
    with pytest.raises(FrameTruncated):
        decoder.end()
