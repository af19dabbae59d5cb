"""The planned faults of a run, carried out one after another: each in a phase of its own, each waited for.

It owns the order and the books of what became of each fault. When one does not settle the rest is not struck: what
would come after it would prove nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from prefork_loadtest.faultplan import Fault, Kind
from prefork_loadtest.faults import GIVE_UP_S, STRIKES, Strike, Subject
from prefork_loadtest.gates import RUN
from prefork_loadtest.ledger import STEADY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prefork_loadtest.faults import Outcome

LOOK_S = 0.1
"""Seconds between two looks at a server that has not settled."""
REST_S = 1.0
"""Seconds of undisturbed load after a fault, however late the next one is."""
LAST_LOOK_S = 5.0


class Striker(Protocol):
    """What the loop of a run needs of whatever strikes at its server. See `Injector`, and `rolling.Restarts`."""

    @property
    def is_active(self) -> bool: ...  # noqa: D102 - as of `Injector`

    @property
    def is_done(self) -> bool: ...  # noqa: D102

    @property
    def is_broken(self) -> bool: ...  # noqa: D102

    @property
    def killed(self) -> frozenset[int]: ...  # noqa: D102

    def tick(self, into_s: float) -> None: ...  # noqa: D102

    def end(self, *, look: bool) -> None: ...  # noqa: D102

    def troubles(self) -> list[str]: ...  # noqa: D102

    def figures(self) -> dict[str, dict[str, float]]: ...  # noqa: D102


class Injector:
    """Strikes what is planned, from inside the loop of a run.

    Args:
        planned: the faults, in order.
        subject: the server.
        enter: begins a phase.
        mark: notes what happens when.
        failed: how many requests of a phase have failed so far.
        give_up_s: seconds that the server may take to settle after each.
    """

    def __init__(
        self,
        planned: Sequence[Fault],
        subject: Subject,
        enter: Callable[[str], None],
        mark: Callable[[str], None],
        failed: Callable[[str], int],
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._planned = list(planned)
        self._subject = subject
        self._enter = enter
        self._mark = mark
        self._failed = failed
        self._give_up_s = give_up_s
        self._active: Strike | None = None
        self._is_late = False
        self._failed_before = 0
        self._next_look = self._over = 0.0
        self._books: dict[Kind, list[tuple[Outcome, int]]] = {}
        self._at_end: dict[str, float] = {}
        self._broken = False

    @property
    def is_active(self) -> bool:
        """Whether a fault is under way."""
        return self._active is not None

    @property
    def is_done(self) -> bool:
        """Whether all has been struck, and the server has settled or will not."""
        return self._active is None and (self._broken or not self._planned)

    @property
    def is_broken(self) -> bool:
        """Whether the server did not settle after a fault."""
        return self._broken

    @property
    def killed(self) -> frozenset[int]:
        """The workers that were killed, by pid."""
        outcomes = (outcome for booked in self._books.values() for outcome, _ in booked)
        return frozenset(outcome.killed for outcome in outcomes if outcome.killed is not None)

    def tick(self, into_s: float) -> None:
        """Strike if it is time to, or watch what was struck; `into_s` is seconds under full load.

        Raises:
            ControlError: a fault cannot be carried out.
        """
        now = time.monotonic()
        if self._active is not None:
            if now >= self._next_look:
                self._watch(self._active)
                self._next_look = now + LOOK_S
                self._note_delay(into_s)
        elif not self.is_done and into_s >= self._planned[0].at_s and now >= self._over + REST_S:
            self._strike(self._planned.pop(0))

    def _strike(self, fault: Fault) -> None:
        strike = STRIKES[fault.kind](fault, self._subject, self._give_up_s)
        self._enter(fault.kind.phase)
        self._failed_before = self._failed(fault.kind.phase)
        self._active, self._is_late = strike, False
        self._mark(strike.begin())

    def _note_delay(self, into_s: float) -> None:
        """Say once that the next fault is due, and what it waits for."""
        if self._active is None or self._is_late or not self._planned or into_s < self._planned[0].at_s:
            return
        self._is_late = True
        self._mark(f"{self._planned[0].kind.value} is due, and waits until {self._active.fault.kind.value} is over")

    def _watch(self, strike: Strike) -> None:
        known = strike.outcome.settled_s
        over = strike.watch()
        settled, kind = strike.outcome.settled_s, strike.fault.kind
        if known is None and settled is not None:
            self._mark(f"{kind.value} settled after {settled:.2f} s{_replaced(strike.outcome)}")
        if not over:
            return
        self._active, self._over = None, time.monotonic()
        if settled is None:
            self._broken = True
            self._mark(f"{kind.value} NOT settled within {self._give_up_s:g} s: {strike.unsettled}")
        failed = self._failed(kind.phase) - self._failed_before
        self._books.setdefault(kind, []).append((strike.outcome, failed))
        if failed:
            self._mark(f"{failed} requests failed during {kind.value}")
        self._enter(STEADY)

    def end(self, *, look: bool) -> None:
        """Put right what still lasts, and take the last look at the server: who is there that should not be."""
        if self._active is not None:
            self._active.undo()
        deadline = time.monotonic() + LAST_LOOK_S
        while look:
            status = self._subject.look()
            remains = self._subject.census.remains(status)
            self._at_end = {"workers": len(status.serving), "target": float(self._subject.workers or 0)}
            if self._subject.census.is_possible:
                self._at_end |= {"zombies": len(remains.zombies), "orphans": len(remains.orphans)}
            look = bool(self._subject.unsettled(status)) and not self._broken and time.monotonic() < deadline
            if look:
                time.sleep(LOOK_S)

    def troubles(self) -> list[str]:
        """What was planned and did not take place, one line."""
        left = len(self._planned) + (self._active is not None)
        if not left or self._broken:
            return []
        return [f"{left} planned faults were not injected, or not waited for: the run ended before"]

    def figures(self) -> dict[str, dict[str, float]]:
        """What gates may ask, by phase; and, of `run`, how the server was at the end."""
        return {kind.phase: _figures(kind, booked) for kind, booked in self._books.items()} | {RUN: self._at_end}


def _replaced(outcome: Outcome) -> str:
    return "" if outcome.replaced_s is None else f", replaced after {outcome.replaced_s:.2f} s"


def _figures(kind: Kind, booked: list[tuple[Outcome, int]]) -> dict[str, float]:
    """The figures of all faults of one kind; times are the longest of them."""
    settled = [outcome.settled_s for outcome, _ in booked if outcome.settled_s is not None]
    figures = {"struck": float(len(booked)), "unsettled": float(len(booked) - len(settled))}
    if settled:
        figures["settled_s"] = max(settled)
    if kind is Kind.KILL:
        figures["in_flight"] = float(sum(outcome.held for outcome, _ in booked))
        figures["excess"] = float(sum(max(0, failed - outcome.held) for outcome, failed in booked))
        replaced = [outcome.replaced_s for outcome, _ in booked if outcome.replaced_s is not None]
        if len(replaced) == len(booked):
            figures["replaced_s"] = max(replaced)
    return figures
