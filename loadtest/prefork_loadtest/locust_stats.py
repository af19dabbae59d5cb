"""Locust's own statistics, told of right answers by the sheet and not one by one.

An event for each request costs as much as all the rest of booking it. Locust's console, its page and its CSV show
seconds at the finest: they lose nothing by this. Whoever listens to the event `request` still gets every one.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from locust import stats

if TYPE_CHECKING:
    from locust.env import Environment
    from locust.stats import StatsEntry

    from prefork_loadtest.sheet import Sheet

REQUEST_TYPE = "TCP"
US_PER_MS = 1000.0


@lru_cache(maxsize=65536)
def bucket(response_time: float) -> float:
    """The key under which Locust counts a time in milliseconds: three significant digits, down to a microsecond.

    Locust's own rounds to whole milliseconds, which makes one number of most answers on a fast network.
    """
    return float(f"{response_time:.3g}")


def install() -> None:
    """Have Locust count by `bucket`: the function is a global of its that is meant to be replaced."""
    stats.bucket_response_time = bucket  # type: ignore[assignment]


def has_listeners(environment: Environment) -> bool:
    """Whether anybody but Locust's own statistics listens to the event of each request."""
    # The runner's listener is a function inside its constructor: it has no other name to be known by.
    return any(
        getattr(handler, "__module__", "") != "locust.runners"
        for handler in environment.events.request._handlers  # noqa: SLF001 - there is no other way to ask
    )


def tell(environment: Environment, sheet: Sheet) -> None:
    """Add the answers of a sheet, as `StatsEntry.log` would have added each."""
    books = environment.stats
    for entry in (books.total, books.entries[sheet.name, REQUEST_TYPE]):
        _add(entry, sheet)


def _add(entry: StatsEntry, sheet: Sheet) -> None:
    """Add them to one row of Locust's."""
    times = {us / US_PER_MS: count for us, count in sheet.service.items()}
    number = sum(times.values())
    last = entry.last_request_timestamp
    if entry.use_response_times_cache and last and sheet.second > int(last):
        entry._cache_response_times(sheet.second - 1)  # noqa: SLF001 - as it does itself, when a second begins
    entry.num_requests += number
    entry.num_reqs_per_sec[sheet.second] += number
    entry.last_request_timestamp = max(last or 0.0, min(time.time(), sheet.second + 1.0))
    entry.total_response_time += sum(ms * count for ms, count in times.items())  # type: ignore[assignment]
    entry.min_response_time = min(times if entry.min_response_time is None else (*times, entry.min_response_time))  # type: ignore[assignment]
    entry.max_response_time = max(*times, entry.max_response_time)  # type: ignore[assignment]
    for ms, count in times.items():
        entry.response_times[bucket(ms)] += count  # type: ignore[index]
    entry.total_content_length += sheet.received
