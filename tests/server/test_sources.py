from __future__ import annotations

import os
import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prefork.networks import ip_of
from prefork.sources import FEWEST, WAYS, Sources, key_of


def key(host: str) -> int:
    ip = ip_of(host)
    assert ip is not None
    return key_of(ip)


def test_ipv4_counts_by_address_and_ipv6_by_its_64() -> None:
    assert key("10.0.0.1") != key("10.0.0.2")
    assert key("10.0.0.1") == key("::ffff:10.0.0.1")
    assert key("2001:db8::1") == key("2001:db8::ffff:0:1")
    assert key("2001:db8::1") != key("2001:db8:0:1::1")
    assert key("::1") != 0
    assert len({key("0.0.0.0"), key("0.0.0.1"), key("::1")}) == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.booleans()), max_size=300))
def test_count_of_a_source_is_the_sum_over_all_workers(steps: list[tuple[int, int, bool]]) -> None:
    sources = Sources(1024, lambda: 4)
    tallies = [sources.tally(row) for row in range(4)]
    held: Counter[tuple[int, int]] = Counter()
    for row, source, enters in steps:
        if enters:
            held[row, source] += 1
            assert tallies[row].enter(source) == sum(held[other, source] for other in range(4))
        elif held[row, source]:
            held[row, source] -= 1
            tallies[row].leave(source)
    for (row, source), count in held.items():
        for _ in range(count):
            tallies[row].leave(source)
    assert not any(sources.cells[: 4 * sources.width])


def test_more_sources_than_a_bucket_holds_are_not_counted_and_do_no_harm() -> None:
    sources = Sources(1, lambda: 1)
    tally = sources.tally(0)
    many = range(1, FEWEST * WAYS * 2)
    counted = {source for source in many if tally.enter(source)}
    assert FEWEST * WAYS * 0.8 < len(counted) <= FEWEST * WAYS
    assert all(tally.enter(source) == (2 if source in counted else 0) for source in many)
    for source in counted:
        tally.leave(source)
        tally.leave(source)
    assert not any(sources.cells[: sources.width])


def test_sources_of_as_many_connections_as_a_worker_may_hold_are_nearly_all_counted() -> None:
    for connections in (1024, 10_000):
        sources = Sources(connections, lambda: 1)
        tally = sources.tally(0)
        counted = sum(tally.enter(source) == 1 for source in range(1, connections + 1))
        assert counted >= connections * 0.995  # how many are not is a matter of chance: one in ten thousand


def test_row_of_a_worker_that_was_killed_is_cleared_by_its_master() -> None:
    sources = Sources(1024, lambda: 2)
    theirs = sources.tally(1)  # before the fork: this is what makes the mapping
    pid = os.fork()
    if pid == 0:
        for _ in range(5):
            theirs.enter(7)
        os._exit(0)
    os.waitpid(pid, 0)
    tally = sources.tally(0)
    assert tally.enter(7) == 6
    sources.clear(1)
    assert tally.enter(7) == 2


def test_threads_of_one_worker_lose_no_count() -> None:
    tally = Sources(1024, lambda: 1).tally(0)

    def come_and_go() -> None:
        for source in range(1, 2000):
            tally.enter(source % 5 + 1)
            tally.leave(source % 5 + 1)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [tally.enter(source) for source in range(1, 6)] == [1] * 5
