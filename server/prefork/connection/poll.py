"""How a blocking worker waits for a socket: one poll(2), on that and on the worker's own wake-up descriptors.

So a connection notices at once when its worker begins to drain, and the worker's heart beats on while it waits. This
file never reads, sends or decides what the wait was for.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

BEAT: Final = 1.0
"""Seconds between heartbeats of a sync worker that waits for its one peer."""


class Wakes(Protocol):
    """How a blocking wait learns that its worker drains."""

    @property
    def draining(self) -> bool:
        """Whether the worker is about to leave."""
        ...

    @property
    def closing(self) -> bool:
        """Whether that is so soon that a connection which never pauses is to end behind its next reply."""
        ...

    @property
    def wake_fds(self) -> Sequence[int]:
        """Descriptors that become readable when that may have changed; none once it drains."""
        ...

    def woken(self) -> None:
        """Look at what came; also called at least every `BEAT` seconds of a wait."""
        ...


def wait_for(fd: int, events: int, deadline: float, wakes: Wakes, *, wake: bool = False) -> bool:
    """Wait for a socket until `deadline`; False at that, or, if `wake`, as soon as the worker drains.

    Who knows already that it does asks for no `wake`, or would not wait at all.
    """
    poll = select.poll()
    poll.register(fd, events)
    before = wakes.draining  # asked first: a bell rung in between must not be waited for, it would ring on and on
    others = tuple(wakes.wake_fds)
    for other in others:
        poll.register(other, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        over = wake and wakes.draining  # perhaps since before this call: whoever calls had not seen it yet
        ready = poll.poll(0 if over else max(0.0, min(left, BEAT)) * 1000)
        if any(number == fd for number, _ in ready):
            return True
        wakes.woken()
        if wakes.draining and (wake or not before):
            if wake:
                return False
            for other in others:
                poll.unregister(other)
            before = True
        if left <= 0:
            return False
