"""A run against a server that is started here: up before the load, judged and gone after it.

Besides the load's own verdict such a server answers for its end: its exit code, its log, and who is left behind.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefork_loadtest import engine, needs
from prefork_loadtest.gates import RUN
from prefork_loadtest.reach import Here
from prefork_loadtest.server import OwnServer, StartFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prefork_loadtest.plan import Plan
    from prefork_loadtest.record import Record

TLS = "{tls}"
"""Stands in arguments for the folder of a certificate that is made for the run."""


def run(
    plan: Plan,
    serve: Sequence[str],
    log: Path,
    say: Callable[[str], None],
    control: Path | None = None,
    accept: Callable[[Plan], None] = lambda _: None,
) -> Record:
    """Start a server, carry out a plan against it, and stop it.

    Args:
        plan: what to do; `host`, `reach` and `front` are filled in here.
        serve: target and options of the server.
        log: where its log goes.
        say: takes one line of progress at a time.
        control: where its control socket shall be; else somewhere of the run's own.
        accept: is given the whole plan before the load begins, and may raise.

    Raises:
        StartFailed: the server did not come up.
    """
    with _scratch() as folder:
        if any(TLS in word for word in serve):
            _certificate(folder)
            serve = [word.replace(TLS, str(folder)) for word in serve]
            plan = replace(plan, tls_ca=str(folder / "cert.pem"))
        path = control or folder / "control"
        with OwnServer(_bound(serve), path, log) as server:
            whole = replace(plan, host=plan.host or server.address, reach=Here(path), front=server.pid)
            whole.check()
            accept(whole)
            say(f"prefork serves {serve[0]} on {server.address} (first process {server.pid}); its log is {log}")
            record = engine.run(whole, say)
    _judge_end(record, server, say)
    return record


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="prefork-loadtest-") as folder:
        yield Path(folder)


def _certificate(folder: Path) -> None:
    try:
        needs.make_certificate(folder)
    except OSError as error:
        raise StartFailed(str(error)) from error


def _bound(serve: Sequence[str]) -> list[str]:
    """The arguments, with a port of the server's own where none was given."""
    given = {argument.partition("=")[0] for argument in serve}
    return [*serve, *(() if "--bind" in given else ("--bind", "127.0.0.1:0"))]


def _judge_end(record: Record, server: OwnServer, say: Callable[[str], None]) -> None:
    """Write down how the server has ended."""
    errors = server.errors(record.killed)
    for line in errors[:10]:
        say(f"the server's log has an error that no fault announced: {line}")
    for pid in server.remains.orphans:
        say(f"pid {pid} was left behind when the server had ended")
    end = record.faults.setdefault(RUN, {})
    end["log_errors"] = len(errors)
    if server.exit_code is not None:
        end["exit_code"] = server.exit_code
    for name, pids in (("zombies", server.remains.zombies), ("orphans", server.remains.orphans)):
        end[name] = end.get(name, 0) + len(pids)
