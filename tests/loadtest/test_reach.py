"""A server got at from elsewhere: by an agent beside it, or in a container that is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from prefork_loadtest.control import ControlError
from prefork_loadtest.remote import Beside
from support.absent import without
from support.server import Server, alive
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., Any]


@contextmanager
def agent(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent at a socket; leaving ends it, and it must end well."""
    path.unlink(missing_ok=True)
    with subprocess.Popen([sys.executable, "-m", "prefork_loadtest.agent", str(path)]) as process:
        try:
            until(path.exists, what="the agent listens")
            yield process
        finally:
            process.terminate()
    assert process.returncode == 0


def test_an_agent_asks_looks_and_signals(tmp_path: Path) -> None:
    with (
        Server("echo", "--workers", "2", tmp_path=tmp_path) as server,
        agent(tmp_path / "agent"),
        closing(Beside(tmp_path / "agent", server.control)) as reach,
    ):
        status = reach.ask()
        assert status.pid == server.process.pid
        assert {worker.pid for worker in status.workers} == set(server.workers().values())
        reach.prove(status)
        with pytest.raises(ControlError, match="belongs into the server's process namespace"):
            reach.prove(type(status)("running", "0", 1, 1, (), ()))
        assert {os.getpid(), status.pid} <= set(reach.pids())
        (victim, _) = status.workers
        assert str(reach.stat(victim.pid)).startswith(f"{victim.pid} (")
        reach.signal(victim.pid, signal.SIGKILL)
        until(lambda: not alive(victim.pid), what="the worker is killed")
        assert reach.stat(2**22 + 1) is None
        with pytest.raises(ControlError, match=r"SIGHUP cannot be sent to pid 4194305 in .*No such process"):
            reach.signal(2**22 + 1, signal.SIGHUP)


def test_an_agent_that_is_started_anew_is_found_again_and_one_that_is_gone_is_told(tmp_path: Path) -> None:
    with (
        Server("echo", "--workers", "1", tmp_path=tmp_path) as server,
        closing(Beside(tmp_path / "agent", server.control)) as reach,
    ):
        with pytest.raises(ControlError, match="No such file"):
            reach.ask()
        for _ in range(2):
            with agent(tmp_path / "agent"):
                assert reach.ask().pid == server.process.pid
        with pytest.raises(ControlError):
            reach.ask()


def test_an_agent_takes_nonsense_and_a_server_that_is_gone_for_what_they_are(tmp_path: Path) -> None:
    with agent(tmp_path / "agent"), closing(Beside(tmp_path / "agent", str(tmp_path / "nowhere"))) as reach:
        with pytest.raises(ControlError, match=r"control socket '.*nowhere' in .*No such file or directory"):
            reach.ask()
        with pytest.raises(ControlError, match="not understood"):
            reach.do("dance")
        with pytest.raises(ControlError, match="not understood"):
            reach.do("signal", pid="one", number=1)
        assert reach.pids()


def test_those_who_ask_at_the_same_time_each_get_their_own_answer(tmp_path: Path) -> None:
    with (
        Server("echo", "--workers", "1", tmp_path=tmp_path) as server,
        agent(tmp_path / "agent"),
        closing(Beside(tmp_path / "agent", server.control)) as reach,
        ThreadPoolExecutor(8) as pool,
    ):
        pids = [os.getpid(), *server.workers().values(), server.process.pid] * 100
        stats = list(pool.map(reach.stat, pids))
        assert [str(stat).split()[0] for stat in stats] == [str(pid) for pid in pids]


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"DOCKER_HOST": "unix:///nonexistent"}, "the Docker engine"),
        ({"PYTHONPATH": "{without}"}, "pip install 'prefork-loadtest[docker]'"),
    ],
)
@pytest.mark.parametrize("command", ["run", "chaos"])
def test_without_an_engine_or_its_sdk_a_container_is_one_line_and_exit_2(
    start: Run, tmp_path: Path, command: str, variables: dict[str, str], complaint: str
) -> None:
    no_docker = without(tmp_path, "docker")
    env = {name: value.replace("{without}", no_docker) for name, value in variables.items()}
    words = (command, *(("smoke",) if command == "run" else ()), "--container", "any", "--report", "off")
    outcome = start(*words, **env).end()
    assert outcome.code == 2, outcome
    (line,) = outcome.err.splitlines()
    assert "--container 'any'" in line
    assert complaint in line
