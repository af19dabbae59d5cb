"""Bad input: one clear line each, the documented exit code, no traceback."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.server import PREFORK, Server, clean_environment, exchange, run

if TYPE_CHECKING:
    from collections.abc import Callable


def refused(code: int, *arguments: str, cwd: Path, **env: str) -> list[str]:
    """Run `prefork ARGUMENTS`, assert its exit code and that there is no traceback; return the error's lines."""
    result = run(*arguments, cwd=cwd, timeout=20, **env)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ecko"], "TARGET 'ecko': no built-in service has that name; did you mean echo?"),
        (["module:"], "TARGET 'module:': must be a built-in service or module:attribute"),
        ([], "TARGET is missing"),
        (["echo", "--workers", "none"], "--workers 'none': must be a number from 1 to 256, or two, MIN:MAX"),
        (["echo", "--workers", "0"], "--workers '0': must be a number from 1 to 256, or two, MIN:MAX"),
        (["echo", "--bind", "nowhere"], "--bind 'nowhere'"),
        (["echo", "--idle-timeout", "-1"], "--idle-timeout '-1': must be a number of seconds"),
        (["echo", "--max-write-buffer", "1MB"], "--max-write-buffer '1MB': must be a size in bytes"),
        (["echo", "--model", "fibers"], "--model 'fibers': must be one of async, sync, threads"),
        (["echo", "--user", "nobody-of-that-name"], "--user 'nobody-of-that-name': is no user of this machine"),
        (["echo", "--group", "4294967295"], "--group '4294967295': must be a whole number from 0 to 4294967294"),
        (["echo", "--chdir", "/no/such/folder"], "--chdir '/no/such/folder': is no folder"),
        (["echo", "--pidfile", "/no/such/folder/pid"], "--pidfile '/no/such/folder/pid': cannot be made"),
        (["echo", "--config", "missing.toml"], "--config 'missing.toml': No such file"),
        (["app:service"], "--bind is missing: app:service has no port of its own"),
        (["app:service", "--bind", "[::1]:"], "--bind '[::1]:': app:service has no port of its own; give HOST:PORT"),
        (["echo", "--bind", "a b:"], "--bind 'a b:'"),
    ],
)
def test_usage_is_refused_in_one_line(command: str, arguments: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from prefork import Raw, reply\n@reply(Raw())\ndef service(data: bytes) -> bytes:\n    return data\n"
    )
    lines = refused(2, command, *arguments, cwd=tmp_path)
    assert len(lines) == 1
    assert lines[0].startswith("prefork: " + expected)


def test_every_fault_of_every_source_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "prefork.toml").write_text('backlog = "long"\nno-such-option = 1\nthreads = 0\n')
    lines = refused(2, "serve", "echo", "--workers", "x", "--bind", "y", cwd=tmp_path, PREFORK_MODEL="z")
    assert len(lines) == 6
    for expected in (
        "--workers 'x'",
        "--bind 'y'",
        "PREFORK_MODEL 'z'",
        "prefork.toml: backlog 'long'",
        "prefork.toml: threads '0'",
        "prefork.toml: no-such-option: no such option",
    ):
        assert sum(line.startswith(f"prefork: {expected}") for line in lines) == 1, expected


def test_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prefork.toml").write_text("workers: 4\n")
    (line,) = refused(2, "serve", "echo", cwd=tmp_path)
    assert line.startswith("prefork: prefork.toml: not TOML")


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
@pytest.mark.parametrize(
    ("code", "target", "expected"),
    [
        (None, "absent:service", "cannot load 'absent:service': there is no module 'absent' here"),
        ("", "app:service", "cannot load 'app:service': the module has no attribute 'service'"),
        (
            "raise ValueError('bad\\nday')",
            "app:service",
            "cannot load 'app:service': ValueError: bad ({folder}/app.py:1)",
        ),
        (
            "import nowhere_to_be_found",
            "app:service",
            "cannot load 'app:service': ModuleNotFoundError: No module named",
        ),
        ("def broken(:", "app:service", "cannot load 'app:service': SyntaxError: "),
        ("import sys; sys.exit(0)", "app:service", "cannot load 'app:service': it called exit(0) at import"),
        ("def service(data): return data", "app:service", "cannot load 'app:service': it is a function, not a service"),
    ],
)
def test_target_that_does_not_load_is_told_once_and_exits_3(
    code: str | None, target: str, expected: str, preload: str, tmp_path: Path
) -> None:
    if code is not None:
        (tmp_path / "app.py").write_text(code)
    options = ["--bind", "127.0.0.1:0", "--workers", "3", "--control", "off", "--log-level", "error", preload]
    lines = refused(3, "serve", target, *options, cwd=tmp_path)
    assert len(lines) == 1, lines
    assert expected.format(folder=tmp_path) in lines[0]


def test_model_that_the_handler_cannot_run_in_is_refused(tmp_path: Path) -> None:
    (line,) = refused(3, "check", "greet", "--model", "sync", cwd=tmp_path)
    assert line == "prefork: --model sync: greet is an `async def`; use --model async, or a `def`"


def test_preloaded_target_that_leaves_threads_running_is_refused_naming_them(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=[60], name='poller', daemon=True).start()\n"
        "from prefork import Raw, reply\n@reply(Raw())\ndef service(data: bytes) -> bytes:\n    return data\n"
    )
    (line,) = refused(3, "serve", "app:service", "--preload", "--bind", "127.0.0.1:0", cwd=tmp_path)
    assert "left threads running at import (poller)" in line


def test_taken_port_exits_4(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        (line,) = refused(4, "serve", "echo", "--bind", bind, cwd=tmp_path)
        assert line == f"prefork: --bind {bind}: another program listens there; stop it, or bind another address"


def test_address_of_no_interface_exits_4(tmp_path: Path) -> None:
    (line,) = refused(4, "serve", "echo", "--bind", "192.0.2.1:7000", cwd=tmp_path)
    assert line == "prefork: --bind 192.0.2.1:7000: this machine has no such address"


def test_unknown_service_name_as_a_port_exits_4(tmp_path: Path) -> None:
    (line,) = refused(4, "serve", "echo", "--bind", "127.0.0.1:no-such-service", cwd=tmp_path)
    assert "the services database has no TCP service 'no-such-service'" in line


def test_descriptor_that_is_no_listener_exits_4(tmp_path: Path) -> None:
    (line,) = refused(4, "serve", "echo", "--bind", "fd://99", cwd=tmp_path)
    assert line.startswith("prefork: --bind fd://99: no socket was passed as descriptor 99")


def test_privileged_port_without_rights_exits_4(tmp_path: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text("ascii")) <= 7:
        pytest.skip("everybody may bind every port here")
    # even root is refused once the capability is out of the bounding set: capabilities(7)
    without = ["setpriv", "--bounding-set", "-net_bind_service"] if os.geteuid() == 0 else []
    result = subprocess.run(
        [*without, *PREFORK, "serve", "echo", "--bind", "127.0.0.1:7"],
        capture_output=True, text=True, timeout=20, cwd=tmp_path, env=clean_environment(), check=False,
    )  # fmt: skip
    assert result.returncode == 4
    assert result.stderr == (
        "prefork: --bind 127.0.0.1:7: needs root or CAP_NET_BIND_SERVICE for a port below 1024; bind a higher one\n"
    )


def test_second_server_on_the_same_control_socket_is_refused(start: Callable[..., Server], tmp_path: Path) -> None:
    with start() as server:
        (line,) = refused(
            4,
            "serve",
            "echo",
            "--bind",
            "127.0.0.1:0",
            "--control",
            server.control,
            "--log-level",
            "error",
            cwd=tmp_path,
        )
        assert (
            line == f"prefork: --control {server.control}: another server answers there; stop it, or name another path"
        )


def test_control_socket_is_for_its_user_alone_and_survives_nonsense(start: Callable[..., Server]) -> None:
    with start() as server:
        assert stat.S_IMODE(os.stat(server.control).st_mode) == 0o600  # noqa: PTH116
        for nonsense in (
            b"\n",
            b"[]\n",
            b'{"command": "explode"}\n',
            b'{"command": "scale", "workers": 0}\n',
            b"x" * 9000,
            b"[" * 4000 + b"\n",
        ):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(server.control)
                sock.sendall(nonsense)
                assert b'"error"' in sock.recv(1000)
        assert exchange(server.address, b"unharmed") == b"unharmed"


def test_commands_say_when_no_server_answers(tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    for command in (["status"], ["stop"], ["reload"], ["scale", "3"], ["reopen-logs"]):
        (line,) = refused(1, *command, "--control", path, cwd=tmp_path)
        assert line == f"prefork: no server answers at {path}: No such file or directory"
    (line,) = refused(1, "status", cwd=tmp_path, XDG_RUNTIME_DIR=str(tmp_path))
    assert line == f"prefork: no server was found in {tmp_path}/prefork; name its socket by --control PATH"


@pytest.mark.parametrize(
    "answer", [b"5\n", b"nonsense\n", b"\xff\n", b"[" * 4000 + b"\n"], ids=["5", "words", "no text", "deep"]
)
def test_nonsense_that_answers_on_the_control_socket_is_told_in_one_line(tmp_path: Path, answer: bytes) -> None:
    path = str(tmp_path / "strange.sock")
    with socket.create_server(path, family=socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as strange:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(answer)

        served = strange.submit(serve)
        (line,) = refused(1, "status", "--control", path, cwd=tmp_path)
        served.result(10)
    assert line == f"prefork: no server answers at {path}: the answer was no JSON object"
