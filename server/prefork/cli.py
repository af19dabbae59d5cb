"""The command line: what a person types, and what they read back.

Each command reads like a contents page: settings, log, bind, run the master, return the exit code. It decides nothing.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from prefork import __version__
from prefork.errors import ControlError, PreforkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork.settings import Settings

_GROUPS: Final = {
    "binding": "Binding",
    "workers": "Workers",
    "clocks": "Clocks (seconds)",
    "recycling": "Recycling (the replacement is ready before the old worker leaves)",
    "limits": "Limits",
    "edge": "Edge (TLS, PROXY protocol)",
    "process": "Process",
    "logs": "Logs",
}


class _ServeCommand(click.Command):
    """`serve` and `check`: options in groups, and the table of signals."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group, then the signals and the exit codes."""
        from prefork.master.signals import table
        from prefork.settings import options

        known = options()
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in _GROUPS}
        other: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                option = known.get(parameter.name or "")
                (rows[option.group] if option else other).append(record)
        for group, title in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(rows[group])
        with formatter.section("Other"):
            formatter.write_dl(other)
        with formatter.section("Signals to the master"):
            formatter.write_dl(table())
        with formatter.section("Exit codes"):
            formatter.write_dl([
                ("0", "clean stop"),
                ("2", "settings or usage"),
                ("3", "the target did not load, or no worker ever became ready"),
                ("4", "an address is not available"),
            ])  # fmt: skip


class _Program(click.Group):
    """The whole program: errors that a person can act on become one line each and an exit code.

    `serve` and `check` are made when they are asked for: their options come from the settings, which `--version` and
    the commands to a running server need not wait for.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, `serve` first."""
        return [*_SETTINGS_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command by its name."""
        callback = _SETTINGS_COMMANDS.get(name)
        if callback is not None:
            summary = (callback.__doc__ or "").partition(":")[0]
            return click.command(name, cls=_ServeCommand, short_help=summary)(_with_settings(callback))
        return super().get_command(ctx, name)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        """Run a command."""
        try:
            return super().invoke(ctx)
        except PreforkError as error:
            _fail(error)
        except BrokenPipeError:  # the reader of what we print has left, as `head` does
            sys.stderr.close()
            sys.exit(1)


def _fail(error: PreforkError) -> NoReturn:
    for line in str(error).splitlines():
        click.echo(f"prefork: {line}", err=True)
    sys.exit(error.exit_code)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="prefork", message="%(prog)s %(version)s")
def main() -> None:
    """A preforking server for any TCP protocol: one listener, many workers, nothing lost."""


def _with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command every option of the settings, as text: they are parsed, and all faults told, in one place."""
    from prefork.settings import options

    command = click.option("--config", metavar="FILE", help="settings file  [default: prefork.toml, pyproject.toml]")(
        command
    )
    for name, option in reversed(options().items()):
        flag = "--" + name.replace("_", "-")
        text = f"{option.help}  [default: {option.default}]"
        if option.flag:
            command = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)(command)
        else:
            command = click.option(flag, name, metavar=option.metavar, multiple=option.many, default=None, help=text)(
                command
            )
    return click.argument("target", required=False, default="")(command)


def _load(target: str, config: str | None, given: dict[str, Any]) -> Settings:
    from prefork import configuration

    texts: dict[str, list[str]] = {}
    for name, value in given.items():
        if isinstance(value, bool):
            texts[name] = ["on" if value else "off"]
        elif value:
            texts[name] = [value] if isinstance(value, str) else list(value)
    return configuration.load(target, texts, config)


def _serve(target: str, config: str | None, **given: Any) -> None:  # noqa: ANN401 - click's own
    """Serve TARGET: a built-in service (see `prefork services`), or module:attribute of your own.

    Every option can also be given as PREFORK_NAME in the environment, or as a key of prefork.toml or of [tool.prefork]
    in pyproject.toml; the command line wins, then the environment.
    """
    from prefork import server

    sys.exit(server.run(lambda: _load(target, config, given)))


def _check(target: str, config: str | None, **given: Any) -> None:  # noqa: ANN401 - click's own
    """Check settings and TARGET: import it as `serve` would, open no socket, and say every fault at once."""
    from prefork import server

    settings = _load(target, config, given)
    click.echo(server.check(settings))


_SETTINGS_COMMANDS: Final = {"serve": _serve, "check": _check}


@main.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def services(*, as_json: bool) -> None:
    """List the built-in services.

    Each with the port it gets from the services database.
    """
    from prefork.services import BUILT_IN

    rows = []
    for service in BUILT_IN.values():
        port, source = service.real_port()
        rows.append({"name": service.name, "port": port, "source": source, "summary": service.summary})
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['name']:<9} {row['port']:>5}/tcp  {row['summary']}  ({row['source']})")


# Commands to a running server. ---------------------------------------------------------------------------------------

_control = click.option(
    "--control", metavar="PATH", help="the server's control socket  [default: the one that runs here]"
)
_timeout = click.option("--timeout", type=float, default=60.0, show_default=True, help="seconds to wait for the answer")


@main.command()
@_control
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def status(control: str | None, *, as_json: bool) -> None:
    """Show a running server.

    Its listeners, its workers, and what they have done.
    """
    from prefork.master.control import ask, find

    reply = ask(control or find(), 5.0, command="status")
    click.echo(json.dumps(reply) if as_json else _status_text(reply))


def _status_text(reply: dict[str, Any]) -> str:
    head = f"prefork {reply['version']}  {reply['target']}  {reply['state']}  pid {reply['pid']}"
    lines = [f"{head}  generation {reply['generation']}  up {reply['uptime_s']:.0f} s"]
    for one in reply["listeners"]:
        queued = "" if one["queued"] is None else f"  {one['queued']} queued of {one['backlog']}"
        lines.append(f"  {one['address']}{queued}")
    lines.append("  slot      pid  gen state       open  accepted    requests  errors    MiB      age")
    for w in reply["workers"]:
        who = f"  {w['slot']:>4} {w['pid']:>8} {w['generation']:>4} {w['state']:<9}"
        did = f"{w['connections']:>7}{w['accepted']:>10}{w['requests']:>12}{w['errors']:>8}"
        lines.append(f"{who}{did}{w['rss_bytes'] / (1 << 20):>7.1f}{w['age_s']:>7.0f} s")
    for one in reply["certificates"]:
        day = time.strftime("%Y-%m-%d", time.gmtime(one["expires"]))
        lines.append(f"  certificate until {day}: {', '.join(one['names']) or one['file']}")
    totals = reply["totals"]
    lines.append(
        f"  in all: {totals['accepted']} accepted, {totals['refused']} refused, {totals['requests']} requests, "
        f"{totals['errors']} errors, {totals['workers_lost']} workers lost"
    )
    if totals["log_dropped"]:
        lines.append(f"  {totals['log_dropped']} log lines could not be written")
    return "\n".join(lines)


@main.command()
@_control
@_timeout
@click.option("--now", is_flag=True, help="drop what is open instead of finishing it")
def stop(control: str | None, timeout: float, *, now: bool) -> None:
    """Stop a running server, and wait for its end."""
    from prefork.master.control import conversation, find

    for reply in conversation(control or find(), timeout, command="stop", now=now):
        if "error" in reply:
            raise ControlError(str(reply["error"]))
    # the connection closes when the server is gone
    click.echo("stopped")


@main.command()
@_control
@_timeout
def reload(control: str | None, timeout: float) -> None:
    """Replace the workers by new ones.

    Settings and target are read anew; the old workers leave once the new ones are ready. On failure nothing changes.
    """
    from prefork.master.control import ask, find

    reply = ask(control or find(), timeout, command="reload")
    click.echo(f"reloaded: generation {reply['generation']} serves")


@main.command()
@_control
@click.argument("workers", type=int)
def scale(control: str | None, workers: int) -> None:
    """Set the number of WORKERS of a running server."""
    from prefork.master.control import ask, find

    ask(control or find(), 5.0, command="scale", workers=workers)
    click.echo(f"scaling to {workers} workers")


@main.command(name="reopen-logs")
@_control
def reopen_logs(control: str | None) -> None:
    """Let a running server reopen its log."""
    from prefork.master.control import ask, find

    ask(control or find(), 5.0, command="reopen-logs")
    click.echo("reopened")


@main.command()
@_control
@_timeout
def upgrade(control: str | None, timeout: float) -> None:
    """Replace the running program by a new one.

    A new master, possibly a new version, takes over the same open sockets; the old one leaves once it serves. On
    failure nothing changes.
    """
    from prefork.master.control import ask, find

    ask(control or find(), timeout, command="upgrade")
    click.echo("upgraded: the new master serves")
