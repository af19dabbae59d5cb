"""Whose turn it is to accept: each worker's share, as it reads it off the scoreboard."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from prefork.scoreboard import Field, Phase, Scoreboard
from prefork.worker.accept import BATCH, CHURN, CHURN_S, SLACK, Churn, Share

if TYPE_CHECKING:
    from prefork.worker.post import Post


def room(own: int, *others: tuple[int, Phase, bool]) -> int:
    """Ask a worker that holds `own` connections, beside others with so many, in a phase, and beating or not."""
    board = Scoreboard()
    board.set_used(1 + len(others))
    for index, (connections, phase, beats) in enumerate([(own, Phase.ACCEPTING, True), *others]):
        row = board.row(index)
        row.cells[Field.CONNECTIONS] = connections
        row.cells[Field.PHASE] = phase
        if beats:
            row.beat()
    return Share(cast("Post", SimpleNamespace(board=board, row=board.row(0)))).room()


def is_over(own: int, *others: tuple[int, Phase, bool]) -> bool:
    """Ask whether the queue is another's."""
    return room(own, *others) < 1


def test_worker_that_holds_more_than_one_that_could_accept_is_over() -> None:
    assert is_over(SLACK + 1, (0, Phase.ACCEPTING, True))
    assert not is_over(SLACK, (0, Phase.ACCEPTING, True))
    assert not is_over(9)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((100 - SLACK - BATCH, Phase.YIELDING, True), id="steps back itself, and holds little less"),
        pytest.param((0, Phase.FULL, True), id="is full"),
        pytest.param((0, Phase.DRAINING, True), id="drains"),
        pytest.param((0, Phase.BOOTING, True), id="boots"),
        pytest.param((0, Phase.ACCEPTING, False), id="does not beat"),
    ],
)
def test_nobody_waits_for_a_worker_that_would_not_accept(other: tuple[int, Phase, bool]) -> None:
    assert not is_over(100, other)
    assert is_over(100, other, (3, Phase.ACCEPTING, True))


def test_worker_that_steps_back_is_waited_for_where_it_holds_less_by_a_batch() -> None:
    assert is_over(100, (100 - SLACK - BATCH - 1, Phase.YIELDING, True))


def test_room_is_as_much_as_reaches_the_others_and_the_slack() -> None:
    assert room(3, (10, Phase.ACCEPTING, True)) == 7 + SLACK + 1
    assert room(3, (10, Phase.ACCEPTING, True), (0, Phase.DRAINING, True)) == 7 + SLACK + 1
    assert room(3, (3, Phase.ACCEPTING, True)) == SLACK + 1
    assert room(3) >= BATCH
    assert room(3, (0, Phase.FULL, True)) >= BATCH


def slack_behind(gone: int, seconds: float, *, before: int = 0) -> int:
    """Let so many connections come within so many seconds, of which so many go, and return the slack then."""
    churn = Churn()
    for _ in range(before):
        churn.gone()
    churn.came(CHURN, now=100.0)  # the first ones begin the clock
    for number in range(CHURN):
        if number < gone:
            churn.gone()
        churn.came(1, now=100.0 + seconds * (number + 1) / CHURN)
    return churn.slack


def test_short_connections_have_a_batch_of_slack() -> None:
    assert Churn().slack == SLACK
    assert slack_behind(CHURN, CHURN_S / 2) == BATCH
    assert slack_behind(CHURN // 2, CHURN_S / 2) == BATCH


def test_connections_that_stay_or_come_slowly_have_none() -> None:
    assert slack_behind(CHURN // 2 - 1, CHURN_S / 2) == SLACK
    assert slack_behind(CHURN, CHURN_S * 1.01) == SLACK
    assert slack_behind(0, CHURN_S / 2, before=1000) == SLACK


@pytest.mark.parametrize(("count", "seconds"), [(CHURN, 0.01), (1, CHURN_S * 1.01)], ids=["others stay", "a lull"])
def test_slack_ends_with_the_short_connections(count: int, seconds: float) -> None:
    churn = Churn()
    for _ in range(CHURN):
        churn.gone()
    churn.came(CHURN, now=0.0)
    assert churn.slack == BATCH
    churn.came(count, now=seconds)
    assert churn.slack == SLACK
