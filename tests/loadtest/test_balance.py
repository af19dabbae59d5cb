from __future__ import annotations

from prefork_loadtest.balance import Balance
from prefork_loadtest.control import Status, Worker


def worker(slot: int, pid: int, requests: int) -> Worker:
    return Worker(slot, pid, 1, "serving", connections=2, accepted=requests, requests=requests, errors=0)


def status(*workers: Worker) -> Status:
    return Status("running", "0", 1, 1, ("127.0.0.1:7",), workers)


def test_a_killed_worker_keeps_what_was_last_seen_of_it() -> None:
    balance = Balance()
    balance.see(status(worker(0, 10, 0), worker(1, 11, 0)))
    balance.note(worker(0, 10, 40))
    balance.see(status(worker(0, 12, 25), worker(1, 11, 60)))
    assert [(share.slot, share.pid, share.requests, share.alive) for share in balance.shares()] == [
        (0, 10, 40, False),
        (0, 12, 25, True),
        (1, 11, 60, True),
    ]


def test_what_came_before_the_run_is_not_counted_to_it() -> None:
    balance = Balance()
    balance.see(status(worker(0, 10, 1000)))
    balance.see(status(worker(0, 10, 1010)))
    assert balance.shares()[0].requests == 10
