"""What Locust itself shows, each time in a process of its own: importing Locust patches the standard library."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Any]

SETTING = """
import json
from locust.env import Environment
from prefork_loadtest import locust_stats
from prefork_loadtest.sheet import Sheet

TIMES_US = [900, 900, 1500, 40, 1_234_567]
locust_stats.install()

def environment():
    found = Environment()
    found.create_local_runner()
    return found

def answers(second):
    found = Sheet("echo", "steady", second, 1.0, is_told=False)
    for us in TIMES_US:
        found.service[us] += 1
        found.received += 64
    return found

def shown(entry):
    return {
        "percentiles": [entry.get_response_time_percentile(part) for part in (0.5, 0.9, 1.0)],
        "times": {str(key): count for key, count in entry.response_times.items()},
        "requests": [entry.num_requests, sum(entry.num_reqs_per_sec.values()), entry.num_failures],
        "extremes": [entry.min_response_time, entry.max_response_time],
        "sum": round(entry.total_response_time, 6),
        "bytes": entry.total_content_length,
    }
"""
BOTH = """
at_once, one_by_one = environment(), environment()
locust_stats.tell(at_once, answers(1000))
for us in TIMES_US:
    one_by_one.events.request.fire(
        request_type="TCP", name="echo", response_time=us / 1000, response_length=64, exception=None, context={}
    )
print(json.dumps([[shown(e.stats.total), shown(e.stats.get("echo", "TCP"))] for e in (at_once, one_by_one)]))
"""
SECONDS = """
found = environment()
for second in (1000, 1001, 1002):
    locust_stats.tell(found, answers(second))
total = found.stats.total
print(json.dumps([dict(total.num_reqs_per_sec), total.last_request_timestamp]))
"""
LISTENERS = """
found = environment()
before = locust_stats.has_listeners(found)
found.events.request.add_listener(lambda **_: None)
print(json.dumps([before, locust_stats.has_listeners(found)]))
"""


@pytest.fixture
def found(start: Run) -> Callable[[str], Any]:
    """What a script finds out."""

    def run(script: str) -> Any:  # noqa: ANN401 - whatever it prints
        outcome = start(command=(sys.executable, "-c", SETTING + script)).end()
        assert outcome.code == 0, outcome
        return json.loads(outcome.out)

    return run


def test_locust_shows_of_a_sheet_what_it_would_show_of_each_answer(found: Callable[[str], Any]) -> None:
    at_once, one_by_one = found(BOTH)
    assert at_once == one_by_one
    assert at_once[0]["requests"] == [5, 5, 0]


def test_answers_of_many_seconds_are_shown_in_their_own(found: Callable[[str], Any]) -> None:
    assert found(SECONDS) == [{"1000": 5, "1001": 5, "1002": 5}, 1003.0]


def test_somebody_who_listens_to_each_request_is_noticed(found: Callable[[str], Any]) -> None:
    assert found(LISTENERS) == [False, True]
