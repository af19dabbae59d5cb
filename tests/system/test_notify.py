"""What a service manager is told: the real program, and this test as the service manager, sd_notify(3)."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import pytest

from support.server import Server, alive, exchange, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Start = Callable[..., Server]
    Module = Callable[..., str]

# While the file "hold" is there, a boot stands still at its import.
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
        return line
"""


@dataclass(frozen=True)
class Word:
    """One datagram: who sent it, when it came, and its first line, which says what it is about."""

    pid: int
    at: float
    lines: tuple[str, ...]

    @property
    def first(self) -> str:
        return self.lines[0]

    def __getitem__(self, name: str) -> str:
        return dict(line.split("=", 1) for line in self.lines)[name]


class Manager:
    """A service manager: hears everything that is said to `address`, with the pid of who said it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self._words: list[Word] = []
        # a thread, because the kernel keeps few datagrams and the sender must not wait
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                data, ancillary, _, _ = self._socket.recvmsg(8192, socket.CMSG_SPACE(12))
            except TimeoutError:
                continue
            (pid, _, _) = struct.unpack("3i", ancillary[0][2])
            self._words.append(Word(pid, time.monotonic(), tuple(data.decode().split("\n"))))

    def heard(self, *, watchdog: bool = False) -> list[Word]:
        """Return what was said so far, the watchdog's food only if that is asked for."""
        return [word for word in tuple(self._words) if watchdog or word.first != "WATCHDOG=1"]

    def firsts(self) -> list[str]:
        return [word.first for word in self.heard()]

    def wait_for(self, *firsts: str) -> None:
        """Wait until this has been said, all of it and in this order, and nothing else."""
        until(lambda: len(self.firsts()) >= len(firsts), what=f"{firsts} was said")
        assert self.firsts() == list(firsts)


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(str(tmp_path / "notify.sock"))


def upgrade(server: Server) -> int:
    """Upgrade and return the pid of the new master."""
    before = server.status()["pid"]
    done = run("upgrade", "--control", server.control)
    assert (done.returncode, done.stderr) == (0, "")
    new = int(server.status()["pid"])
    assert new != before
    return new


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_is_said_once_and_only_when_every_worker_serves(
    start: Start, module: Module, tmp_path: Path, kind: str
) -> None:
    address = f"@prefork-test-{os.getpid()}" if kind == "abstract" else str(tmp_path / "notify.sock")
    (tmp_path / "hold").touch()
    with (
        Manager(address) as manager,
        start(module(SERVICE), "--workers", "3", wait_for="starting", NOTIFY_SOCKET=address) as server,
    ):
        until(lambda: len(server.workers("starting")) == 3)
        assert manager.heard() == []
        (tmp_path / "hold").unlink()
        manager.wait_for("READY=1")
        assert len(server.workers()) == 3
        assert manager.heard()[0].pid == server.process.pid
        assert "3 workers" in manager.heard()[0]["STATUS"]
        for count in range(2, 4):  # a worker's death and a worker more are no news
            os.kill(server.workers()[0], signal.SIGKILL)
            server.send(signal.SIGTTIN)
            until(lambda: len(server.workers()) == count + 2)  # noqa: B023 - asked at once
        manager.wait_for("READY=1")


def test_nothing_is_said_by_a_server_that_never_gets_ready(start: Start, module: Module, manager: Manager) -> None:
    with manager, start(
        module("raise RuntimeError('on purpose')"), wait_for="", NOTIFY_SOCKET=manager.address
    ) as server:  # fmt: skip
        assert server.process.wait(10) == 3
        assert manager.heard() == []


def test_reload_is_announced_with_the_clock_and_ended_by_ready(start: Start, manager: Manager) -> None:
    with manager, start("echo", "--workers", "2", NOTIFY_SOCKET=manager.address) as server:
        manager.wait_for("READY=1")
        earliest = time.monotonic_ns() // 1000
        server.send(signal.SIGHUP)
        manager.wait_for("READY=1", "RELOADING=1", "READY=1")
        latest = time.monotonic_ns() // 1000
        _, reloading, ready = manager.heard()
        assert earliest <= int(reloading["MONOTONIC_USEC"]) <= latest
        assert ready["STATUS"]
        assert {word.pid for word in manager.heard()} == {server.process.pid}


def test_failed_reload_is_ended_by_ready_and_says_why(start: Start, module: Module, manager: Manager) -> None:
    with manager, start(module(SERVICE), "--workers", "1", NOTIFY_SOCKET=manager.address) as server:
        manager.wait_for("READY=1")
        module("raise RuntimeError('on purpose')")
        server.send(signal.SIGHUP)
        manager.wait_for("READY=1", "RELOADING=1", "READY=1")
        assert "RuntimeError: on purpose" in manager.heard()[2]["STATUS"]


def test_reason_of_a_worker_adds_no_words_of_its_own(start: Start, module: Module, manager: Manager) -> None:
    with manager, start(module(SERVICE), "--workers", "1", NOTIFY_SOCKET=manager.address) as server:
        manager.wait_for("READY=1")
        module("""
            import json, os, pathlib, socket

            for fd in pathlib.Path("/proc/self/fd").iterdir():
                try:
                    with socket.socket(fileno=os.dup(int(fd.name))) as sock:
                        if sock.family == socket.AF_UNIX:
                            sock.send(b"failed " + json.dumps(["\\ud800\\nMAINPID=1", ""]).encode() + b"\\n")
                except OSError:
                    pass
            raise SystemExit("that was all")
        """)
        server.send(signal.SIGHUP)
        manager.wait_for("READY=1", "RELOADING=1", "READY=1")
        assert [line.partition("=")[0] for line in manager.heard()[2].lines] == ["READY", "STATUS"]
        assert server.stop() == 0


def test_reload_that_is_refused_before_it_begins_is_never_announced(
    start: Start, manager: Manager, tmp_path: Path
) -> None:
    with manager, start("echo", NOTIFY_SOCKET=manager.address) as server:
        manager.wait_for("READY=1")
        (tmp_path / "prefork.toml").write_text("workers = 0\n", "ascii")
        assert run("reload", "--control", server.control).returncode == 1
        assert server.stop() == 0
        manager.wait_for("READY=1", "STOPPING=1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_is_announced_when_it_begins(start: Start, manager: Manager, number: signal.Signals) -> None:
    with manager, start("echo", NOTIFY_SOCKET=manager.address) as server:
        manager.wait_for("READY=1")
        assert server.stop(number) == 0
        manager.wait_for("READY=1", "STOPPING=1")


def test_stop_that_is_asked_for_again_is_announced_once(start: Start, module: Module, manager: Manager) -> None:
    with manager, start(module(SERVICE), "--workers", "1", NOTIFY_SOCKET=manager.address) as server:
        with server.connect() as sock:
            sock.sendall(b"sleep 60\n")
            until(lambda: server.status()["totals"]["connections"] == 1)
            server.send(signal.SIGTERM)
            until(lambda: server.status()["state"] == "draining")
            assert server.stop(signal.SIGTERM) == 0
        manager.wait_for("READY=1", "STOPPING=1")


def test_watchdog_is_fed_twice_per_interval_also_while_idle_and_while_reloading(
    start: Start, module: Module, tmp_path: Path, manager: Manager
) -> None:
    interval = 0.6
    with manager, start(
        module(SERVICE), "--workers", "1", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC=str(int(interval * 1e6))
    ) as server:  # fmt: skip

        def meals() -> list[float]:
            return [word.at for word in manager.heard(watchdog=True) if word.first == "WATCHDOG=1"]

        until(lambda: len(meals()) >= 4)
        (tmp_path / "hold").touch()
        server.send(signal.SIGHUP)
        until(lambda: server.status()["state"] == "reloading")
        until(lambda: len(meals()) >= 8)
        (tmp_path / "hold").unlink()
        until(lambda: server.status()["generation"] == 2)
        times = meals()
        gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
        assert gaps[-1] < interval, "the service manager would have killed it"
        assert gaps[len(gaps) // 2] < interval * 0.75, "half an interval is the rule"
        assert gaps[0] > interval * 0.25, "and no more often than that"


def test_watchdog_of_another_process_is_left_to_it(start: Start, manager: Manager) -> None:
    with manager, start(
        "echo", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="200000", WATCHDOG_PID=str(os.getpid())
    ) as server:  # fmt: skip
        assert server.stop() == 0
        assert [word.first for word in manager.heard(watchdog=True)] == ["READY=1", "STOPPING=1"]


def test_watchdog_is_not_fed_by_a_master_that_stands_still(start: Start, manager: Manager) -> None:
    with manager, start("echo", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="200000") as server:
        until(lambda: len(manager.heard(watchdog=True)) > 2)
        server.send(signal.SIGSTOP)
        stopped = time.monotonic()
        until(lambda: time.monotonic() - stopped > 0.5, what="it stood still for more than the interval")
        assert all(word.at < stopped + 0.1 for word in manager.heard(watchdog=True))
        server.send(signal.SIGCONT)


def test_upgrade_names_the_new_main_process_and_the_old_one_ends_0_after_its_drain(
    start: Start, module: Module, manager: Manager
) -> None:
    with manager, start(module(SERVICE), "--workers", "1", NOTIFY_SOCKET=manager.address) as server:
        address = server.address
        manager.wait_for("READY=1")
        with server.connect() as sock:
            sock.sendall(b"sleep 2\n")
            until(lambda: server.status()["totals"]["connections"] == 1)
            new = upgrade(server)
            until(lambda: f"MAINPID={new}" in manager.firsts())
            assert server.process.poll() is None, "a request is still in flight"
            assert sock.recv(100) == b"sleep 2\n"
        assert server.process.wait(10) == 0
        assert exchange(address, b"served\n") == b"served\n"
        (named,) = [word for word in manager.heard() if word.first.startswith("MAINPID")]
        assert named.pid == server.process.pid, "only the main process may name another"

        newer = upgrade(server)
        until(lambda: f"MAINPID={newer}" in manager.firsts())
        until(lambda: not alive(new))
        assert exchange(address, b"served\n") == b"served\n"
        assert [w.pid for w in manager.heard() if w.first == f"MAINPID={newer}"] == [new]

        os.kill(newer, signal.SIGTERM)
        until(lambda: not server.processes())
        # each master says what it must once: that it is ready, who is next; only the last one stops
        for pid in (server.process.pid, new):
            said = [word.first.partition("=")[0] for word in manager.heard() if word.pid == pid]
            assert said == ["READY", "MAINPID"]
        assert [word.first for word in manager.heard() if word.pid == newer] == ["READY=1", "STOPPING=1"]


def test_old_main_process_leaves_the_watchdog_to_the_new_one(start: Start, module: Module, manager: Manager) -> None:
    with manager, start(
        module(SERVICE), "--workers", "1", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="200000"
    ) as server:  # fmt: skip
        with server.connect() as sock:
            sock.sendall(b"sleep 2\n")
            until(lambda: server.status()["totals"]["connections"] == 1)
            new = upgrade(server)
            assert sock.recv(100) == b"sleep 2\n"  # the old one drains for that long
        assert server.process.wait(10) == 0
        until(lambda: [word.pid for word in manager.heard(watchdog=True)[-4:]] == [new] * 4)
        words = manager.heard(watchdog=True)
        (change,) = [word.at for word in words if word.first.startswith("MAINPID")]
        late = [word for word in words if word.pid == server.process.pid and word.at > change + 0.1]
        assert late == [], "a service manager complains of words from what is no main process"


def test_failed_upgrade_names_nobody_and_the_old_main_process_stays(
    start: Start, module: Module, manager: Manager
) -> None:
    with manager, start(module(SERVICE), "--workers", "1", NOTIFY_SOCKET=manager.address) as server:
        module("raise RuntimeError('on purpose')")
        assert run("upgrade", "--control", server.control).returncode == 1
        assert server.stop() == 0
        assert manager.firsts() == ["READY=1", "STOPPING=1"]
        assert {word.pid for word in manager.heard()} == {server.process.pid}


def test_pidfile_names_the_new_main_process_once_the_old_one_has_left(
    start: Start, manager: Manager, tmp_path: Path
) -> None:
    pidfile = tmp_path / "server.pid"
    with manager, start("echo", "--pidfile", str(pidfile), NOTIFY_SOCKET=manager.address) as server:
        new = upgrade(server)
        assert server.process.wait(10) == 0
        assert int(pidfile.read_text("ascii")) == new
        os.kill(new, signal.SIGTERM)
        until(lambda: not server.processes())
        assert not pidfile.exists()


def test_pidfile_that_cannot_be_written_does_not_end_the_new_main_process(
    start: Start, manager: Manager, tmp_path: Path
) -> None:
    pidfile = tmp_path / "server.pid"
    with manager, start("echo", "--pidfile", str(pidfile), NOTIFY_SOCKET=manager.address) as server:
        pidfile.unlink()
        pidfile.symlink_to(tmp_path / "nowhere" / "server.pid")
        new = upgrade(server)
        assert server.process.wait(10) == 0
        until(lambda: f"--pidfile '{pidfile}': No such file or directory" in server.log())
        assert alive(new)
        assert exchange(server.address, b"served") == b"served"


def test_killed_old_main_process_does_not_take_the_new_one_with_it(
    start: Start, module: Module, manager: Manager
) -> None:
    with manager, start(module(SERVICE), "--workers", "1", NOTIFY_SOCKET=manager.address) as server:
        address = server.address
        with server.connect() as sock:
            sock.sendall(b"sleep 60\n")  # it drains until it is killed
            until(lambda: server.status()["totals"]["connections"] == 1)
            new = upgrade(server)
            server.process.kill()
            server.process.wait()
        assert exchange(address, b"served\n") == b"served\n"
        newer = upgrade(server)
        until(lambda: not alive(new))
        assert exchange(address, b"served\n") == b"served\n"
        assert server.status()["pid"] == newer
        assert server.status()["state"] == "running"


def test_notify_socket_that_is_gone_or_full_is_no_trouble(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))  # nobody ever reads from it
        with start("echo", NOTIFY_SOCKET=str(path), WATCHDOG_USEC="20000") as server:
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 0.5, what="many more words than a socket holds")
            path.unlink()
            assert exchange(server.address, b"served") == b"served"
            assert server.stop() == 0
            assert "Traceback" not in server.log()
