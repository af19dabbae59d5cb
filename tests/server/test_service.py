"""What the decorators refuse, and which model a service runs in."""

from __future__ import annotations

import pytest

from prefork import Lines, reply


def plain(frame: bytes) -> bytes:
    return frame


async def waits(frame: bytes) -> bytes:
    return frame


def test_a_reply_can_be_called_as_the_function_it_is() -> None:
    assert reply(Lines())(plain)(b"one") == b"one"


def test_who_never_waits_cannot_wait_for_several_at_once() -> None:
    with pytest.raises(ValueError, match="plain never waits: concurrency is for"):
        reply(Lines(), concurrency=2)(plain)
    assert reply(Lines(), concurrency=2, blocking=True)(plain).concurrency == 2


def test_a_coroutine_does_not_block() -> None:
    with pytest.raises(ValueError, match="waits is an `async def`: blocking=True is for a `def`"):
        reply(Lines(), blocking=True)(waits)


def test_no_request_at_once_is_none_at_all() -> None:
    with pytest.raises(ValueError, match="concurrency must be at least 1, not 0"):
        reply(Lines(), concurrency=0)


def test_what_blocks_runs_in_threads_unless_told_otherwise() -> None:
    assert reply(Lines())(plain).model(None) == "async"
    assert reply(Lines(), blocking=True)(plain).model(None) == "threads"
    assert reply(Lines(), blocking=True)(plain).model("async") == "async"
    assert reply(Lines())(waits).model(None) == "async"
