from __future__ import annotations

import time

import gevent
import pytest

from prefork_loadtest.histogram import Histogram
from prefork_loadtest.meter import Meter, MeterData, Readings

CALM = MeterData(
    cpu_s=1.0,
    busy_s=1.0,
    wall_s=10.0,
    windows=10,
    busy_windows=0,
    lag=Histogram(2).encode(),
    slip=Histogram(2).encode(),
    frozen_s=0.0,
)


def late(count: int, times_us: int) -> Histogram:
    histogram = Histogram(2)
    for number in range(200):
        histogram.record(times_us if number < count else 100)
    return histogram


def readings(**changed: object) -> Readings:
    found = Readings()
    found.merge({**CALM, **changed})  # type: ignore[typeddict-item]
    return found


def test_a_generator_that_keeps_up_has_no_trouble() -> None:
    assert readings().trouble() is None
    assert readings(busy_windows=1).trouble() is None
    assert readings(lag=late(5, 900_000).encode()).trouble() is None


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"busy_windows": 2}, "no room left in 2 of 10 seconds"),
        ({"frozen_s": 1.5}, "stood still for 1.5 of 10.0 s"),
        ({"lag": late(20, 400_000).encode()}, "its loop woke"),
        ({"slip": late(20, 400_000).encode()}, "its scheduled requests began"),
    ],
)
def test_a_saturated_generator_is_named_with_its_symptom(changed: dict[str, object], complaint: str) -> None:
    assert complaint in str(readings(**changed).trouble())


def test_a_loop_is_busy_while_it_computes_and_idle_while_it_waits() -> None:
    def busy_share(turn: float, pause: float) -> float:
        meter = Meter()
        metering = gevent.spawn(meter.run)
        working = gevent.spawn(work, turn, pause)
        gevent.sleep(0)
        meter.take()
        working.join()
        metering.kill()
        data = meter.take()
        return data["busy_s"] / data["wall_s"]

    def work(turn: float, pause: float) -> None:
        for _ in range(40):
            end = time.perf_counter() + turn
            while time.perf_counter() < end:
                pass
            gevent.sleep(pause)

    assert busy_share(turn=0.0, pause=0.02) < 0.5
    assert busy_share(turn=0.02, pause=0.0) > 0.95
