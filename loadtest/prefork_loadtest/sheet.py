"""Right answers on their way into the books: counted on a sheet for each row and second, booked when they are read.

Pure. Booking a request by itself would cost more than making it: two histograms here, two more in Locust's statistics.
On a sheet a right answer is one count in a dictionary. What failed is never counted here: the ledger books it at once.
"""

from __future__ import annotations

from collections import defaultdict


class Sheet:
    """Right answers of one row in one phase and one second.

    Attributes:
        name: the row.
        phase: the phase.
        second: the second in which they ended, since the epoch.
        until: when that second is over, on the clock that the answers are timed with; 0 closes the sheet.
        is_told: whether Locust's statistics were told of each one already.
        service: how many took so many microseconds; `intended` likewise, from the intended start.
        received: bytes of the answers.
        reopened: answers whose kept connection had been closed while idle.
        sent: frames that were sent for them, and `sent_bytes` their bytes on the wire.
    """

    __slots__ = (
        *("intended", "is_told", "name", "phase", "received", "reopened"),
        *("second", "sent", "sent_bytes", "service", "until"),
    )

    def __init__(self, name: str, phase: str, second: int, until: float, *, is_told: bool) -> None:
        self.name, self.phase, self.second, self.until, self.is_told = name, phase, second, until, is_told
        self.clear()

    def clear(self) -> None:
        """Begin with nothing, after everything was booked."""
        self.service: dict[int, int] = defaultdict(int)
        self.intended: dict[int, int] = defaultdict(int)
        self.received = self.reopened = self.sent = self.sent_bytes = 0
