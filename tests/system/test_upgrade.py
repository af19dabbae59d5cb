"""Upgrade: a new master takes over the same open sockets, or nothing changes. Real processes, hostile moments."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from support.server import PREFORK, Server, alive, exchange, read_exactly, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., Server]
    Module = Callable[..., str]

# While the file "hold" is there, a boot stands still at its import: a test holds a new master on trial as long as it
# likes. "sleep N" is a request in flight; every answer names the process that gave it.
SERVICE = """
    import asyncio, os, pathlib, time
    from prefork import Lines, reply

    while pathlib.Path("hold").exists():
        time.sleep(0.01)

    @reply(Lines(newline=b"\\n"))
    async def service(line: bytes) -> bytes:
        word, _, rest = line.partition(b" ")
        if word == b"sleep":
            await asyncio.sleep(float(rest))
        return b"%s by %d" % (line, os.getpid())
"""

VERSION = """
    from prefork import Lines, reply

    @reply(Lines(newline=b"\\n"))
    def service(line: bytes) -> bytes:
        return b"{version}"
"""

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


def upgrade(server: Server) -> None:
    done = run("upgrade", "--control", server.control)
    assert (done.returncode, done.stderr) == (0, "")


def refused(server: Server, command: str = "upgrade") -> str:
    """Ask for what must be refused: by exit code 1 and one line, which is returned."""
    done = run(command, "--control", server.control, "--timeout", "8")
    assert done.returncode == 1, done
    assert "did not answer" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@contextlib.contextmanager
def asking(server: Server, **request: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """Send a command, and yield what waits for its answer: an empty one if the server closes without."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(server.control)
        sock.sendall(json.dumps(request).encode() + b"\n")
        with sock.makefile("rb") as lines:
            yield lambda: json.loads(lines.readline() or "{}")


def trial(server: Server, number: int = 1) -> int:
    """Return the pid of the `number`th new master that was tried, once it is."""
    pattern = r"trying new master pid (\d+)"
    until(lambda: len(re.findall(pattern, server.log())) >= number)
    return int(re.findall(pattern, server.log())[number - 1])


def master(server: Server) -> int:
    return int(server.status()["pid"])


def ask(sock: socket.socket, line: bytes) -> int:
    """Send a line and return the pid of the process that answered it."""
    sock.sendall(line + b"\n")
    return answered(sock, line)


def answered(sock: socket.socket, line: bytes) -> int:
    with sock.makefile("rb") as lines:
        answer = lines.readline()
    said, by, pid = answer.rstrip(b"\n").rpartition(b" by ")
    assert (said, by) == (line, b" by "), answer
    return int(pid)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a count of names is all that is wanted


def assert_all_gone(server: Server, *addresses: tuple[str, int], seconds: float = 10) -> None:
    """Nothing of the server is left, and its ports are free."""
    until(lambda: not server.processes(), seconds, what=f"no orphan is left: {server.processes()}")
    for address in addresses:
        with socket.create_server(address):
            pass


class Storm:
    """Clients of an echo service until the block ends, every answer checked: newcomers, and some that stay and pause.

    The pauses of those that stay are shorter and longer than a draining worker's patience with an idle connection. An
    end of file between two answers is its right: the client comes again. Anything else is a failure.
    """

    def __init__(self, server: Server, newcomers: int = 2, kept: int = 2) -> None:
        self._address = server.address
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.served = [0] * (newcomers + kept)
        self.came_again = 0
        roles = [self._come_and_go] * newcomers + [self._stay] * kept
        self._threads = [threading.Thread(target=role, args=(number,)) for number, role in enumerate(roles)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _requests(self, number: int, pauses: tuple[float, ...]) -> Iterator[bytes]:
        for count, pause in zip(range(100_000), itertools.cycle(pauses)):
            if self._stop.wait(pause):
                return
            yield b"request %d of client %d" % (count, number)
            self.served[number] += 1

    def _come_and_go(self, number: int) -> None:
        for request in self._requests(number, (0.002,)):
            try:
                answer = exchange(self._address, request)
            except OSError as error:
                self.failures.append(f"{request!r}: {error!r}")
            else:
                if answer != request:
                    self.failures.append(f"{request!r} was answered {answer!r}")

    def _stay(self, number: int) -> None:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.create_connection(self._address, 10))
            for request in self._requests(number, (0.0, 0.01, 0.03, 0.3)):
                try:
                    answer = self._on(sock, request)
                    if answer == b"":
                        self.came_again += 1
                        sock.close()
                        sock = stack.enter_context(socket.create_connection(self._address, 10))
                        answer = self._on(sock, request)
                except OSError as error:
                    self.failures.append(f"{request!r}, kept alive: {error!r}")
                    sock = stack.enter_context(socket.create_connection(self._address, 10))
                else:
                    if answer != request:
                        self.failures.append(f"{request!r}, kept alive, was answered {answer!r}")

    def _on(self, sock: socket.socket, request: bytes) -> bytes:
        sock.sendall(request)  # without a look: a server that has said goodbye still reads, and never resets
        return read_exactly(sock, len(request))


class Poll:
    """Somebody who asks for the status all the time; every question must be answered."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failures: list[str] = []
        self.masters: set[int] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for count in range(1_000_000):
            if self._stop.is_set():
                return
            try:
                self.masters.add(master(self._server))
            except (OSError, ValueError) as error:
                self.failures.append(f"question {count}: {error!r}")


# What an upgrade promises to clients. --------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "kept"), [("async", 3), ("threads", 2), ("sync", 0)])
def test_five_upgrades_under_load_lose_nothing_and_replace_every_process_but_the_front(
    start: Start, model: str, kept: int
) -> None:
    with start("echo", "--workers", "2", "--model", model) as server, Storm(server, 3, kept) as storm:
        seen = {server.process.pid}
        for _ in range(5):
            before = set(server.workers().values())
            served = list(storm.served)
            upgrade(server)
            now = set(server.workers().values())
            assert len(now) == 2
            assert not now & (before | seen)
            assert master(server) not in seen
            seen |= {*before, master(server)}
            until(lambda: not any(map(alive, before)), 20, what="the old workers left")  # noqa: B023 - asked at once
            until(lambda: all(n > m for n, m in zip(storm.served, served, strict=True)), what="everybody was served")  # noqa: B023
        assert server.process.poll() is None
    assert storm.failures == []


def test_clients_queued_behind_a_busy_worker_are_all_answered_across_an_upgrade(start: Start, module: Module) -> None:
    busy = """
        import os, pathlib, time
        from prefork import Lines, reply

        @reply(Lines(newline=b"\\n"))
        def service(line: bytes) -> bytes:
            while line == b"busy" and not pathlib.Path("done").exists():
                time.sleep(0.01)
            return b"%s by %d" % (line, os.getpid())
    """
    with start(module(busy), "--workers", "1", "--model", "sync") as server, contextlib.ExitStack() as stack:
        old = server.workers()[0]
        address = server.address
        first, *queued = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(41)]
        first.sendall(b"busy\n")
        for client in queued:
            client.sendall(b"queued\n")
            client.shutdown(socket.SHUT_WR)
        until(lambda: server.status()["listeners"][0]["queued"] == 40)
        upgrade(server)
        by = {answered(client, b"queued") for client in queued}
        assert by == {server.workers()[0]}
        (server.log_path.parent.parent / "done").touch()
        assert answered(first, b"busy") == old


def test_request_in_flight_is_answered_by_the_old_worker_and_then_that_leaves(start: Start, module: Module) -> None:
    with start(module(SERVICE), "--workers", "1") as server, server.connect() as sock:
        old = server.workers()[0]
        sock.sendall(b"sleep 2\n")
        until(lambda: server.status()["totals"]["connections"] == 1)
        upgrade(server)
        assert answered(sock, b"sleep 2") == old
        assert sock.recv(1) == b""
        sock.close()
        until(lambda: not alive(old))


def test_long_conversations_of_two_older_generations_finish_on_their_own_workers(start: Start, module: Module) -> None:
    with start(module(SERVICE), "--workers", "1") as server, contextlib.ExitStack() as stack:
        # each in the middle of a request of two lines' length: not idle, so nobody may end it but its peer
        conversations = []
        for _ in range(2):
            sock = stack.enter_context(server.connect())
            worker = ask(sock, b"hello")
            sock.sendall(b"to be ")
            conversations.append((sock, worker))
            upgrade(server)
        for sock, worker in conversations:
            assert alive(worker)
            sock.sendall(b"continued\n")
            assert answered(sock, b"to be continued") == worker
            assert sock.recv(1) == b""
            sock.close()
        for _, worker in conversations:
            until(lambda: not alive(worker))  # noqa: B023 - asked at once


# What an upgrade brings. ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_upgrade_brings_new_code_even_of_a_preloaded_target(start: Start, module: Module, preload: str) -> None:
    with start(module(VERSION.format(version="old")), preload) as server:
        assert exchange(server.address, b"?\n") == b"old\n"
        for version in ("new", "newer"):
            module(VERSION.format(version=version))
            upgrade(server)
            assert exchange(server.address, b"?\n") == version.encode() + b"\n"


def test_upgrade_starts_where_the_program_was_started_not_where_chdir_led(
    start: Start, module: Module, tmp_path: Path
) -> None:
    (tmp_path / "inner").mkdir()
    module(VERSION.format(version="old"), "inner/app")
    with start("app:service", "--chdir", "inner") as server:
        module(VERSION.format(version="new"), "inner/app")
        upgrade(server)
        assert exchange(server.address, b"?\n") == b"new\n"


def settings_file(folder: Path, **values: object) -> None:
    (folder / "prefork.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()), "utf-8")


def test_upgrade_brings_a_changed_settings_file_and_keeps_the_old_address_open(start: Start, tmp_path: Path) -> None:
    settings_file(tmp_path, bind=["127.0.0.1:0"], workers=1)
    with start("echo", bind=None) as server:
        (old,) = server.addresses()
        settings_file(tmp_path, bind=["127.0.0.1:0", "127.0.0.2:0"], workers=3)
        upgrade(server)
        assert len(server.workers()) == 3
        kept, new = server.addresses()
        assert kept == old
        assert exchange(kept, b"at the old address") == b"at the old address"
        assert exchange(new, b"at the new one") == b"at the new one"


def test_address_that_an_upgrade_brought_is_kept_by_the_next_one(start: Start, tmp_path: Path) -> None:
    settings_file(tmp_path, bind=["127.0.0.1:0"], workers=1)
    with start("echo", bind=None) as server:
        settings_file(tmp_path, bind=["127.0.0.1:0", "127.0.0.2:0"], workers=1)
        upgrade(server)
        both = server.addresses()
        settings_file(tmp_path, bind=["127.0.0.1:0", f"127.0.0.2:{both[1][1]}"], workers=1)
        upgrade(server)  # the port is written out now, and is ours
        assert server.addresses() == both
        upgrade(server)
        assert server.addresses() == both
        assert exchange(both[1], b"still here") == b"still here"


def test_address_that_is_not_asked_for_any_more_refuses_newcomers_after_the_upgrade(
    start: Start, tmp_path: Path
) -> None:
    settings_file(tmp_path, bind=["127.0.0.1:0", "127.0.0.2:0"], workers=1)
    with start("echo", bind=None) as server:
        kept, dropped = server.addresses()
        settings_file(tmp_path, bind=["127.0.0.1:0"], workers=1)
        upgrade(server)
        assert server.addresses() == [kept]
        assert exchange(kept, b"served") == b"served"

        def refuses() -> bool:
            try:
                socket.create_connection(dropped, 5).close()
            except ConnectionRefusedError:
                return True
            return False

        until(refuses, 5, what="nobody is let in where nobody serves")


def test_address_asked_for_twice_does_not_multiply(start: Start) -> None:
    with start("echo", "--bind", "127.0.0.1:0") as server:
        before = server.addresses()
        assert len(before) == 2
        upgrade(server)
        assert server.addresses() == before


def test_socket_passed_by_a_service_manager_is_kept(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        os.set_inheritable(listener.fileno(), True)
        # what is started becomes the server, under the pid that it has written down
        become = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); "
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"
        )
        wrapped = (sys.executable, "-c", become, str(listener.fileno()), *PREFORK)
        with start("echo", bind=None, program=wrapped, pass_fds=(listener.fileno(),)) as server:
            listener.close()
            for _ in range(2):
                upgrade(server)
                assert server.address == address
                assert exchange(address, b"kept") == b"kept"


def test_upgrade_from_sync_to_async_leaves_no_blocking_socket_behind(start: Start, tmp_path: Path) -> None:
    settings_file(tmp_path, model="sync", workers=1)
    with start("echo") as server:
        settings_file(tmp_path, model="async", workers=1)
        upgrade(server)
        until(lambda: len(server.processes()) == 3, what="the old worker has left")
        with server.connect() as sock:
            for _ in range(10):
                assert exchange(server.address, b"newcomer") == b"newcomer"
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
        # a serving loop that waits in accept(2) would keep everybody waiting with it, up to its receive timeout
        assert _is_nonblocking(server.workers()[0], server.address)


def _is_nonblocking(pid: int, address: tuple[str, int]) -> bool:
    """Say whether a process's descriptor of the socket that listens at `address` is in non-blocking mode."""
    port = f":{address[1]:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    (inode,) = {row[9] for row in rows if row[1].endswith(port) and row[3] == "0A"}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(fd.readlink()) == f"socket:[{inode}]":
                text = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text("ascii")
                flags = re.search(r"flags:\s*(\d+)", text)
                assert flags
                return bool(int(flags[1], 8) & os.O_NONBLOCK)
    raise AssertionError(f"pid {pid} does not hold the listener")


# Roll-back. ----------------------------------------------------------------------------------------------------------


def assert_nothing_changed(server: Server, before: set[int], workers: dict[int, int]) -> None:
    assert server.workers() == workers
    until(lambda: server.processes() == before, 5, what=f"of {server.processes()} only the old ones stay, {before}")
    assert exchange(server.address, b"served\n").startswith(b"served by ")
    beside = {path.name for path in Path(server.control).parent.iterdir()}
    assert beside == {"control", "server.log"}, "no litter"


def test_upgrade_onto_a_broken_target_changes_nothing_and_says_why(start: Start, module: Module) -> None:
    with start(module(SERVICE), "--workers", "2") as server:
        before, workers = server.processes(), server.workers()
        for broken, why in [
            ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
            ("service = 3", "not a service"),
        ]:
            module(broken)
            assert why in refused(server)
            assert_nothing_changed(server, before, workers)
        module(SERVICE)
        upgrade(server)
        assert not set(server.workers().values()) & set(workers.values())


def test_upgrade_onto_a_broken_preloaded_target_changes_nothing_and_says_why(start: Start, module: Module) -> None:
    with start(module(SERVICE), "--workers", "2", "--preload") as server:
        before, workers = server.processes(), server.workers()
        module("raise RuntimeError('on purpose')")
        assert "RuntimeError: on purpose" in refused(server)
        assert_nothing_changed(server, before, workers)


def test_upgrade_onto_a_fault_in_the_settings_file_changes_nothing_and_says_why(
    start: Start, module: Module, tmp_path: Path
) -> None:
    settings_file(tmp_path, workers=2)
    with start(module(SERVICE)) as server:
        before, workers = server.processes(), server.workers()
        settings_file(tmp_path, workers=0)
        assert "workers" in refused(server)
        assert_nothing_changed(server, before, workers)


def test_upgrade_onto_an_address_of_somebody_else_changes_nothing_and_says_why(
    start: Start, module: Module, tmp_path: Path
) -> None:
    settings_file(tmp_path, bind=["127.0.0.1:0"], workers=2)
    with start(module(SERVICE), bind=None) as server, socket.create_server(("127.0.0.1", 0)) as taken:
        before, workers = server.processes(), server.workers()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings_file(tmp_path, bind=["127.0.0.1:0", address], workers=2)
        assert address in refused(server)
        assert_nothing_changed(server, before, workers)


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_upgrade_onto_a_target_that_hangs_at_import_is_rolled_back_in_time_and_leaves_nothing(
    start: Start, module: Module, preload: str
) -> None:
    with start(module(SERVICE), "--workers", "2", "--boot-timeout", "2", preload) as server:
        before, workers = server.processes(), server.workers()
        module("import time\ntime.sleep(600)")
        began = time.monotonic()
        assert "was not ready within --boot-timeout" in refused(server)
        assert time.monotonic() - began < 2 + 2
        assert_nothing_changed(server, before, workers)


@pytest.mark.parametrize("after", [0, 1], ids=["first upgrade", "second upgrade"])
def test_upgrade_onto_a_broken_interpreter_changes_nothing_and_says_why(
    start: Start, module: Module, tmp_path: Path, after: int
) -> None:
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    path = os.pathsep.join(filter(None, sys.path))
    with start(
        module(SERVICE), "--workers", "2", program=(str(python), "-m", "prefork"), PYTHONPATH=path
    ) as server:  # fmt: skip
        for _ in range(after):
            upgrade(server)
        until(lambda: len(server.processes()) == 3 + after)
        before, workers = server.processes(), server.workers()

        python.unlink()
        assert f"cannot run {python}: No such file" in refused(server)
        assert_nothing_changed(server, before, workers)
        python.write_text("#!/bin/sh\nexit 1\n", "ascii")
        python.chmod(0o600)
        assert f"cannot run {python}: Permission denied" in refused(server)
        assert_nothing_changed(server, before, workers)
        python.chmod(0o700)
        assert "exited with code 1 before it was ready" in refused(server)
        assert_nothing_changed(server, before, workers)

        python.unlink()
        python.symlink_to(Path(sys.executable).resolve())
        upgrade(server)


@pytest.mark.parametrize("after", [0, 1], ids=["first upgrade", "second upgrade"])
@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_new_master_killed_in_its_boot_changes_nothing_and_leaves_nothing(
    start: Start, module: Module, tmp_path: Path, preload: str, after: int
) -> None:
    with start(module(SERVICE), "--workers", "2", preload) as server:
        for _ in range(after):
            upgrade(server)
        until(lambda: len(server.processes()) == 3 + after)
        before, workers = server.processes(), server.workers()
        (tmp_path / "hold").touch()
        with asking(server, command="upgrade") as answer:
            pid = trial(server, 1 + after)
            if preload == "--no-preload":
                until(lambda: len(server.processes()) == len(before) + 3, what="its workers are there, too")
            os.kill(pid, signal.SIGKILL)
            assert "was killed by SIGKILL before it was ready" in answer()["error"]
        assert_nothing_changed(server, before, workers)
        (tmp_path / "hold").unlink()
        upgrade(server)


def test_unix_path_outlives_a_failed_upgrade(start: Start, module: Module, tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    with start(module(SERVICE), "--workers", "1", bind=f"unix:{path}") as server:
        module("raise RuntimeError('on purpose')")
        refused(server)
        until(lambda: len(server.processes()) == 2)
        _assert_served_at(path)


def test_unix_path_that_a_failed_upgrade_would_have_dropped_is_still_there(
    start: Start, module: Module, tmp_path: Path
) -> None:
    path = tmp_path / "service.sock"
    settings_file(tmp_path, bind=["127.0.0.1:0", f"unix:{path}"], workers=1)
    with start(module(SERVICE), bind=None) as server:
        settings_file(tmp_path, bind=["127.0.0.1:0"], workers=1)
        module("raise RuntimeError('on purpose')")
        refused(server)
        until(lambda: len(server.processes()) == 2)
        _assert_served_at(path)


def _assert_served_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        ask(sock, b"hello")


def test_new_master_that_is_ready_when_its_time_is_over_leaves_a_server_that_answers(
    start: Start, module: Module, tmp_path: Path
) -> None:
    with start(module(SERVICE), "--workers", "1", "--boot-timeout", "3") as server:
        (tmp_path / "hold").touch()
        began = time.monotonic()
        server.send(signal.SIGUSR2)
        trial(server)
        server.send(signal.SIGSTOP)  # the old master sees neither the word nor the clock
        (tmp_path / "hold").unlink()
        until(lambda: len(re.findall(r"is ready", server.log())) == 2)
        until(lambda: time.monotonic() - began > 3.5, what="the time is over")
        server.send(signal.SIGCONT)
        until(lambda: re.search("upgraded: |upgrade failed", server.log()))
        until(lambda: _answers(server), 5, what="the control socket is answered by who serves")
        assert exchange(server.address, b"served\n").startswith(b"served by ")


def _answers(server: Server) -> bool:
    try:
        return bool(server.status()["state"] == "running")
    except (OSError, ValueError):
        return False


# Who is told no. -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1], ids=["first upgrade", "second upgrade"])
def test_upgrade_during_an_upgrade_is_refused_and_the_first_asker_is_told_of_its_own(
    start: Start, module: Module, tmp_path: Path, after: int
) -> None:
    with start(module(SERVICE), "--workers", "1") as server:
        for _ in range(after):
            upgrade(server)
        (tmp_path / "hold").touch()
        with asking(server, command="upgrade") as answer:
            trial(server, 1 + after)
            assert "an upgrade is under way" in refused(server)
            server.send(signal.SIGUSR2)  # nor does a signal
            until(lambda: server.log().count("an upgrade is under way") >= 2)
            (tmp_path / "hold").unlink()
            assert answer() == {"ok": True}
        assert server.log().count("trying new master") == 1 + after


@pytest.mark.parametrize("after", [0, 1], ids=["first upgrade", "second upgrade"])
def test_upgrade_during_a_reload_is_refused_and_the_reload_goes_on(
    start: Start, module: Module, tmp_path: Path, after: int
) -> None:
    with start(module(SERVICE), "--workers", "1") as server:
        for _ in range(after):
            upgrade(server)
        (tmp_path / "hold").touch()
        with asking(server, command="reload") as answer:
            until(lambda: server.status()["state"] == "reloading")
            assert "a reload is under way" in refused(server)
            (tmp_path / "hold").unlink()
            assert answer() == {"ok": True, "generation": 2}
        assert server.log().count("trying new master") == after


@pytest.mark.parametrize("after", [0, 1], ids=["first upgrade", "second upgrade"])
def test_upgrade_during_a_stop_is_refused(start: Start, module: Module, after: int) -> None:
    with start(module(SERVICE), "--workers", "1") as server:
        for _ in range(after):
            upgrade(server)
        until(lambda: len(server.processes()) == 2 + after)
        with server.connect() as busy:
            busy.sendall(b"sleep 3\n")
            until(lambda: server.status()["totals"]["connections"] == 1)
            server.send(signal.SIGTERM)
            until(lambda: server.status()["state"] == "draining")
            assert "the server is stopping" in refused(server)
            server.send(signal.SIGUSR2)
            answered(busy, b"sleep 3")
            busy.close()
        assert server.process.wait(10) == 0
        assert server.log().count("trying new master") == after
        assert "Traceback" not in server.log()
        assert_all_gone(server)


# Signals, by way of the front. ---------------------------------------------------------------------------------------


def test_hup_after_an_upgrade_reloads_in_the_new_master(start: Start, module: Module) -> None:
    with start(module(VERSION.format(version="old")), "--workers", "1") as server:
        upgrade(server)
        serving, worker = master(server), server.workers()[0]
        module(VERSION.format(version="new"))
        server.send(signal.SIGHUP)
        until(lambda: server.status()["generation"] == 2)
        assert master(server) == serving
        until(lambda: worker not in server.workers().values())
        assert exchange(server.address, b"?\n") == b"new\n"
        server.send(signal.SIGTTIN)
        until(lambda: len(server.workers()) == 2)


def test_usr2_to_the_front_and_to_the_new_master_both_upgrade(start: Start) -> None:
    with start("echo", "--workers", "1") as server:
        first = server.process.pid
        server.send(signal.SIGUSR2)
        second = until(lambda: _another(server, first))
        os.kill(second, signal.SIGUSR2)
        third = until(lambda: _another(server, second))
        server.send(signal.SIGUSR2)
        until(lambda: _another(server, third))
        until(lambda: len(server.processes()) == 3, what="front, master, worker")
        assert exchange(server.address, b"served") == b"served"


def _another(server: Server, than: int) -> int:
    now = master(server)
    return 0 if now in {than, server.process.pid} else now


def test_usr1_after_an_upgrade_reopens_the_log_of_every_process(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "own.log"
    with start("echo", "--workers", "1", "--log-file", str(log)) as server:
        upgrade(server)
        until(lambda: len(server.processes()) == 3)
        log.rename(tmp_path / "rotated.log")
        server.send(signal.SIGUSR1)

        def all_have_let_go() -> bool:
            return not any(_holds(pid, tmp_path / "rotated.log") for pid in server.processes())

        until(all_have_let_go, 5, what="nobody writes into the rotated log any more")
        assert log.exists()


def _holds(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(str(fd.readlink()) == str(path) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


# Ends. ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgrades", [1, 2])
def test_term_to_the_front_answers_what_is_in_flight_in_every_generation_and_exits_0(
    start: Start, module: Module, upgrades: int
) -> None:
    with start(module(SERVICE), "--workers", "1") as server, contextlib.ExitStack() as stack:
        address = server.address
        clients = []
        # the master in the middle has the longest to do
        requests = [*[b"sleep 1.5", b"sleep 3"][:upgrades], b"sleep 0.5"]
        for number, request in enumerate(requests):
            client = stack.enter_context(server.connect())
            client.sendall(request + b"\n")
            client.shutdown(socket.SHUT_WR)  # it leaves with its answer
            until(lambda: server.status()["totals"]["connections"] == 1)
            clients.append(client)
            if number < upgrades:
                upgrade(server)
        server.send(signal.SIGTERM)
        for client, request in zip(clients, requests, strict=True):
            answered(client, request)
            client.close()
        assert server.process.wait(10) == 0
        assert server.processes() == set(), "the front is the last to leave: when it ends, a container does"
        assert_all_gone(server, address)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("upgrades", [1, 2])
def test_int_and_quit_to_the_front_stop_every_generation_now(
    start: Start, module: Module, number: signal.Signals, upgrades: int
) -> None:
    with start(module(SERVICE), "--workers", "1") as server, contextlib.ExitStack() as stack:
        address = server.address
        for count in range(upgrades + 1):
            client = stack.enter_context(server.connect())
            client.sendall(b"sleep 60\n")
            until(lambda: server.status()["totals"]["connections"] == 1)
            if count < upgrades:
                upgrade(server)
        assert server.stop(number, timeout=5) == 0
        assert_all_gone(server, address, seconds=2)


def test_second_term_to_the_front_stops_now_what_the_first_left(start: Start, module: Module) -> None:
    with start(module(SERVICE), "--workers", "1") as server, server.connect() as sock:
        sock.sendall(b"sleep 60\n")
        until(lambda: server.status()["totals"]["connections"] == 1)
        upgrade(server)
        server.send(signal.SIGTERM)
        until(lambda: server.log().count("got SIGTERM") == 2, what="front and new master have it")
        assert server.stop(signal.SIGTERM, timeout=8) == 0
        assert_all_gone(server, seconds=2)


@pytest.mark.parametrize("after", [0, 1], ids=["first upgrade", "second upgrade"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_during_an_upgrade_stops_everything(
    start: Start, module: Module, tmp_path: Path, number: signal.Signals, after: int
) -> None:
    with start(module(SERVICE), "--workers", "1") as server, contextlib.ExitStack() as stack:
        address = server.address
        for _ in range(after):
            upgrade(server)
        until(lambda: len(server.processes()) == 2 + after)
        sock = stack.enter_context(server.connect())
        sock.sendall(b"sleep 2\n")
        until(lambda: server.status()["totals"]["connections"] == 1)
        (tmp_path / "hold").touch()
        server.send(signal.SIGUSR2)
        trial(server, 1 + after)
        server.send(number)
        until(lambda: server.log().count(f"got {number.name}") == 1 + after, what="all masters in charge have it")
        (tmp_path / "hold").unlink()  # a new master that gets ready now comes too late
        if number is signal.SIGTERM:
            answered(sock, b"sleep 2")
        sock.close()
        assert server.process.wait(10) == 0
        assert_all_gone(server, address)


def test_command_to_stop_during_a_second_upgrade_stops_everything(start: Start, module: Module, tmp_path: Path) -> None:
    with start(module(SERVICE), "--workers", "1") as server, contextlib.ExitStack() as stack:
        address = server.address
        upgrade(server)
        until(lambda: len(server.processes()) == 3)
        sock = stack.enter_context(server.connect())
        sock.sendall(b"sleep 2\n")
        until(lambda: server.status()["totals"]["connections"] == 1)
        (tmp_path / "hold").touch()
        server.send(signal.SIGUSR2)
        trial(server, 2)
        assert server.ask(command="stop") == {"ok": True}
        (tmp_path / "hold").unlink()
        answered(sock, b"sleep 2")
        sock.close()
        assert server.process.wait(10) == 0
        assert_all_gone(server, address)


@pytest.mark.parametrize("upgrades", [1, 2])
def test_everything_ends_when_the_front_is_killed(start: Start, module: Module, upgrades: int) -> None:
    with start(module(SERVICE), "--workers", "2") as server:
        address = server.address
        for _ in range(upgrades):
            upgrade(server)
        server.process.kill()
        server.process.wait()
        assert_all_gone(server, address)


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_everything_ends_when_the_old_master_is_killed_during_an_upgrade(
    start: Start, module: Module, tmp_path: Path, preload: str
) -> None:
    with start(module(SERVICE), "--workers", "2", preload) as server:
        address = server.address
        (tmp_path / "hold").touch()
        server.send(signal.SIGUSR2)
        trial(server)
        server.process.kill()
        server.process.wait()
        (tmp_path / "hold").unlink()
        assert_all_gone(server, address)


def test_front_ends_with_a_failure_when_the_new_master_is_killed_and_nothing_is_left(
    start: Start, module: Module
) -> None:
    with start(module(SERVICE), "--workers", "2") as server, server.connect() as sock:
        address = server.address
        upgrade(server)
        ask(sock, b"hello")
        os.kill(master(server), signal.SIGKILL)
        assert sock.recv(1) == b"", "its workers end what is open in order"
        sock.close()
        assert server.process.wait(10) not in {0, None}
        assert_all_gone(server, address)


# Names in the file system. -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgrades", [1, 2])
def test_unix_path_is_served_through_upgrades_and_removed_by_the_stop(
    start: Start, module: Module, tmp_path: Path, upgrades: int
) -> None:
    path = tmp_path / "service.sock"
    with start(module(SERVICE), "--workers", "1", bind=f"unix:{path}") as server:
        inode = path.stat().st_ino
        for _ in range(upgrades):
            upgrade(server)
            until(lambda: len(server.processes()) == 3)
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert path.stat().st_ino == inode
            _assert_served_at(path)
        assert server.stop() == 0
        assert not path.exists()
        assert not Path(server.control).exists()


def test_pidfile_keeps_naming_the_front_until_the_stop(start: Start, tmp_path: Path) -> None:
    pidfile = tmp_path / "server.pid"
    with start("echo", "--workers", "1", "--pidfile", str(pidfile)) as server:
        for _ in range(2):
            upgrade(server)
            until(lambda: len(server.processes()) == 3)
            assert int(pidfile.read_text("ascii")) == server.process.pid
        assert server.stop() == 0
        assert not pidfile.exists()


def test_status_is_answered_at_every_moment_of_three_upgrades(start: Start) -> None:
    with start("echo", "--workers", "1") as server, Poll(server) as poll:
        for count in range(3):
            upgrade(server)
            until(lambda: len(poll.masters) == count + 2)  # noqa: B023 - asked at once
    assert poll.failures == []


def test_status_asked_at_the_very_moment_of_the_change_is_answered(
    start: Start, module: Module, tmp_path: Path
) -> None:
    with start(module(SERVICE), "--workers", "1") as server, contextlib.ExitStack() as stack:
        (tmp_path / "hold").touch()
        server.send(signal.SIGUSR2)
        new = trial(server)
        server.send(signal.SIGSTOP)  # what comes now, it finds all at once when it wakes
        answers = [stack.enter_context(asking(server, command="status")) for _ in range(3)]
        (tmp_path / "hold").unlink()
        until(lambda: len(re.findall(r"is ready", server.log())) == 2)
        server.send(signal.SIGCONT)  # it finds the word "ready" and three who asked it, in any order
        assert {answer().get("pid") for answer in answers} <= {server.process.pid, new}
        until(lambda: master(server) == new, what="the new master answers at the path")


def test_descriptors_and_processes_stay_flat_over_five_upgrades(start: Start) -> None:
    with start("echo", "--workers", "1") as server:
        alone = descriptors(server.process.pid)
        upgrade(server)
        until(lambda: len(server.processes()) == 3)
        front = descriptors(server.process.pid)
        for _ in range(5):
            upgrade(server)
            until(lambda: len(server.processes()) == 3, what="front, master, worker")
        until(lambda: descriptors(server.process.pid) <= front, what="nothing leaked in the front")
        until(lambda: descriptors(master(server)) <= alone + 1, what="nothing piles up in the new one")


# As PID 1. -----------------------------------------------------------------------------------------------------------


def test_upgrade_as_pid_1_works_and_the_namespace_lives_on(start: Start, module: Module) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare for a pid namespace")
    if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True, timeout=10).returncode:
        pytest.skip("pid namespaces are not allowed here")
    with start(module(SERVICE), "--workers", "1", program=(*NAMESPACE, *PREFORK)) as server, server.connect() as sock:
        assert master(server) == 1
        old = ask(sock, b"hello")
        sock.sendall(b"to be ")
        masters = {1}
        for count in range(3):
            upgrade(server)
            masters.add(master(server))
            assert len(masters) == count + 2
            assert exchange(server.address, b"served\n").startswith(b"served by ")
        sock.sendall(b"continued\n")
        assert answered(sock, b"to be continued") == old
        sock.close()
        assert run("stop", "--control", server.control).returncode == 0
        assert server.process.wait(10) == 0
        assert_all_gone(server)
