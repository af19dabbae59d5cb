"""The scenarios, as data: who attacks, how hard, for how long, and what must hold.

Nothing here imports Locust: `prefork-loadtest list` and every refusal of a bad option answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Crew:
    """Users of one behaviour.

    Attributes:
        user_class: the name of a class in `prefork_loadtest.users`.
        share: how many of the users these are, relative to the other crews.
        open_rate: whether they divide the scenario's rate among themselves.
    """

    user_class: str
    share: int
    open_rate: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load and its gates.

    Attributes:
        name: what is typed.
        summary: what it does, in one line.
        crews: the users, by behaviour.
        users: how many of them together.
        rate: requests per second of all open-rate users together.
        duration_s: seconds from the last user's start to the drain.
        think_s: seconds that users without a schedule wait before their next request.
        gates: what must hold whether faults are injected or not; each fault brings its own besides.
    """

    name: str
    summary: str
    crews: tuple[Crew, ...]
    users: int
    rate: float
    duration_s: float
    gates: tuple[str, ...]
    think_s: float = 0.02

    def crew_sizes(self, users: int) -> dict[str, int]:
        """`{user class: number}`, in all `users`: by share, rounded down, what remains to the first crews."""
        shares = sum(crew.share for crew in self.crews)
        sizes = {crew.user_class: users * crew.share // shares for crew in self.crews}
        # Behaviours that got nobody come first: with few users, variety proves more than proportion.
        for crew in sorted(self.crews, key=lambda crew: sizes[crew.user_class] > 0)[: users - sum(sizes.values())]:
            sizes[crew.user_class] += 1
        return {name: size for name, size in sizes.items() if size}

    def open_users(self, users: int) -> int:
        """How many of `users` users keep a schedule."""
        sizes = self.crew_sizes(users)
        return sum(sizes.get(crew.user_class, 0) for crew in self.crews if crew.open_rate)


SMOKE = Scenario(
    name="smoke",
    summary="echo over kept, scheduled and one-request connections: right answers and no losses, in half a minute",
    crews=(Crew("EchoUser", 2), Crew("OpenEchoUser", 1, open_rate=True), Crew("ChurnUser", 1)),
    users=16,
    rate=200.0,
    duration_s=20.0,
    gates=("ramp.failed == 0", "steady.failed == 0", "steady.reopened == 0", "drain.failed == 0", "run.wrong == 0"),
)

CHAOS = Scenario(
    name="chaos",
    summary="reloads, upgrades, more and fewer workers, stopped and killed processes: what is planned loses nothing",
    crews=SMOKE.crews,
    users=24,
    rate=24.0,
    duration_s=60.0,
    gates=("ramp.failed == 0", "steady.failed == 0", "drain.failed == 0", "run.wrong == 0"),
    think_s=0.25,
)
"""For `prefork-loadtest chaos`, which plans its faults: kept connections may be closed while idle, by each of them.

Every user has quiet moments. A connection without any keeps its worker until the server's drain timeout, by design, and
each reload would last as long.
"""

SCENARIOS = {scenario.name: scenario for scenario in (SMOKE,)}
