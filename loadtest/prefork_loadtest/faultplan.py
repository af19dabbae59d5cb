"""The faults of a run, planned before it starts: which, when, and what must hold for each. Pure.

The same seed gives the same plan, on every machine: a run that found something can be told in one number.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST_GAP_S = 4.0
"""Two faults begin at least so far apart, in the plan. In the run the second also waits until the first is over."""
INTERVAL_S = 6.0
"""Seconds from one fault to the next, on average, where the run is long enough for several rounds."""
LEAD_S = 1.0
"""Seconds of undisturbed load before the first fault, at least."""
HOLD_S = 2.0
"""A process stays stopped so long where nothing else was said."""
LEAST_HOLD = 0.3
"""A stopped process stays so for this part of the longest hold, at least."""


class Kind(StrEnum):
    """What can be done to a server. The value is what is typed; all but the last are planned events."""

    HUP = "hup"
    USR2 = "usr2"
    TTIN = "ttin"
    TTOU = "ttou"
    STOP = "stop"
    MASTER_STOP = "master-stop"
    KILL = "kill"

    @property
    def phase(self) -> str:
        """The phase that requests are booked to while it lasts: named after what the signal asks for."""
        return {"hup": "reload", "usr2": "upgrade"}.get(self.value, self.value.replace("-", "_"))


SUMMARIES = {
    Kind.HUP: "HUP: reload",
    Kind.USR2: "USR2: upgrade",
    Kind.TTIN: "TTIN: one worker more",
    Kind.TTOU: "TTOU: one worker fewer",
    Kind.STOP: "STOP and CONT of a worker",
    Kind.MASTER_STOP: "STOP and CONT of the master",
    Kind.KILL: "KILL of a worker",
}
HELD = frozenset({Kind.STOP, Kind.MASTER_STOP})
"""What lasts: the process is stopped, and continued later."""


class FaultError(ValueError):
    """What was asked for cannot be planned. The text is one line with the option, the value and the cure."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault.

    Attributes:
        at_s: not before this many seconds under full load.
        kind: what is done.
        hold_s: how long the process stays stopped; 0 for what does not last.
    """

    at_s: float
    kind: Kind
    hold_s: float = 0.0

    def __str__(self) -> str:
        hold = f", {self.hold_s:.1f} s" if self.hold_s else ""
        return f"{self.at_s:6.1f} s  {SUMMARIES[self.kind]}{hold}"


def kinds_of(text: str) -> tuple[Kind, ...]:
    """The kinds that a list such as `hup,kill` names, each once, in the order of `Kind`.

    Raises:
        FaultError: there is none, one is unknown, or TTIN and TTOU are not both there or both absent.
    """
    words = {word.strip() for word in text.split(",")}
    known = {kind.value for kind in Kind}
    if not words <= known:
        unknown = ", ".join(sorted(words - known))
        raise FaultError(f"--faults {text!r}: no fault {unknown!r}; there are {', '.join(kind.value for kind in Kind)}")
    if ("ttin" in words) != ("ttou" in words):
        raise FaultError(f"--faults {text!r}: give both ttin and ttou; the worker count must be at the end what it was")
    return tuple(kind for kind in Kind if kind.value in words)


def scripted(text: str) -> Fault:
    """The fault that `KIND@SECONDS` says, such as `hup@5`; `stop@5:2` stops for two seconds.

    Raises:
        FaultError: it says none.
    """
    word, at, when = text.partition("@")
    moment, _, hold = when.partition(":")
    try:
        kind = Kind(word)
        fault = Fault(float(moment), kind, float(hold) if hold else HOLD_S if kind in HELD else 0.0)
    except ValueError:
        at = ""
        fault = Fault(0.0, Kind.KILL)
    if (
        not at
        or not 0 <= fault.at_s < math.inf
        or not 0 <= fault.hold_s < math.inf
        or (hold and fault.kind not in HELD)
    ):
        known = ", ".join(kind.value for kind in Kind)
        raise FaultError(f"--fault {text!r}: write KIND@SECONDS, stop@SECONDS:HOLD; kinds are {known}")
    return fault


def plan(seed: int, duration_s: float, kinds: tuple[Kind, ...], longest_hold_s: float) -> tuple[Fault, ...]:
    """The faults of a run: whole rounds, each of every kind once in an order of its own.

    So every kind comes, and equally often, and the number of workers is at the end what it was. An upgrade never stands
    between TTIN and TTOU: the new master starts as many workers as its settings say.

    Args:
        seed: decides order, times and holds.
        duration_s: seconds under full load.
        kinds: of faults, each once.
        longest_hold_s: seconds a stopped process stays so, at most.

    Raises:
        FaultError: not even one round fits into the duration.
    """
    room = duration_s - LEAD_S
    rounds = max(1, int(room / INTERVAL_S / len(kinds)))
    interval = room / (rounds * len(kinds))
    if interval < LEAST_GAP_S:
        least = LEAD_S + LEAST_GAP_S * len(kinds)
        raise FaultError(f"--duration {duration_s:g}: {len(kinds)} kinds of faults need {least:g} s at least")
    rng = random.Random(seed)  # noqa: S311 - to be repeated, not to be kept secret
    faults = []
    for number, kind in enumerate(kind for _ in range(rounds) for kind in _round(rng, kinds)):
        at_s = LEAD_S + number * interval + rng.random() * (interval - LEAST_GAP_S)
        hold_s = longest_hold_s * (LEAST_HOLD + rng.random() * (1 - LEAST_HOLD)) if kind in HELD else 0.0
        faults.append(Fault(round(at_s, 3), kind, round(hold_s, 3)))
    return tuple(faults)


def _round(rng: random.Random, kinds: tuple[Kind, ...]) -> list[Kind]:
    """Every kind once: TTIN before TTOU, and USR2 not between them."""
    order: list[Kind] = [kind for kind in kinds if kind is not Kind.USR2]
    rng.shuffle(order)
    places = list(range(len(order) + 1))
    if Kind.TTIN in order:
        first, second = sorted((order.index(Kind.TTIN), order.index(Kind.TTOU)))
        order[first], order[second] = Kind.TTIN, Kind.TTOU
        places = [place for place in places if not first < place <= second]
    if Kind.USR2 in kinds:
        order.insert(rng.choice(places), Kind.USR2)
    return order


def gates(kinds: Iterable[Kind]) -> tuple[str, ...]:
    """What must hold in a run with faults of these kinds.

    A planned event loses nothing. A killed worker takes no more with it than it held, each time. After each fault the
    server settles, and at the end it is as it was.
    """
    texts: list[str] = []
    for kind in dict.fromkeys(kinds):
        phase = kind.phase
        lost: tuple[str, ...] = (f"{phase}.failed == 0",)
        if kind is Kind.KILL:
            lost = (f"{phase}.failed <= {phase}.in_flight", f"{phase}.excess == 0", f"{phase}.replaced_s <= 5")
        texts += [f"{phase}.requests > 0", *lost, f"{phase}.unsettled == 0"]
    return (*texts, "run.workers == run.target", "run.zombies == 0", "run.orphans == 0")
