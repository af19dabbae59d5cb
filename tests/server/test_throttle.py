from __future__ import annotations

from prefork.throttle import Throttle
from support.waiting import until


def test_first_line_of_a_cause_is_written_and_the_rest_counted() -> None:
    throttle = Throttle(0.05)
    assert throttle.left_out("one") == 0
    assert [throttle.left_out("one") for _ in range(3)] == [None] * 3
    assert throttle.left_out("other") == 0
    said = until(lambda: throttle.left_out("one"), what="the next is written")
    assert (said or 0) >= 3
