"""A chaos run: planned faults under verified load, against a server started here or one that runs.

It finds out whom to load, checks that the service answers as the load users will expect, and hands the run on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prefork_client import Client, ClientError
from prefork_loadtest import control, engine, hosted
from prefork_loadtest.proof import Probe, Prover
from prefork_loadtest.server import StartFailed, url
from prefork_wire import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from prefork_loadtest.plan import Plan
    from prefork_loadtest.record import Record

WORKERS = 4
DEFAULTS = {"--workers": str(WORKERS)}
"""Options of a server that is started here and was given none of these: it needs somebody to lose."""
MOST_LINE_BYTES = 8192


class Refused(Exception):  # noqa: N818 - the text is the one line that a person reads
    """The run was not begun: the service does not answer as the load users would expect it to."""


def run(plan: Plan, serve: Sequence[str], log: Path, say: Callable[[str], None], path: Path | None = None) -> Record:
    """Carry out a chaos plan.

    Args:
        plan: what to do.
        serve: target and options of a server that is started here; empty to use the one that `plan.reach` gets at.
        log: where its log goes.
        say: takes one line of progress at a time.
        path: where the control socket of one that is started here shall be, if that matters.

    Raises:
        StartFailed: the server did not come up.
        Refused: it does not answer as it should, before anything was done to it.
    """
    if not serve:
        return _at_running(plan, say)
    return hosted.run(plan, _with_defaults(serve), log, say, path, _require_answer)


def _at_running(plan: Plan, say: Callable[[str], None]) -> Record:
    """Load the server that runs."""
    reach = plan.reach
    if reach is None:
        raise Refused("neither a TARGET to serve, nor --control PATH or --container NAME of one that runs: give one")
    try:
        status = reach.ask()
        reach.prove(status)
    except control.ControlError as error:
        raise StartFailed(str(error)) from error
    if not plan.host and not status.addresses:
        raise StartFailed("the server names no address of its own: give --host")
    whole = replace(plan, host=plan.host or url(status.addresses[0]))
    whole.check()
    _require_answer(whole)
    return engine.run(whole, say)


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
