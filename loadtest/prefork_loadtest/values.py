"""How the command line reads single values: each checked by itself, each refusal naming the value and the cure.

What two options mean together is the plan's to check.
"""

from __future__ import annotations

import math
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from prefork_loadtest import faultplan
from prefork_loadtest.proof import Probe
from prefork_wire import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork_loadtest.faultplan import Fault, Kind

ENVIRONMENT = "PREFORK_LOADTEST"
Command = TypeVar("Command", bound="Callable[..., Any]")


class Number(click.FloatRange):
    """A number within bounds. Click alone lets `nan` through, which is within all bounds and none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's
        """The number that was written."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class ScenarioName(click.Choice[str]):
    """The name of a scenario or suite of the kit, or a file with one of somebody's own."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 - click's
        """What was written."""
        if not str(value).endswith(".py"):
            return super().convert(value, param, ctx)
        if not Path(value).is_file():
            self.fail(f"{value!r}: no such file; `prefork-loadtest init {value}` writes one.", param, ctx)
        return str(value)


def positive(most: float) -> Number:
    """A number above 0."""
    return Number(0, most, min_open=True)


def target(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """An address to connect to."""
    if value is None:
        return None
    try:
        address = parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if address.kind == "fd" or (address.kind == "tcp" and address.port == 0):
        raise click.BadParameter(f"{value!r} is nothing to connect to; write tcp://HOST:PORT")
    return value


def kinds(_: click.Context, __: click.Parameter, value: str) -> tuple[Kind, ...]:
    """Kinds of faults, such as `hup,kill`."""
    try:
        return faultplan.kinds_of(value)
    except faultplan.FaultError as error:
        raise click.BadParameter(str(error)) from error


def scripted(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Fault, ...]:
    """Faults with their moments, such as `hup@5`."""
    try:
        return tuple(map(faultplan.scripted, values))
    except faultplan.FaultError as error:
        raise click.BadParameter(str(error)) from error


def probe(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """`SEND=>EXPECT`."""
    try:
        return value and str(Probe(value, 0))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def bind(_: click.Context, __: click.Parameter, value: str) -> tuple[str, int]:
    """`HOST:PORT` to listen on."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:  # noqa: PLR2004 - ports
        raise click.BadParameter(f"{value!r}: write HOST:PORT, such as 0.0.0.0:5557")
    return host, int(port)


def certificate(_: click.Context, __: click.Parameter, value: str) -> str:
    """A file (PEM) with a certificate to trust; "" for none."""
    if value:
        try:
            ssl.create_default_context(cafile=value)
        except ssl.SSLError as error:
            raise click.BadParameter(f"{value!r}: no certificate (PEM) in it") from error
        except OSError as error:
            raise click.BadParameter(f"{value!r}: {error.strerror}") from error
    return value


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:  # noqa: ANN401 - whatever click takes
    """An option that the environment can give too, as PREFORK_LOADTEST_ and its name."""
    variable = names[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=f"{ENVIRONMENT}_{variable}", show_envvar=True, **settings)
