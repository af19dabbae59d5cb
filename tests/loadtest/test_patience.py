from __future__ import annotations

from dataclasses import dataclass

from prefork_loadtest.patience import Patience


@dataclass(eq=False)
class Waits:
    since: float
    patience_s: float = 5.0
    expired: int = 0

    def expire(self) -> None:
        self.expired += 1


def test_only_who_has_waited_too_long_is_given_up() -> None:
    patience = Patience()
    late, in_time, idle = Waits(100.0), Waits(104.0), Waits(0.0)
    patience.watched.update((late, in_time, idle))
    patience.look(105.1)
    assert [each.expired for each in (late, in_time, idle)] == [1, 0, 0]
