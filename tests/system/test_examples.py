"""The examples, run by the real server and used by real clients that nobody here wrote."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import itertools
import os
import re
import shutil
import signal
import smtplib
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from prefork_wire import FrameInvalid, FrameTooLarge, FrameTruncated
from support import clients
from support.scorecard import FULL
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
    client = r"^ {4}(nc|telnet|curl|ssh|python -m websockets|redis-cli|printf .* \| nc) "
    assert re.search(client, docstring, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_says_what_must_be_installed(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(ast.walk(tree))
    imported = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    strangers = imported - sys.stdlib_module_names - {"prefork", "prefork_wire"}
    installed = re.findall(r"^ {4}pip install (.+)$", ast.get_docstring(tree) or "", re.MULTILINE)
    assert installed == ([" ".join(sorted(strangers))] if strangers else [])


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


# memo.py --------------------------------------------------------------------------------------------------------------


def test_memo_numbers_the_lines_of_netcat(tmp_path: Path) -> None:
    with serve("memo:memo", "--workers", "2", tmp_path=tmp_path) as server:
        heard = clients.ask("nc", "-N", *lines_of(server), stdin=b"milk\nbread\n")
    assert heard == b"1 milk\n2 bread\n2 in all\n"


# upper.py -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sync", "threads"])
def test_function_of_a_socket_answers_netcat(tmp_path: Path, model: str) -> None:
    with serve("upper:handle", "--model", model, "--workers", "2", tmp_path=tmp_path) as server:
        heard = clients.ask("nc", "-N", *lines_of(server), stdin=b"hello\n")
    assert heard == b"you are 127.0.0.1\nHELLO\n"


# web.py ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sync", "threads"])
def test_handler_of_the_standard_library_serves_curl_on_one_connection(tmp_path: Path, model: str) -> None:
    with serve("web:Hello", "--model", model, "--workers", "1", tmp_path=tmp_path) as server:
        host, port = lines_of(server)
        urls = [f"http://{host}:{port}/{name}" for name in ("Ada", "Bob", "")]
        assert clients.ask("curl", "-sS", *urls) == b"Hello, Ada!\nHello, Bob!\nHello, world!\n"
        until(lambda: server.status()["totals"]["connections"] == 0, what="the connection has ended")
        assert server.status()["totals"]["accepted"] == 1  # HTTP/1.1: kept between the requests


def test_web_server_of_the_standard_library_needs_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_bytes(b"x" * 300_000)
    with Server("http.server:SimpleHTTPRequestHandler", tmp_path=tmp_path, cwd=tmp_path) as server:
        host, port = lines_of(server)
        assert clients.ask("curl", "-sS", f"http://{host}:{port}/page.txt") == b"x" * 300_000
        until(lambda: server.status()["totals"]["bytes_out"] > 300_000, what="the bytes are counted")


# smtp.py, by curl and smtplib -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def mail_server(tmp_path: Path, *options: str) -> Iterator[Server]:
    """Run the mail server in a folder with a copy of the example: its mailbox is made beside it."""
    folder = tmp_path / "post"
    folder.mkdir()
    shutil.copy(EXAMPLES / "smtp.py", folder)
    with Server("smtp:smtp", "--adapter", "protocol", *options, tmp_path=tmp_path, cwd=folder) as server:
        yield server


def mails(tmp_path: Path) -> list[bytes]:
    """Return every mail that is stored."""
    return [path.read_bytes() for path in (tmp_path / "post" / "mail" / "new").glob("*")]


def test_curl_sends_a_mail(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Subject: from curl\r\n\r\nDear Bob,\r\n.dots and all\r\n", "ascii", newline="")
    with mail_server(tmp_path, "--workers", "4") as server:
        host, port = lines_of(server)
        envelope = ["--mail-from", "ada@example.org", "--mail-rcpt", "bob@example.org"]
        clients.ask("curl", "-sS", f"smtp://{host}:{port}", *envelope, "--upload-file", str(letter))
        (mail,) = mails(tmp_path)
    assert b"Subject: from curl\n" in mail
    assert mail.endswith(b"Dear Bob,\n.dots and all\n")
    assert b"X-MailFrom: ada@example.org" in mail


def test_smtplib_sends_many_mails_on_one_connection(tmp_path: Path) -> None:
    with mail_server(tmp_path, "--workers", "4") as server, smtplib.SMTP(*server.address, timeout=10) as client:
        for number in range(20):
            client.sendmail("ada@example.org", ["bob@example.org"], f"Subject: {number}\r\n\r\n" + "x\r\n" * 33_334)
        assert len(mails(tmp_path)) == 20
        totals = server.status()["totals"]
        assert (totals["connections"], totals["accepted"], totals["errors"]) == (1, 1, 0)
        assert totals["bytes_in"] > 20 * 100_000


class Senders:
    """Send numbered letters by smtplib, each once, until at least `count` are on their way and the block has ended."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self._address = address
        self._count = count
        self._numbers = itertools.count()
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(8)]
        self.accepted: list[int] = []
        self.unknown: list[int] = []  # the connection broke: nobody knows the letter's fate, and it is not sent again
        self.refused: list[Exception] = []
        self.broken: list[Exception] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(120)

    def wait_for(self, more: int) -> None:
        """Wait until so many more letters are accepted."""
        wanted = len(self.accepted) + more
        until(lambda: len(self.accepted) >= wanted, 60, what=f"{more} more letters are accepted")

    def _run(self) -> None:
        while not self._enough.is_set() or len(self.accepted) < self._count:
            try:
                # left without a word at its end, as some clients do
                with contextlib.closing(smtplib.SMTP(*self._address, timeout=20)) as client:
                    for _ in range(5):
                        self._send(client, next(self._numbers))
            except OSError as error:  # in the middle of a letter, or before there was one
                self.broken.append(error)

    def _send(self, client: smtplib.SMTP, number: int) -> None:
        letter = f"Subject: letter {number:06}\r\n\r\nx"
        try:
            client.sendmail("ada@example.org", ["bob@example.org"], letter)
        except smtplib.SMTPServerDisconnected:
            self.unknown.append(number)
            raise
        except smtplib.SMTPException as error:  # an OSError, too
            self.refused.append(error)
        except OSError:
            self.unknown.append(number)
            raise
        else:
            self.accepted.append(number)


def test_every_accepted_mail_is_stored_through_a_reload_and_a_kill(tmp_path: Path) -> None:
    count = 2000 if FULL else 400
    with mail_server(tmp_path, "--workers", "4") as server:
        with Senders(server.address, count) as senders:
            senders.wait_for(count // 4)
            before = server.workers()
            assert server.ask(command="reload").get("ok")
            until(lambda: not set(before.values()) & server.processes(), 20, what="the old workers have left")
            assert not senders.broken, "the reload broke a connection"
            senders.wait_for(count // 4)
            os.kill(server.workers()[0], signal.SIGKILL)
            senders.wait_for(count // 4)
        until(lambda: server.has_replaced(1), 20, what="the killed worker is replaced")
        stored = [int(found[1]) for mail in mails(tmp_path) if (found := re.search(rb"letter (\d{6})", mail))]
        assert server.stop(timeout=30) == 0
    assert not senders.refused
    assert len(senders.unknown) <= 8, "no more than one letter for each connection"
    assert len(senders.accepted) >= count
    assert len(stored) == len(set(stored)), "a letter is stored twice"
    assert set(senders.accepted) <= set(stored) <= {*senders.accepted, *senders.unknown}


# chat.py, by websockets' own client -----------------------------------------------------------------------------------


def chat_client(server: Server) -> clients.Dialogue:
    host, port = server.address
    return clients.Dialogue(sys.executable, "-m", "websockets", f"ws://{host}:{port}")


def test_websocket_client_talks_and_is_told_of_the_reload(tmp_path: Path) -> None:
    with serve("chat:serve", "--workers", "2", tmp_path=tmp_path) as server:
        with chat_client(server) as client:
            client.hear("Connected")
            client.say("hello")
            client.hear("HELLO")
            assert server.status()["totals"]["connections"] == 1
            assert server.ask(command="reload").get("ok")
            client.hear("1001 (going away)")  # the library's own words, not a connection that broke
        with chat_client(server) as client:
            client.hear("Connected")
            client.say("again")
            client.hear("AGAIN")
        totals = server.status()["totals"]
        assert (totals["accepted"], totals["requests"]) == (2, 2)
        assert server.stop() == 0


# ssh.py, by OpenSSH ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ssh_home(tmp_path: Path) -> Path:
    """Return a folder with a copy of the example and a key that may come in."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(EXAMPLES / "ssh.py", folder)
    clients.ask("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "id"))
    (folder / "id.pub").rename(folder / "authorized_keys")
    return folder


def ssh_options(server: Server, home: Path) -> list[str]:
    known = ["-o", f"UserKnownHostsFile={home}/known_hosts", "-o", "StrictHostKeyChecking=accept-new"]
    return ["-F", "none", *known, "-o", "BatchMode=yes", "-i", f"{home}/id", "-p", lines_of(server)[1], "127.0.0.1"]


def test_openssh_meets_the_same_host_in_every_worker(tmp_path: Path, ssh_home: Path) -> None:
    with Server("ssh:serve", "--workers", "2", tmp_path=tmp_path, cwd=ssh_home) as server:
        for word in ("one", "two", "three"):
            assert clients.ask("ssh", *ssh_options(server, ssh_home), word).decode() == f"you said: {word}\n"
        assert server.status()["totals"]["accepted"] == 3
        assert server.stop() == 0


def test_open_session_is_served_to_its_end_by_a_worker_that_retires(tmp_path: Path, ssh_home: Path) -> None:
    with Server("ssh:serve", "--workers", "1", tmp_path=tmp_path, cwd=ssh_home) as server:
        with clients.Dialogue("ssh", *ssh_options(server, ssh_home), "cat") as session:
            session.hear("you said: cat")
            assert server.ask(command="reload").get("ok")
            assert clients.ask("ssh", *ssh_options(server, ssh_home), "new").decode() == "you said: new\n"
            session.say("still here")
            assert session.process.stdin is not None
            session.process.stdin.close()
            session.hear("still here")
            assert session.ended() == 0
        assert server.stop() == 0


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
