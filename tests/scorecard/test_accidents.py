"""Rows 8, 9, 10, 12, 15 and 16: what no plan foresees. It may take what the dead held, and nothing else."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from support.load import Load
from support.scorecard import cpu_seconds
from support.server import PREFORK, alive
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.scorecard import Row
    from support.server import Server

KILLED = r"was killed by SIGKILL"

POISON = """
    import os, pathlib
    from prefork import Lines, reply

    if pathlib.Path("poison").exists():
        forks = os.open("forks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(forks, b"%d\\n" % os.getpid())
        os._exit(9)

    me = b"%d " % os.getpid()

    @reply(Lines())
    def service(line: bytes) -> bytes:
        return me + line
"""


def hold(server: Server, victims: list[int]) -> int:
    """Stop the victims, so that the scoreboard stands still, and return how many connections they hold."""
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(_state(pid) == "T" for pid in victims))
    return sum(w["connections"] for w in server.status()["workers"] if w["pid"] in victims)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - as short as it can be
        return stat.read().rpartition(")")[2].split()[0]


def test_row_08_killing_one_of_four_workers_takes_what_it_held(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    with start(app, "--workers", "4") as server, row.watch(server, announces=[KILLED]):
        with Load(server.address, kept=40) as load:
            until(lambda: load.replies > 400)
            before = server.workers()
            held = hold(server, [before[1]])
            at = time.monotonic()
            os.kill(before[1], signal.SIGKILL)
            until(lambda: server.workers().get(1, before[1]) != before[1], 5)
            row.at_most("seconds to the replacement", time.monotonic() - at, 1)
            served = load.replies
            until(lambda: load.replies > served + 200)
        row.says("requests answered", load.replies)
        row.says("classes of failures", str(dict(load.kinds()) or "none"))
        row.at_most(f"requests lost, of {held} connections held", len(load.failures), held)
        row.is_("kept connections lost by others", sum(f.kept and f.pid != before[1] for f in load.failures), 0)
        after = server.workers()
        row.is_("the others, untouched", sum(after[slot] == before[slot] for slot in (0, 2, 3)), 3)
        row.says("worst newcomer, ms", load.worst_ms())


def test_row_09_killing_all_workers_at_once_leaves_the_queue_to_their_successors(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    with start(app, "--workers", "4") as server, row.watch(server, announces=[KILLED]):
        with Load(server.address, kept=20) as load:
            until(lambda: load.replies > 400)
            victims = list(server.workers().values())
            held = hold(server, victims)
            at = time.monotonic()
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            until(lambda: load.answered_at > at and len(set(server.workers().values()) - set(victims)) == 4, 10)
            row.says("seconds until all four serve again", round(time.monotonic() - at, 2))
            served = load.replies
            until(lambda: load.replies > served + 200)
        row.says("requests answered", load.replies)
        row.says("classes of failures", str(dict(load.kinds()) or "none"))
        row.at_most(f"requests lost, of {held} connections held", len(load.failures), held)
        row.at_most("longest wait of a newcomer, s", load.worst_ms() / 1000, 2)


def test_row_10_slot_whose_target_exits_in_boot_backs_off_among_healthy_workers(
    start: Callable[..., Server], module: Callable[..., str], row: Row, tmp_path: Path
) -> None:
    seconds = row.seconds(60, 15)
    announces = [KILLED, r"exited with code 9"]
    with start(module(POISON), "--workers", "4") as server, row.watch(server, announces=announces):
        healthy = server.workers()
        with Load(server.address, rate=100) as load:
            until(lambda: time.monotonic() - load.answered_at < 1 and load.replies > 200, what="nobody is new")
            (tmp_path / "poison").touch()
            held = hold(server, [healthy[1]])
            spent, at = cpu_seconds(server.process.pid), time.monotonic()
            os.kill(healthy[1], signal.SIGKILL)
            load_until = at + seconds
            until(lambda: time.monotonic() >= load_until, seconds + 5)
            spent = cpu_seconds(server.process.pid) - spent
            forks = len((tmp_path / "forks").read_text().split())
            row.at_most("forks into the slot", forks, 10)
            row.at_most("the master's share of a CPU, %", 100 * spent / (time.monotonic() - at), 5)
            del healthy[1]
            row.is_("healthy workers, untouched", str(server.workers() == healthy), "True")
            (tmp_path / "poison").unlink()
        row.at_most(f"requests lost, of {held} connections held", len(load.failures), held)
        row.says("requests answered", load.replies)
        until(lambda: len(server.workers()) == 4, 35, what="the slot is filled once the cause is gone")


@pytest.mark.parametrize(
    ("code", "said"),
    [("raise RuntimeError('on purpose')\n", "Traceback"), ("import os\nos._exit(9)\n", "exited with code 9")],
    ids=["raises", "exits"],
)
def test_row_10_from_cold_a_target_that_ends_in_boot_ends_the_server(
    start: Callable[..., Server], module: Callable[..., str], row: Row, code: str, said: str
) -> None:
    # one line says it to everybody; the traceback is for the target's author, who asks for more
    with start(module(code), "--workers", "2", "--log-level", "debug", wait_for="") as server:
        at = time.monotonic()
        row.is_("exit code", server.process.wait(30), 3)
        row.says("seconds until it gave up", round(time.monotonic() - at, 1))
        row.is_(f"the log says {said!r}", "yes" if said in server.log() else "no", "yes")
        row.at_most("tracebacks", server.log().count("Traceback"), 1)
        row.judge()


def somebody_whom_limits_bind() -> tuple[str, ...]:
    """Return what runs a program as a user whose processes are limited: root's are not."""
    somebody: tuple[str, ...] = ()
    if os.geteuid() == 0:  # be somebody who may still read the files here
        caps = "-all,+dac_override"
        somebody = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", f"--inh-caps={caps}",
                    f"--ambient-caps={caps}")  # fmt: skip
    for tool in (*somebody[:1], "prlimit"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} to let forks fail with")
    return somebody


def limit_processes(server: Server, somebody: tuple[str, ...], limit: int) -> None:
    """Let the master fork as long as its user has fewer processes than this; a negative limit is none."""
    allowed = limit if limit >= 0 else "unlimited"
    command = [*somebody, "prlimit", f"--pid={server.process.pid}", f"--nproc={allowed}:"]
    subprocess.run(command, check=True, timeout=10)


def test_row_12_reload_that_cannot_fork_fails_and_says_so(start: Callable[..., Server], app: str, row: Row) -> None:
    somebody = somebody_whom_limits_bind()
    with start(app, "--workers", "2", program=(*somebody, *PREFORK)) as server:
        before = server.workers()
        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limit_processes(server, somebody, 0)
        failed = server.ask(command="reload")
        row.is_("the reload's end", str(failed.get("error")), "cannot fork: Resource temporarily unavailable")
        row.is_("the workers, untouched", str(server.workers() == before), "True")
        limit_processes(server, somebody, soft)
        row.is_("the next reload", str(server.ask(command="reload").get("ok")), "True")


@pytest.mark.timeout(150)
def test_row_12_fork_that_fails_leaves_the_survivors_serving(start: Callable[..., Server], app: str, row: Row) -> None:
    seconds = row.seconds(30, 8)
    somebody = somebody_whom_limits_bind()
    announces = [KILLED, "cannot fork"]
    with start(app, "--workers", "4", program=(*somebody, *PREFORK)) as server, row.watch(server, announces=announces):
        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]  # the master's too

        def allow_processes(limit: int) -> None:
            limit_processes(server, somebody, limit)

        allow_processes(0)
        with Load(server.address, kept=20) as load:
            until(lambda: load.replies > 400)
            before = server.workers()
            victims = [before[0], before[1]]
            held = hold(server, victims)
            at = time.monotonic()
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            until(lambda: "cannot fork" in server.log())
            until(lambda: time.monotonic() >= at + seconds, seconds + 5)
            row.is_("survivors", str(sorted(server.workers().values()) == sorted([before[2], before[3]])), "True")
            failed = server.log().count("cannot fork")
            row.at_most("forks that failed, per second and slot", failed / seconds / 2, 2)
            allow_processes(soft)
            lifted = time.monotonic()
            until(lambda: len(server.workers()) == 4, 20)
            row.at_most("seconds to the full count", time.monotonic() - lifted, 5)
        row.is_("the master", "alive" if server.process.poll() is None else "dead", "alive")
        row.at_most(f"requests lost, of {held} connections held", len(load.failures), held)
        row.says("requests answered", load.replies)
        row.says("worst newcomer, ms", load.worst_ms())


DRAIN = 3.0


@pytest.mark.parametrize("model", ["async", "sync", "threads"])
def test_row_15_killing_the_master_under_load_frees_the_port_by_the_drain_timeout(
    start: Callable[..., Server], app: str, row: Row, model: str
) -> None:
    options = ["--workers", "2", "--model", model, "--drain-timeout", f"{DRAIN:g}"]
    announces = ["the master is gone; draining", "connections at the end of its drain"]
    with start(app, *options) as server, row.watch(server, announces=announces):
        address, workers = server.address, list(server.workers().values())
        kept = 10 if model == "async" else 0
        with Load(address, kept=kept) as load:
            until(lambda: load.replies > 200)
            at = time.monotonic()
            server.process.kill()
            server.process.wait()
            until(lambda: not any(map(alive, workers)), 20, what="no orphan is left")
            row.at_most("seconds until the workers were gone", time.monotonic() - at, DRAIN + 1)
            until(lambda: _is_free(address), 5, what="the port is free")
            row.at_most("seconds until the port was free", time.monotonic() - at, DRAIN + 1)
            load.stop()
        last = [one.at for one in load.failures]
        row.says("served for so long without a master, s", round((min(last) if last else at) - at, 2))
        row.says("classes of failures, once the port was closed", str(dict(load.kinds())))
        row.is_("failures other than refused or reset at the end", _other(load), 0)


def _other(load: Load) -> int:
    return sum(count for kind, count in load.kinds().items() if kind not in {"refused", "reset"})


@pytest.mark.parametrize("model", ["async", "sync", "threads"])
def test_row_15_killing_the_master_of_an_idle_server_frees_the_port_within_a_second(
    start: Callable[..., Server], app: str, row: Row, model: str
) -> None:
    with start(app, "--workers", "2", "--model", model) as server, row.watch(server, announces=["the master is gone"]):
        address, workers = server.address, list(server.workers().values())
        at = time.monotonic()
        server.process.kill()
        server.process.wait()
        until(lambda: not any(map(alive, workers)), 20, what="no orphan is left")
        row.at_most("seconds until the workers were gone", time.monotonic() - at, 1)
        until(lambda: _is_free(address), 5, what="the port is free")
        row.at_most("seconds until the port was free", time.monotonic() - at, 1)


def test_row_15_killing_the_master_leaves_no_worker_that_hangs_in_its_boot(
    start: Callable[..., Server], module: Callable[..., str], row: Row
) -> None:
    service = module("import time\nopen('booting', 'w').close()\ntime.sleep(20)\n")
    with start(service, "--workers", "1", wait_for="starting") as server, row.watch(server):
        address = server.address
        until((server.log_path.parent.parent / "booting").exists)
        at = time.monotonic()
        server.process.kill()
        server.process.wait()
        free = False
        with contextlib.suppress(AssertionError):
            free = until(lambda: _is_free(address), 3)
        row.is_("the port is free within 3 s", free, True)
        row.says("seconds", round(time.monotonic() - at, 2))


def _is_free(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_server(address):
        return True
    return False


@pytest.mark.timeout(150)
def test_row_16_stopped_master_is_not_missed_and_kills_nobody_when_it_wakes(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    seconds = row.seconds(60, 8)
    announces = ["the master was away"]
    with (
        start(app, "--workers", "2", "--hang-timeout", "1") as server,
        row.watch(server, announces=announces),
    ):
        workers = server.workers()
        with Load(server.address, kept=10) as load:
            until(lambda: load.replies > 100)
            server.send(signal.SIGSTOP)
            at = time.monotonic()
            until(lambda: time.monotonic() >= at + seconds, seconds + 5)
            server.send(signal.SIGCONT)
            until(lambda: "the master was away" in server.log(), 5)
            woke = time.monotonic()
            until(lambda: time.monotonic() >= woke + 3, 5, what="a killing round has passed")
        row.is_("workers killed", sum(pid not in server.workers().values() for pid in workers.values()), 0)
        row.lost_nothing(load)


def test_row_16_server_that_was_suspended_as_a_whole_kills_nobody_when_it_wakes(
    start: Callable[..., Server], app: str, row: Row
) -> None:
    with (
        start(app, "--workers", "2", "--hang-timeout", "1") as server,
        row.watch(server, announces=["the master was away"]),
    ):
        workers = server.workers()
        with Load(server.address, rate=50, kept=10) as load:
            until(lambda: load.replies > 100)
            for pid in (server.process.pid, *workers.values()):
                os.kill(pid, signal.SIGSTOP)
            at = time.monotonic()
            until(lambda: time.monotonic() >= at + 4, 6, what="it was stopped for four times the hang timeout")
            server.send(signal.SIGCONT)  # the master first: nobody has been able to beat meanwhile
            until(lambda: "the master was away" in server.log(), 5)
            for pid in workers.values():
                os.kill(pid, signal.SIGCONT)
            served = load.replies
            until(lambda: load.replies > served + 100)
        row.is_("workers killed", sum(pid not in server.workers().values() for pid in workers.values()), 0)
        row.lost_nothing(load)
