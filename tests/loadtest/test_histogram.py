from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_loadtest.histogram import LARGEST_US, Histogram

TIMES = st.lists(st.integers(1, 10_000_000), max_size=200)


def recorded(times: list[int]) -> Histogram:
    histogram = Histogram()
    for time in times:
        histogram.record(time)
    return histogram


def summary(histogram: Histogram) -> tuple[int, ...]:
    percentiles = (histogram.percentile(percent) for percent in (0, 50, 90, 99, 99.9, 100))
    return (histogram.count, histogram.min_us, histogram.max_us, *percentiles)


@given(st.lists(TIMES, max_size=4))
def test_parts_that_were_sent_and_merged_equal_one_recording(parts: list[list[int]]) -> None:
    merged = Histogram()
    for part in parts:
        merged.merge(Histogram.decode(recorded(part).encode()))
    assert summary(merged) == summary(recorded([time for part in parts for time in part]))


@given(TIMES.filter(bool), st.sampled_from([50.0, 90.0, 99.0, 100.0]))
def test_percentiles_are_true_within_a_thousandth(times: list[int], percent: float) -> None:
    true = sorted(times)[max(0, math.ceil(len(times) * percent / 100) - 1)]
    assert recorded(times).percentile(percent) == pytest.approx(true, rel=0.001, abs=1)


def test_an_empty_one_has_no_times() -> None:
    assert Histogram.decode(Histogram().encode()).percentile(99) == 0


def test_times_out_of_range_count_at_the_edge() -> None:
    histogram = recorded([])
    histogram.record(0.2)
    histogram.record(2.0 * LARGEST_US)
    assert (histogram.count, histogram.min_us, histogram.max_us) == (2, 1, LARGEST_US)
    assert histogram.percentile(100) == LARGEST_US


def test_a_count_that_changed_on_the_way_is_refused() -> None:
    data = recorded([1, 2, 3]).encode()
    data["count"] = 4
    with pytest.raises(ValueError, match="another count"):
        Histogram.decode(data)
