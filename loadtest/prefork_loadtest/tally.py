"""Whether the server counted what the load sent: the third count, beside those of the load workers and their master.

Pure: statuses and books in, one line out. Where every request was answered the two must be equal; where some were not,
the server may have counted them or not, but never fewer than were answered nor more than were sent.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefork_loadtest.control import Status
    from prefork_loadtest.ledger import Ledger


class Unit(StrEnum):
    """What is compared. The value is what is typed."""

    FRAMES = "frames"
    BYTES = "bytes"
    OFF = "off"


class Tally:
    """The server's own count over a run.

    Args:
        unit: what to count. Frames only where the server has the load's framing: a service of plain bytes, such as the
            built-in echo, counts each piece that the network made of them.
    """

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self._first: Status | None = None
        self._last: Status | None = None

    def see(self, status: Status) -> None:
        """Take in one status; the first is from before the load."""
        self._first = self._first or status
        self._last = status

    @property
    def served(self) -> int | None:
        """What the server counted since the first status; None if it cannot be told.

        A new master counts from 0, and the last count of the old one is gone with it.
        """
        first, last = self._first, self._last
        if self.unit is Unit.OFF or first is None or last is None or first.pid != last.pid:
            return None
        if first.totals is None or last.totals is None:
            return None
        if self.unit is Unit.FRAMES:
            return last.totals.requests - first.totals.requests
        return last.totals.bytes_in - first.totals.bytes_in

    def bounds(self, books: Ledger) -> tuple[int, int]:
        """`(least, most)` that the server can have counted."""
        if self.unit is Unit.FRAMES:
            return books.proven, books.sent
        return books.proven_bytes, books.sent_bytes

    def agrees(self, books: Ledger) -> bool:
        """Whether the server's count is what the books say."""
        least, most = self.bounds(books)
        return self.served is not None and least <= self.served <= most

    def trouble(self, books: Ledger) -> str | None:
        """Why the counts make the run invalid, in one line; None if they agree or cannot be compared."""
        served = self.served
        if served is None or self.agrees(books):
            return None
        least, most = self.bounds(books)
        sent = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        return (
            f"the counts differ: {sent} {self.unit.value} sent, {served:,} counted by the server; "
            f"if others use it too, give --count {Unit.OFF.value}"
        )

    def describe(self, books: Ledger) -> str:
        """The comparison in a few words, to print."""
        if self.unit is Unit.OFF:
            return "not compared"
        if self.served is None:
            return "not comparable: the server was not asked, or a new master counts from 0"
        least, most = self.bounds(books)
        sent = f"{most:,} sent" if least == most else f"{least:,} answered and {most:,} sent"
        return f"{self.served:,} {self.unit.value}; {sent}"
