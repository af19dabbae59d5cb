"""When certificates expire: a warning in good time, and again each day, for whoever renews them.

It never reads a file: a renewed one counts when it is served, that is, after a reload.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from prefork.log import LOGGER

if TYPE_CHECKING:
    from prefork.connection.terms import Terms

DAY: Final = 86400.0

NOTICE: Final = 14 * DAY
"""Seconds before its end from which a certificate is warned of."""


class Expiry:
    """The certificates that are served. `look` is called in every turn of the loop; most are one comparison."""

    def __init__(self, terms: Terms | None) -> None:
        self._due = math.inf  # on the monotonic clock
        self.serve(terms)

    def serve(self, terms: Terms | None) -> None:
        """Look after these from now on."""
        self._certificates = terms.certificates if terms is not None else ()
        self._due = -math.inf if self._certificates else math.inf

    def look(self, now: float) -> None:
        """Warn of what expires soon, or has, if it is time to; `now` is the monotonic clock."""
        if now < self._due:
            return
        wait = DAY
        for one in self._certificates:
            left = one.expires - time.time()
            if left > NOTICE:
                wait = min(wait, left - NOTICE + 1.0)
                continue
            day = time.strftime("%Y-%m-%d", time.gmtime(one.expires))
            if left > 0:
                days = int(left // DAY)
                when = f"in {days} day{'' if days == 1 else 's'}, on {day}"
                LOGGER.warning("the certificate in %s expires %s; renew it", one.file, when)
                wait = min(wait, left + 1.0)
            else:
                LOGGER.error("the certificate in %s has expired on %s; renew it", one.file, day)
        self._due = now + wait
