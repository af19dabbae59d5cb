"""How long a load user waits for a reply: one look at all who wait, now and then, instead of a timer for every call.

A timer costs a tenth of a request, and nearly none ever fires. Whoever waits says since when; who has waited too long
has its connection closed under it, and finds it so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import NoReturn

LOOK_S = 0.05
"""A reply may be given up so much later than it should."""


class Waiting(Protocol):
    """Who may wait.

    Attributes:
        since: when the wait began, in seconds of `perf_counter`; 0 while there is none.
        patience_s: how long it may last.
    """

    since: float
    patience_s: float

    def expire(self) -> None:
        """Close the connection under whoever waits."""


class Patience:
    """All who may wait, of one process.

    Attributes:
        watched: add who is to be looked at, and discard it again.
    """

    def __init__(self) -> None:
        self.watched: set[Waiting] = set()

    def run(self) -> NoReturn:
        """Look for ever; for a greenlet of its own."""
        while True:
            time.sleep(LOOK_S)
            self.look(time.perf_counter())

    def look(self, now: float) -> None:
        """Give up for everybody who has waited too long."""
        for each in [each for each in self.watched if each.since and now - each.since > each.patience_s]:
            each.expire()
