"""What the log says of connections: refused frames, handlers that fail, and the access log's line for each.

Whoever connects can cause any of these. So faults are written a few times per cause and span, and counted beyond that;
the access log is for whoever asks for it (`--access-log`). Nothing here decides anything, and no payload is written.
"""

from __future__ import annotations

import time
from logging import INFO
from typing import TYPE_CHECKING, Final, Protocol

from prefork.log import ACCESS, LOGGER, fields
from prefork.scoreboard import Field
from prefork.throttle import Throttle

if TYPE_CHECKING:
    from types import TracebackType

    from prefork.scoreboard import Row

FAULTS: Final = 5
"""Lines of one cause that a worker writes within `throttle.SPAN` seconds."""

_throttle: Final = Throttle(burst=FAULTS)


class Cells(Protocol):
    """A row of the scoreboard, as far as a connection writes it."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class Account:
    """What one connection adds to its worker's row, kept beside it: a row to write to that reads as its own.

    Only the access log needs it; without, a connection writes to the row itself.
    """

    __slots__ = ("_cells", "_own", "opened")

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._own = [0] * len(Field)
        self.opened = time.monotonic()

    def __getitem__(self, index: int) -> int:
        """Return what this connection has counted."""
        return self._own[index]

    def __setitem__(self, index: int, value: int) -> None:
        """Count, and let the worker's row grow by as much."""
        self._cells[index] += value - self._own[index]
        self._own[index] = value


def account(row: Row) -> Cells:
    """Return what a new connection is to count in: the row itself, or an account before it for the access log."""
    return Account(row.cells) if ACCESS.isEnabledFor(INFO) else row.cells


def closed(cells: Cells, number: int, peer: str, reason: str) -> None:
    """Write the access log's line of a connection that is over, where it has kept an account."""
    if not isinstance(cells, Account):
        return
    ACCESS.info(
        "closed",
        extra=fields(
            connection=number,
            peer=peer,
            seconds=round(time.monotonic() - cells.opened, 3),
            frames=cells[Field.REQUESTS],
            bytes_in=cells[Field.BYTES_IN],
            bytes_out=cells[Field.BYTES_OUT],
            reason=reason,
        ),
    )


def refused_a_frame(error: Exception, peer: str, number: int) -> None:
    """Say that a peer broke the framing."""
    name = type(error).__name__
    if (more := _throttle.more(name)) is not None:
        LOGGER.warning("refused a frame: %s", error, extra=fields(peer=peer, connection=number, error=name, **more))


def handler_failed(error: BaseException, peer: str, number: int | None = None) -> None:
    """Say that a handler raised: the author's to mend, so the traceback is in the log, for each place that raises."""
    more = _throttle.more(f"{type(error).__qualname__} {_place(error.__traceback__)}")
    if more is not None:
        known = {} if number is None else {"connection": number}
        LOGGER.error("the handler failed", exc_info=error, extra=fields(peer=peer, **known, **more))


def _place(trace: TracebackType | None) -> str:
    """Return where a traceback ends."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
