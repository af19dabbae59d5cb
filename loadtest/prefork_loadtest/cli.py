"""The command line of the load kit: `list`, `run`, `chaos`, `verdict`, `demo`, `init`.

It checks what was asked before anything heavy is imported, prints, and turns the verdict into the exit code.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefork_loadtest import __version__, faultplan, gates, values
from prefork_loadtest.faultplan import Fault, Kind
from prefork_loadtest.faults import GIVE_UP_S
from prefork_loadtest.init import FRAMINGS, text
from prefork_loadtest.ledger import PHASES
from prefork_loadtest.plan import Plan, PlanError
from prefork_loadtest.reach import Here
from prefork_loadtest.scenarios import CHAOS, SCENARIOS, SUITES
from prefork_loadtest.tally import Unit
from prefork_loadtest.values import Number, option, positive
from prefork_loadtest.verdict import Code, not_whole

if TYPE_CHECKING:
    from typing import NoReturn

    from prefork_loadtest.reach import Reach
    from prefork_loadtest.record import Record
    from prefork_loadtest.scenarios import Scenario, Suite

OFF = "off"
MOST_REPLY_SECONDS = 600.0
MOST_HOLD_S = 60.0
MOST_USERS, MOST_WORKERS, MOST_RATE, MOST_SECONDS = 100_000, 256, 1e6, 7 * 86_400.0

UNITS = [unit.value for unit in Unit]
ONE_ONLY = (
    *("host", "users", "rate", "duration", "external_workers", "control", "container", "kill_worker_at", "fault"),
    *("gates", "count"),
)
"""Options of `run` that mean nothing for several scenarios."""


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    try:
        code = commands.main(standalone_mode=False, prog_name="prefork-loadtest")
    except click.ClickException as error:
        refuse(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        code = Code.INTERRUPTED
    except Exception:
        # Fail-closed here too: Python's own exit code for a traceback would read as "a gate did not hold".
        logging.getLogger(__name__).exception("prefork-loadtest itself broke")
        code = Code.INVALID
    sys.exit(int(code or 0))


def refuse(message: str) -> NoReturn:
    """Say in one line what is wrong with the call, and exit with the code for usage."""
    click.echo(f"prefork-loadtest: {' '.join(message.split())}", err=True)
    sys.exit(Code.USAGE)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prefork-loadtest")
@click.pass_context
def commands(context: click.Context) -> None:
    """Load tests for framed TCP, with a verdict as the exit code.

    \b
    0  every gate held             6  no requests, or too few
    1  a gate did not hold         7  a load worker was lost
    2  usage                       8  interrupted
    3  wrong answers               9  the generator was saturated
    4  invalid for another reason  10 the server was reached, and answered nothing
    5  the server was never reached
    11 connections were closed instead of answers, as by a handler that raises
    12 a load user raised
    """  # noqa: D301 - click leaves the lines behind this very character as they are
    if context.invoked_subcommand is None:  # click itself would raise it, as if the help were a mistake's one line
        click.echo(context.get_help(), err=True)
        context.exit(Code.USAGE)


@commands.command("list")
def list_scenarios() -> None:
    """Scenarios, one line each."""
    known: list[Scenario | Suite] = [*SCENARIOS.values(), *SUITES.values()]
    for each in known:
        click.echo(f"{each.name:<14} {each.summary}")


@commands.command(context_settings={"show_default": True})
@click.argument("scenario", type=values.ScenarioName(sorted((*SCENARIOS, *SUITES))), metavar="SCENARIO")
@option("--host", callback=values.target, help="The server, tcp://HOST:PORT; else one is started for the run.")
@option("--users", type=click.IntRange(1, MOST_USERS), help="How many users; else as the scenario says.")
@option("--rate", type=positive(MOST_RATE), help="Requests/s of all open-rate users; else as the scenario says.")
@option("--duration", type=positive(MOST_SECONDS), help="Seconds under full load; else as the scenario says.")
@option(
    "--workers", "--processes", type=click.IntRange(0, MOST_WORKERS), default=0, help="Locust workers to start here."
)
@option("--external-workers", type=click.IntRange(0, MOST_WORKERS), default=0, help="Locust workers to wait for.")
@option("--bind", default="127.0.0.1:5557", callback=values.bind, help="Where external workers connect.")
@option("--wait", type=Number(0, MOST_SECONDS), default=5.0, help="Seconds to wait for the server.")
@option("--reply-timeout", type=positive(MOST_REPLY_SECONDS), default=5.0, help="Seconds a reply may take.")
@option("--report", metavar="DIR", help="Where to write the report, 'off' for nowhere; else reports/SCENARIO.")
@option("--control", metavar="PATH", help="The server's control socket: shares of its workers, and faults.")
@option("--container", metavar="NAME", help="The same for a server in a container of this host.")
@option("--kill-worker-at", metavar="S", type=Number(0, MOST_SECONDS), help="Kill -9 a server worker then.")
@option(
    "--fault", multiple=True, callback=values.scripted, metavar="KIND@S", help="Do that to the server then; repeatable."
)
@option(
    "--count",
    type=click.Choice([unit.value for unit in Unit]),
    help="What to compare of the server's own count, or off.",
)
@option("--tls-ca", metavar="FILE", default="", callback=values.certificate, help="Certificate that TLS users trust.")
@option("--gates", metavar="FILE", help="A TOML file whose gates replace the scenario's.")
@option("--without", default="", metavar="NAMES", help="Scenarios to leave out of several, such as proxy,rolling.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON; progress goes to standard error.")
def run(*, scenario: str, report: str | None, without: str, as_json: bool, **asked: Any) -> int:  # noqa: ANN401 - click's values
    """Run a scenario of the kit, several, or one of your own (FILE.py); the exit code is the verdict."""
    folder = _folder(report or f"reports/{Path(scenario).stem}")
    if scenario in SUITES:
        return _run_suite(SUITES[scenario], folder, without, asked, as_json=as_json)
    if without:
        raise click.UsageError(f"--without {without!r}: {scenario} is one scenario; this is for services and full")
    plan = _plan(_scenario(scenario), asked)
    with tempfile.TemporaryDirectory(prefix="prefork-loadtest-") as scratch:
        record = _carry_out(plan, (folder or Path(scratch)) / "server.log", asked["control"])
    return Code.NEVER_REACHED if record is None else conclude(record, folder, as_json=as_json)


def _scenario(name: str) -> Scenario:
    """The scenario of this name, or of this file."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    from prefork_loadtest import own

    try:
        return own.load(Path(name))
    except own.OwnFileError as error:
        raise click.UsageError(str(error)) from error


def _carry_out(plan: Plan, log: Path, control: str | None) -> Record | None:
    """The record of a plan, against the host or a server that is started for it; None if that did not start."""
    from prefork_loadtest import engine, hosted, needs
    from prefork_loadtest.server import StartFailed

    if plan.host:
        return engine.run(plan, _say)
    if plan.scenario.own is None:
        raise click.UsageError(f"SCENARIO {plan.scenario.name}: it starts no server; give --host tcp://HOST:PORT")
    if reason := needs.server():
        raise click.UsageError(f"SCENARIO {plan.scenario.name}: {reason}")
    if reason := needs.missing(plan.scenario.needs):
        return engine.unavailable(plan, reason)
    try:
        if plan.is_rolling:
            from prefork_loadtest import rolling

            return rolling.run(plan, log, _say)
        return hosted.run(plan, plan.scenario.own.arguments, log, _say, Path(control) if control else None)
    except StartFailed as error:
        click.echo(f"prefork-loadtest: {error}", err=True)
        return None


def _run_suite(suite: Suite, folder: Path | None, without: str, asked: dict[str, Any], *, as_json: bool) -> int:
    """Run several scenarios. What only makes sense for one is refused."""
    from prefork_loadtest import suite as suites

    given = [f"--{name.replace('_', '-')}" for name in ONE_ONLY if asked[name]]
    if given or folder is None or as_json:
        what = given[0] if given else "--json" if as_json else "--report off"
        raise click.UsageError(f"{what}: {suite.name} is many scenarios, each as its own table says; leave it out")
    left_out = {name.strip() for name in without.split(",") if name.strip()}
    if unknown := left_out - set(suite.scenarios):
        raise click.UsageError(f"--without {without!r}: {suite.name} has no {min(unknown)!r}")
    return suites.run(suite, left_out, folder, asked["workers"], _say)


def _plan(scenario: Scenario, asked: dict[str, Any]) -> Plan:
    """The plan of what was asked, the scenario's own figures where nothing was.

    Raises:
        click.UsageError: it cannot be run.
    """
    reach, host = _running(asked)
    duration_s = asked["duration"] or scenario.duration_s
    faults = list(asked["fault"])
    if asked["kill_worker_at"] is not None:
        faults.append(Fault(asked["kill_worker_at"], Kind.KILL))
    if not faults and (reach is not None or not host):
        faults = [replace(fault, at_s=fault.at_s * duration_s) for fault in scenario.faults]
    try:
        plan = Plan(
            scenario=scenario,
            host=host,
            users=asked["users"] or scenario.users,
            rate=asked["rate"] or scenario.rate,
            duration_s=duration_s,
            workers=asked["workers"],
            external_workers=asked["external_workers"],
            bind=asked["bind"],
            wait_s=asked["wait"],
            reply_timeout_s=asked["reply_timeout"],
            reach=reach,
            faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
            unit=_unit(scenario, asked),
            tls_ca=asked["tls_ca"],
        )
        plan.check()
        return replace(plan, own_gates=gates.load(Path(asked["gates"]), plan.phases) if asked["gates"] else ())
    except (PlanError, gates.GateError) as error:
        raise click.UsageError(str(error)) from error


def _unit(scenario: Scenario, asked: dict[str, Any]) -> Unit:
    """What to compare of the server's count: of a server that somebody else started, what holds for any framing."""
    if asked["count"]:
        unit = Unit(asked["count"])
        if unit is not Unit.OFF and asked["host"] and not (asked["control"] or asked["container"]):
            raise click.UsageError(
                f"--count {unit.value}: give --control PATH or --container NAME too, to ask the server"
            )
        return unit
    if asked["container"]:  # its health check makes requests too
        return Unit.OFF
    if not asked["host"]:
        return scenario.own.unit if scenario.own else Unit.OFF
    return Unit.BYTES if asked["control"] else Unit.OFF


def _running(asked: dict[str, Any]) -> tuple[Reach | None, str]:
    """How a server that runs is got at, and where it serves: None and "" for one that is to be started.

    Raises:
        click.UsageError: its container cannot be reached, or does not tell where it serves.
    """
    path, host = asked["control"], asked["host"] or ""
    if not asked["container"]:
        return Here(Path(path)) if path else None, host
    # Locust first: it makes the standard library's sockets cooperative, the Docker SDK's among them.
    from prefork_loadtest import engine  # noqa: F401
    from prefork_loadtest.container import Container, ContainerError

    try:
        found = Container(asked["container"], path or "")
    except ContainerError as error:
        raise click.UsageError(str(error)) from error
    if not host and not found.host:
        raise click.UsageError(f"--container {asked['container']!r}: it publishes no port, or several: give --host too")
    return found, host or found.host


def _folder(report: str) -> Path | None:
    """The folder of the report, made now: a run whose report cannot be written is refused before it starts."""
    if report == OFF:
        return None
    folder = Path(report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.UsageError(f"--report {report!r}: {error.strerror}; name a folder, or 'off'") from error
    return folder


def _say(line: str) -> None:
    click.echo(line, err=True)


def conclude(record: Record, folder: Path | None, *, as_json: bool) -> int:
    """Judge a record, write its report, print the verdict and return the exit code."""
    from prefork_loadtest import report, summary

    verdict = record.verdict()
    written, broken = None, ""
    try:
        written = report.write(record, verdict, folder) if folder else None
    except OSError as error:  # a full disk; what the run has shown is said all the same
        broken = not_whole(folder, error)
    if as_json:
        click.echo(json.dumps(report.table(record, verdict), indent=2))
    else:
        click.echo("\n".join(summary.lines(record, verdict)))
        if written is not None:
            click.echo(f"report  {written}")
    if broken:
        _say(broken)
        return verdict.code or Code.INVALID
    return verdict.code


@commands.command(context_settings={"show_default": True, "ignore_unknown_options": True})
@click.argument("target", required=False)
@click.argument("serve_options", nargs=-1, type=click.UNPROCESSED, metavar="[SERVE OPTIONS]...")
@option("--host", callback=values.target, help="The server that runs; else the first address that its status names.")
@option("--control", metavar="PATH", help="The control socket of the server that runs.")
@option("--container", metavar="NAME", help="The container of this host that it runs in.")
@option("--seed", type=click.IntRange(0), default=1, help="Decides the plan: the same seed, the same plan.")
@option("--duration", type=positive(MOST_SECONDS), default=CHAOS.duration_s, help="Seconds under full load.")
@option("--users", type=click.IntRange(1, MOST_USERS), default=CHAOS.users, help="How many users.")
@option("--rate", type=positive(MOST_RATE), default=CHAOS.rate, help="Requests/s of all open-rate users.")
@option("--faults", default=",".join(Kind), callback=values.kinds, help="Kinds of faults.")
@option("--hold", type=positive(MOST_HOLD_S), default=3.0, help="Seconds that a stopped process stays so, at most.")
@option("--settle", type=positive(MOST_SECONDS), default=GIVE_UP_S, help="Seconds to settle after each fault.")
@option("--probe", metavar="SEND=>EXPECT", callback=values.probe, help="The request, for a service that is no echo.")
@option("--reply-timeout", type=positive(MOST_REPLY_SECONDS), default=5.0, help="Seconds a reply may take.")
@option("--report", metavar="DIR", default="reports/chaos", help="Where to write the report, 'off' for nowhere.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the planned faults and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON; progress goes to standard error.")
def chaos(
    *,
    target: str | None,
    serve_options: tuple[str, ...],
    report: str,
    only_plan: bool,
    as_json: bool,
    **asked: Any,  # noqa: ANN401 - click's values
) -> int:
    """Signals, stopped and killed processes, planned from a seed, under load whose every answer is proven.

    Against TARGET, served here with any options of `prefork serve` (none: echo), or, with --control or --container,
    against a server that runs. The load users prove an echo; for another service of lines give --probe. In it {n}
    stands for a number that no other request has. --hold must be shorter than the server's --hang-timeout.
    """
    if asked["hold"] >= asked["reply_timeout"]:
        raise click.UsageError(f"--hold {asked['hold']:g}: it must be shorter than --reply-timeout")
    planned = _faults(asked)
    if only_plan:
        click.echo("\n".join(map(str, planned)))
        return Code.PASSED
    serve = _serve(target, serve_options, asked)
    folder = _folder(report)
    from prefork_loadtest import chaos, server

    with tempfile.TemporaryDirectory(prefix="prefork-chaos-") as scratch:
        log = (folder or Path(scratch)) / "server.log"
        try:
            path = Path(asked["control"]) if asked["control"] else None
            record = chaos.run(_chaos_plan(planned, asked, runs=not serve), serve, log, _say, path)
        except server.StartFailed as error:
            click.echo(f"prefork-loadtest: {error}", err=True)
            return Code.NEVER_REACHED
        except (chaos.Refused, PlanError) as error:
            raise click.UsageError(str(error)) from error
    return conclude(record, folder, as_json=as_json)


def _faults(asked: dict[str, Any]) -> tuple[Fault, ...]:
    try:
        return faultplan.plan(asked["seed"], asked["duration"], asked["faults"], asked["hold"])
    except faultplan.FaultError as error:
        raise click.UsageError(str(error)) from error


def _serve(target: str | None, options: tuple[str, ...], asked: dict[str, Any]) -> tuple[str, ...]:
    """Arguments of the server to start; none for one that runs."""
    if target is None and (asked["control"] or asked["container"] or asked["host"]):
        if not asked["control"] and not asked["container"]:
            raise click.UsageError("--host: give --control PATH or --container NAME too; its processes are found by it")
        return ()
    if target is not None and target.startswith("-"):
        raise click.UsageError(f"{target!r}: no such option; options of the server come after its TARGET")
    return (target or "echo", *options)


def _chaos_plan(planned: tuple[Fault, ...], asked: dict[str, Any], *, runs: bool) -> Plan:
    reach, host = _running(asked) if runs else (None, asked["host"] or "")
    return Plan(
        scenario=CHAOS,
        host=host,
        users=asked["users"],
        rate=asked["rate"],
        duration_s=asked["duration"],
        reply_timeout_s=asked["reply_timeout"],
        reach=reach,
        faults=planned,
        settle_s=asked["settle"],
        probe=asked["probe"] or "",
        seed=asked["seed"],
        unit=Unit.OFF if runs else Unit.BYTES,
    )


@commands.command()
@click.argument("report", metavar="REPORT", type=click.Path(path_type=Path))
@click.option("--gates", "gates_file", metavar="FILE", help="A TOML file whose gates replace the run's own.")
def verdict(report: Path, gates_file: str | None) -> int:
    """Judge a finished run again, from its report.json (or the folder that holds it)."""
    from prefork_loadtest import record, summary

    path = report / "report.json" if report.is_dir() else report
    try:
        found = record.load(path)
        judged = found.verdict(gates.load(Path(gates_file), PHASES) if gates_file else None)
    except OSError as error:
        raise click.UsageError(f"report {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise click.UsageError(f"report {str(path)!r}: {error}") from error
    click.echo("\n".join(summary.lines(found, judged)))
    return judged.code


@commands.command(context_settings={"show_default": True})
@click.argument("file", type=click.Path(path_type=Path), default="load.py")
@click.option("--framing", type=click.Choice(sorted(FRAMINGS)), default="lines", help="Where a frame ends.")
@click.option(
    "--target", metavar="MODULE:NAME", help="What `prefork serve` serves for each run; else give --host then."
)
def init(file: Path, framing: str, target: str | None) -> int:
    """Write a scenario for a service of your own, to change and to run: its framing, a request, the right answer."""
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise click.UsageError(f"FILE {str(file)!r}: write a name that Python can import, such as load.py")
    if target is not None and not all(part.isidentifier() for part in target.replace(":", ".").split(".")):
        raise click.UsageError(f"--target {target!r}: write MODULE:NAME, such as app:service")
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text(file.stem, framing, target))
    except OSError as error:
        raise click.UsageError(f"FILE {str(file)!r}: {error.strerror}; name another") from error
    click.echo(f"{file} is written; change what is marked CHANGE, then: prefork-loadtest run {file}")
    return Code.PASSED


@commands.command()
@option("--report", metavar="DIR", default="reports/demo", show_default=True, help="Where to write the report.")
def demo(report: str) -> int:
    """Start a server with two workers, load it, kill one of them in the middle, and judge."""
    folder = _folder(report)
    from prefork_loadtest import demo
    from prefork_loadtest.server import StartFailed

    if folder is None:
        raise click.UsageError("--report 'off': the demo shows its report; name a folder")
    try:
        record = demo.run(folder / "server.log", _say)
    except StartFailed as error:
        click.echo(f"prefork-loadtest: {error}", err=True)
        return Code.NEVER_REACHED
    return conclude(record, folder, as_json=False)
