"""A chaos run: planned faults under verified load, against a server started here or one that runs.

It finds out whom to load, checks that the service answers as the load users will expect, and hands the run to the
engine. Of a server that was started here it also judges the end: exit code, log, and who is left behind.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefork_client import Client, ClientError
from prefork_loadtest import control, engine
from prefork_loadtest.gates import RUN
from prefork_loadtest.proof import Probe, Prover
from prefork_loadtest.server import OwnServer, StartFailed, url
from prefork_wire import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prefork_loadtest.plan import Plan
    from prefork_loadtest.record import Record

WORKERS = 4
DEFAULTS = {"--bind": "127.0.0.1:0", "--workers": str(WORKERS)}
"""Options of a server that is started here and was given none of these: an own port, and somebody to lose."""
MOST_LINE_BYTES = 8192


class Refused(Exception):  # noqa: N818 - the text is the one line that a person reads
    """The run was not begun: the service does not answer as the load users would expect it to."""


def run(plan: Plan, serve: Sequence[str], log: Path, say: Callable[[str], None]) -> Record:
    """Carry out a chaos plan.

    Args:
        plan: what to do. Without a `control` path, or with arguments for a server, one is started here.
        serve: target and options of that server; empty to use the one at `plan.control`.
        log: where its log goes.
        say: takes one line of progress at a time.

    Raises:
        StartFailed: the server did not come up.
        Refused: it does not answer as it should, before anything was done to it.
    """
    if not serve:
        return _at_running(plan, say)
    with _control_path(plan) as path, OwnServer(_with_defaults(serve), path, log) as server:
        whole = replace(plan, host=plan.host or server.address, control=path, front=server.pid)
        whole.check()
        _require_answer(whole)
        say(f"prefork serves {serve[0]} on {server.address} (first process {server.pid}); its log is {log}")
        record = engine.run(whole, say)
    _judge_end(record, server, say)
    return record


def _at_running(plan: Plan, say: Callable[[str], None]) -> Record:
    """Load the server that answers at the control socket."""
    if plan.control is None:
        raise Refused("neither a TARGET to serve nor --control PATH of a server that runs: give one of them")
    try:
        status = control.ask(plan.control)
        control.require_same_pids(plan.control, status)
    except control.ControlError as error:
        raise StartFailed(str(error)) from error
    if not plan.host and not status.addresses:
        raise StartFailed("the server names no address of its own: give --host")
    whole = replace(plan, host=plan.host or url(status.addresses[0]))
    whole.check()
    _require_answer(whole)
    return engine.run(whole, say)


@contextmanager
def _control_path(plan: Plan) -> Iterator[Path]:
    if plan.control is not None:
        yield plan.control
        return
    with tempfile.TemporaryDirectory(prefix="prefork-chaos-") as folder:
        yield Path(folder) / "control"


def _with_defaults(serve: Sequence[str]) -> list[str]:
    """The arguments of the server, with what it needs here and was not told."""
    given = {argument.partition("=")[0] for argument in serve}
    return [*serve, *(word for name, value in DEFAULTS.items() if name not in given for word in (name, value))]


def _require_answer(plan: Plan) -> None:
    """Ask once what the load users will ask.

    Raises:
        Refused: the answer is another one.
    """
    prover = Probe(plan.probe, 0) if plan.probe else Prover(0)
    request = prover.next()
    try:
        with Client(plan.host, Lines(max_length=MOST_LINE_BYTES), reply_timeout=plan.reply_timeout_s) as client:
            right = prover.check(request, client.request(request)) is None
    except ClientError as error:
        raise Refused(f"the service did not answer {request[:40]!r}: {error}") from error
    if not right:
        cure = "correct --probe" if plan.probe else "it is no echo; give --probe 'SEND=>EXPECT'"
        raise Refused(f"the service answers {request[:40]!r} with something else: {cure}")


def _judge_end(record: Record, server: OwnServer, say: Callable[[str], None]) -> None:
    """Write down how a server that was started here has ended."""
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
        if name in end:
            end[name] += len(pids)
