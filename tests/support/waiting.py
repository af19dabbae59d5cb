"""Waiting for a predicate with a deadline: never for a fixed time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def until(predicate: Callable[[], T], seconds: float = 10.0, *, what: str = "") -> T:
    """Return the first true value of `predicate`; fail with `what` when `seconds` have passed without one."""
    deadline = time.monotonic() + seconds
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or getattr(predicate, '__name__', predicate)}")
        time.sleep(0.01)
