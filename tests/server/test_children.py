"""What no machine of a test can show: more living workers than the scoreboard has rows. The records are real ones."""

from __future__ import annotations

from contextlib import closing

from prefork.log import LogHandler
from prefork.master.children import Children, Legacy
from prefork.master.events import Events
from prefork.master.pool import Pool, Worker
from prefork.master.status import Totals
from prefork.scoreboard import ROWS
from prefork.settings import Settings, Span
from prefork.worker.post import Plan

SETTINGS = Settings(target="echo", workers=Span(2, 2))


def test_worker_for_whom_there_is_no_row_is_not_forked() -> None:
    pool = Pool(2, jitter=lambda: 1.0)
    for pid in range(ROWS):
        pool.workers[pid] = Worker(0, 1, pid, pool.free_row(), SETTINGS, started=0.0, deadline=30.0)
    with closing(Events()) as events:
        children = Children(pool, Legacy([], LogHandler(None), 1000), Totals(), events, list)
        children.spawn(1, 1, Plan(SETTINGS, None, None), 10.0, on_trial=False)
    assert len(pool.workers) == ROWS
    assert pool.slot(1).not_before == 11.0
