from __future__ import annotations

from prefork.throttle import MOST, Throttle
from support.waiting import until


def test_first_line_of_a_cause_is_written_and_the_rest_counted() -> None:
    throttle = Throttle(0.05)
    assert throttle.left_out("one") == 0
    assert [throttle.left_out("one") for _ in range(3)] == [None] * 3
    assert throttle.left_out("other") == 0
    said = until(lambda: throttle.left_out("one"), what="the next is written")
    assert (said or 0) >= 3


def test_burst_of_a_cause_is_written_before_the_rest_is_counted() -> None:
    throttle = Throttle(60, burst=3)
    assert [throttle.left_out("one") for _ in range(5)] == [0, 0, 0, None, None]
    assert throttle.left_out("other") == 0


def test_causes_beyond_the_most_that_are_told_apart_share_one() -> None:
    throttle = Throttle(60)
    assert all(throttle.left_out(f"cause {number}") == 0 for number in range(MOST))
    assert throttle.left_out("one more") == 0
    assert throttle.left_out("another") is None


def test_a_line_says_how_many_were_left_out_before_it_and_nothing_if_none_were() -> None:
    throttle = Throttle(span=0.2)
    assert throttle.more("one") == {}
    assert [throttle.more("one") for _ in range(3)] == [None] * 3
    said = until(lambda: throttle.more("one"), what="the next is written")
    assert said is not None
    assert said["left_out"] >= 3
