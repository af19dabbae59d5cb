"""Gates: one comparison each, scoped by phase, such as `kill.failed <= kill.in_flight`.

Pure: text and figures in, results out. A gate over a phase or a figure that the run does not have fails: what was not
measured was not passed. The file is TOML with one key:

    gates = ["steady.failed == 0", "kill.failed <= kill.in_flight", "overload.goodput >= 0.9 * steady.goodput"]
"""

from __future__ import annotations

import operator
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefork_loadtest.ledger import FAULT_PHASES, KILL, SPIKE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

RUN = "run"
"""The phase that means all of them together."""

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9, "max": 100.0}
TIMES = tuple(
    f"{percentile}{kind}_{unit}"
    for percentile in PERCENTILES
    for kind in ("", "_intended", "_busy")
    for unit in ("us", "ms")
)
LOSSES = frozenset({"failed", "failed_ratio", "excess"})
"""Figures that only failed requests make worse."""
COUNTS = ("requests", "failed", "wrong", "busy", "reopened", "rate", "goodput", "failed_ratio")
OF_FAULTS = ("struck", "unsettled", "settled_s")
OF_KILLS = ("in_flight", "excess", "replaced_s")
OF_RUNS = (
    *("workers", "target", "zombies", "orphans", "log_errors", "exit_code", "sent", "served"),
    *("rss_start", "rss_end", "rss_growth"),
)
FIGURES = frozenset({*TIMES, *COUNTS, *OF_FAULTS, *OF_KILLS, *OF_RUNS, "recovery_s"})
"""Every figure a gate may name, of the phases that have it: see `known`."""

_GATE = re.compile(
    r"\s*(\w+)\.(\w+)\s*(==|!=|<=|>=|<|>)\s*(?:(?:(\d+(?:\.\d+)?)\s*\*\s*)?"
    r"(\w+)\.([a-z]\w*)|(-?\d+(?:\.\d+)?))\s*"
)


class GateError(ValueError):
    """A gate that cannot be read. The text is one line that names the gate and the cure."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One comparison of a figure with a number, or with another figure `factor` times."""

    text: str
    left: tuple[str, str]
    operator: str
    right: tuple[str, str] | float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a gate: `detail` has the figures as they were, in one line; `is_loss`: failures are counted."""

    gate: str
    passed: bool
    detail: str
    is_loss: bool = False


def known(phase: str) -> frozenset[str]:
    """The figures that a phase can have at all."""
    figures = {*TIMES, *COUNTS}
    if phase in FAULT_PHASES:
        figures |= {*OF_FAULTS, *(OF_KILLS if phase == KILL else ())}
    if phase == RUN:
        figures |= {*OF_RUNS}
    if phase == SPIKE:
        figures |= {"recovery_s"}
    return frozenset(figures)


def parse(text: str, phases: Collection[str]) -> Gate:
    """The gate that `text` says.

    Args:
        text: `phase.figure OPERATOR number`, or `phase.figure OPERATOR phase.figure`, with `number *` before it or not.
        phases: the phases that exist; `run` always does.

    Raises:
        GateError: it says nothing, or names an unknown phase or figure.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise GateError(f"gate {text!r}: write it as PHASE.FIGURE OPERATOR NUMBER, such as 'steady.failed == 0'")
    phase, figure, comparison, factor, other_phase, other_figure, number = match.groups()
    left = _named(text, phase, figure, phases)
    right = float(number) if number is not None else _named(text, other_phase, other_figure, phases)
    return Gate(" ".join(text.split()), left, comparison, right, float(factor or 1))


def _named(text: str, phase: str, figure: str, phases: Collection[str]) -> tuple[str, str]:
    if phase != RUN and phase not in phases:
        raise GateError(f"gate {text!r}: no phase {phase!r}; there are {', '.join((*phases, RUN))}")
    if figure not in FIGURES:
        raise GateError(f"gate {text!r}: no figure {figure!r}; there are {', '.join(sorted(FIGURES))}")
    if figure not in known(phase):
        raise GateError(f"gate {text!r}: {phase} has no {figure}; it has {', '.join(sorted(known(phase)))}")
    return phase, figure


def load(path: Path, phases: Collection[str]) -> tuple[Gate, ...]:
    """The gates of a TOML file.

    Raises:
        GateError: the file cannot be read, is not TOML, has no gates, or one of them cannot be read.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GateError(f"gates file {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GateError(f"gates file {str(path)!r}: {error}") from error
    gates = table.get("gates")
    if set(table) != {"gates"} or not isinstance(gates, list) or not gates:
        raise GateError(f"gates file {str(path)!r}: it has one key, gates = [...], with at least one gate")
    return tuple(parse(gate if isinstance(gate, str) else repr(gate), phases) for gate in gates)


def judge(gate: Gate, figures: Mapping[str, Mapping[str, float]]) -> Result:
    """Hold a gate against the figures of a run, `{phase: {figure: value}}`. A missing figure fails."""
    left = _value(gate.left, figures)
    right = gate.right if isinstance(gate.right, float) else _value(gate.right, figures)
    if right is not None:
        right *= gate.factor
    if left is None or right is None:
        missing = gate.left if left is None else gate.right
        name = ".".join(missing) if isinstance(missing, tuple) else str(missing)
        return Result(gate.text, passed=False, detail=f"the run has no {name}")
    against = "" if isinstance(gate.right, float) else f", against {_number(right)}"
    detail = f"measured {_number(left)}{against}"
    is_loss = gate.left[1] in LOSSES
    return Result(gate.text, passed=OPERATORS[gate.operator](left, right), detail=detail, is_loss=is_loss)


def _value(name: tuple[str, str], figures: Mapping[str, Mapping[str, float]]) -> float | None:
    phase, figure = name
    return figures.get(phase, {}).get(figure)


def _number(value: float) -> str:
    """Whole numbers in full, others to three places."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3f}"
