"""Who the workers are, what they can still do, and what is said of a server that runs as root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from support.server import Server, exchange, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY: Final = "65534"
STRANGER: Final = "4242"
"""A number that is nobody's on this machine."""

EARLY: Final = """
import concurrent.futures.thread, subprocess, prefork.worker.aio, prefork.worker.sync, prefork.worker.threads
from prefork.cli import main
main()
"""
PROGRAM: Final = (sys.executable, "-c", EARLY)
"""prefork, with what workers import already there: the interpreter may be in a folder that is root's alone."""

WARNING: Final = "the workers run as root; name a user for them by --user"

WHO: Final = """
    import os
    import subprocess
    from prefork import Lines, reply

    {at_import}

    @reply(Lines())
    def service(line: bytes) -> bytes:
        done = subprocess.run(line.split(), capture_output=True)
        return (done.stdout + done.stderr).replace(b"\\n", b" ")
"""
"""Runs a line as a command."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return a folder that other users can enter: pytest's own are its user's alone, and each session makes them so."""
    with tempfile.TemporaryDirectory(prefix="prefork-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def status_of(pid: int) -> dict[str, list[str]]:
    """Return the fields of proc(5) status."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


@as_root
@pytest.mark.parametrize("model", ["async", "sync", "threads"])
def test_worker_has_user_and_group_and_nothing_else_while_the_master_keeps_its_rights(
    start: Callable[..., Server], model: str
) -> None:
    with start(
        "echo", "--workers", "1", "--user", NOBODY, "--group", STRANGER, "--model", model, program=PROGRAM
    ) as server:
        (worker,) = server.workers().values()
        status = status_of(worker)
        assert status["Uid"] == [NOBODY] * 4
        assert status["Gid"] == [STRANGER] * 4
        assert set(status["Groups"]) == {STRANGER}  # as os.getgrouplist has them for this user and that group
        assert [int(status[name][0], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [0, 0, 0]
        assert status["NoNewPrivs"] == ["1"]
        assert Path(f"/proc/{worker}/mem").stat().st_uid == 0, "others of that user cannot look into its memory"
        assert status_of(server.process.pid)["Uid"] == ["0"] * 4
        assert exchange(server.address, b"as nobody\n") == b"as nobody\n"
        assert WARNING not in server.log()


@as_root
def test_group_of_the_user_is_taken_when_none_is_named(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1", "--user", "nobody", program=PROGRAM) as server:
        (worker,) = server.workers().values()
        assert status_of(worker)["Gid"] == [str(pwd.getpwnam("nobody").pw_gid)] * 4


@as_root
def test_number_that_is_no_user_needs_a_group_and_leaves_every_group_of_root(start: Callable[..., Server]) -> None:
    refused = run("check", "echo", "--user", STRANGER)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"prefork: --user {STRANGER}: is no user of this machine, so its group is not known; give --group, too\n"
    )
    options = ("--workers", "1", "--user", STRANGER, "--group", STRANGER)
    with start("echo", *options, program=(tool("setpriv"), "--groups", "0,5,6", *PROGRAM)) as server:
        (worker,) = server.workers().values()
        assert status_of(server.process.pid)["Groups"] == ["0", "5", "6"]
        status = status_of(worker)
        assert (status["Uid"], status["Gid"], status["Groups"]) == ([STRANGER] * 4, [STRANGER] * 4, [])


@as_root
@pytest.mark.parametrize(
    ("how", "why"),
    [
        (["--bounding-set", "-setuid"], "the kernel does not let root become that: Operation not permitted"),
        (["--bounding-set", "-setgid"], "the kernel does not let root become that: Operation not permitted"),
        (["--securebits", "+no_setuid_fixup"], "capabilities are left after the change; nothing is served so"),
    ],
)
def test_worker_that_cannot_lose_its_rights_does_not_serve(
    start: Callable[..., Server], how: list[str], why: str
) -> None:
    options = ("--workers", "2", "--user", NOBODY, "--group", STRANGER)
    with start("echo", *options, program=(tool("setpriv"), *how, *PROGRAM), wait_for="") as server:
        assert server.process.wait(20) == 3
        log = server.log()
        assert f"--user {NOBODY} --group {STRANGER}: {why}" in log
        assert "Traceback" not in log


def test_program_that_a_handler_runs_cannot_gain_rights(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path
) -> None:
    options = ["--user", NOBODY, "--group", NOBODY] if os.geteuid() == 0 else []
    gainer = tmp_path / "gainer"
    shutil.copy(tool("id"), gainer)
    gainer.chmod(0o4755)  # set-user-ID: executed by somebody else, it would be its owner
    with start(module(WHO.format(at_import="")), "--workers", "1", *options, program=PROGRAM) as server:
        assert exchange(server.address, b"grep NoNewPrivs /proc/self/status\n").split() == [b"NoNewPrivs:", b"1"]
        if os.geteuid() == 0:
            assert exchange(server.address, f"{gainer} -u\n".encode()).strip() == NOBODY.encode()


@as_root
def test_target_is_imported_without_the_rights_of_root(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    target = module(WHO.format(at_import="os.close(os.open('/etc/shadow', os.O_RDONLY))"))
    with start(target, "--workers", "1", "--user", NOBODY, "--group", NOBODY, wait_for="", program=PROGRAM) as server:
        assert server.process.wait(20) == 3
        assert "PermissionError" in server.log()


@as_root
def test_server_as_root_says_so_unless_root_is_named(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1") as server:
        assert server.log().count(WARNING) == 1
        assert server.ask(command="reload")["ok"]
        assert server.log().count(WARNING) == 1  # a reload has only what is new to say
    with start("echo", "--workers", "1", "--user", "root") as server:
        assert WARNING not in server.log()


@as_root
def test_server_without_the_rights_of_root_is_not_warned(start: Callable[..., Server], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, int(NOBODY), int(NOBODY))
    program = (tool("setpriv"), "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", *PROGRAM)
    with start(
        "echo", "--workers", "1", "--control", str(home / "control.sock"), program=program, wait_for=""
    ) as server:
        until(lambda: "is ready" in server.log(), 20)
        assert WARNING not in server.log()


@as_root
def test_workers_open_the_log_anew_after_a_rotation(start: Callable[..., Server], tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o755)
    path, rotated = logs / "prefork.log", logs / "prefork.log.1"
    options = ("--workers", "1", "--user", "nobody", "--log-file", str(path), "--access-log")
    with start("echo", *options, program=PROGRAM) as server:
        path.rename(rotated)
        server.send(signal.SIGUSR1)
        until(path.exists)

        def worker_writes_to_the_new_file() -> bool:
            exchange(server.address, b"x")
            return "closed connection=" in path.read_text("utf-8")

        until(worker_writes_to_the_new_file, 20)
        assert "cannot reopen" not in rotated.read_text("utf-8") + path.read_text("utf-8")


@as_root
def test_log_that_is_a_link_to_a_file_of_roots_stays_roots(start: Callable[..., Server], tmp_path: Path) -> None:
    precious, named_twice = tmp_path / "precious", tmp_path / "twice"
    for path in (precious, named_twice):
        path.touch(mode=0o600)
    (tmp_path / "link.log").symlink_to(precious)
    (tmp_path / "hard.log").hardlink_to(named_twice)
    for name in ("link.log", "hard.log"):
        options = ("--workers", "1", "--user", "nobody", "--log-file", str(tmp_path / name))
        with start("echo", *options, program=PROGRAM) as server:
            server.ask(command="reopen-logs")
            assert server.status()["state"] == "running"
    assert precious.stat().st_uid == named_twice.stat().st_uid == 0
    assert precious.stat().st_size > 0


@as_root
def test_another_user_is_refused_even_if_the_mode_lets_him_in(start: Callable[..., Server]) -> None:
    code = f"import os, socket, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    code += "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
    code += "try: s.sendall(b'{\"command\": \"stop\"}\\n'); print(s.recv(100))\nexcept OSError: print(b'')"
    with start("echo", "--workers", "2") as server:
        Path(server.control).parent.chmod(0o755)
        Path(server.control).chmod(0o666)
        done = subprocess.run(
            [sys.executable, "-c", code, server.control], capture_output=True, text=True, timeout=20, check=False
        )
        assert (done.stdout, done.stderr) == ("b''\n", "")
        until(lambda: f"control socket: refused user {NOBODY}: it is neither this server's nor root" in server.log())
        assert server.status()["state"] == "running"


def test_umask_and_folder_are_those_that_were_asked_for(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path
) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    target = module(WHO.format(at_import=""))
    (tmp_path / "app.py").rename(apart / "app.py")
    with start(target, "--workers", "1", "--umask", "027", "--chdir", str(apart)) as server:
        assert exchange(server.address, b"pwd\n").strip() == str(apart).encode()
        exchange(server.address, b"touch made\n")
        assert stat.S_IMODE((apart / "made").stat().st_mode) == 0o640


def tool(name: str) -> str:
    """Return where a program is; skip without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
