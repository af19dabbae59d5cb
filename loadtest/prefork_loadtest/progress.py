"""The lines a person watches while a run lasts: one every two seconds, from the same books as the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork_loadtest.ledger import Ledger

INTERVAL_S = 2.0


class Progress:
    """Says every `INTERVAL_S` seconds how many requests there were, how fast, and how many failed."""

    def __init__(self, ledger: Ledger, users: int, say: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._users = users
        self._say = say
        self._said_at: float | None = None
        self._requests = 0

    def tick(self, elapsed_s: float) -> None:
        """Say a line if it is time to; `elapsed_s` is seconds into the run."""
        if self._said_at is None:
            self._said_at = elapsed_s
            self._requests = self._ledger.finished
        passed = elapsed_s - self._said_at
        if passed < INTERVAL_S:
            return
        total = self._ledger.total()
        times = total.service
        p50, p99 = (f"{times.percentile(percent):,} us" if times.count else "-" for percent in (50, 99))
        rate = (total.requests - self._requests) / passed
        self._say(
            f"{elapsed_s:6.1f} s  {self._users} users  {total.requests:,} requests  {rate:,.0f}/s  "
            f"{total.failed} failed  p50 {p50}  p99 {p99}"
        )
        self._said_at, self._requests = elapsed_s, total.requests
