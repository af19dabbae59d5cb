"""The scenarios, as data: who attacks what, how hard, for how long, and what must hold.

Nothing here imports Locust: `prefork-loadtest list` and every refusal of a bad option answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefork_loadtest.faultplan import Fault, Kind
from prefork_loadtest.ledger import CLIMB, OVERLOAD, RECOVERY, SPIKE, STEADY
from prefork_loadtest.tally import Unit

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Crew:
    """Users of one behaviour.

    Attributes:
        user_class: the name of a class in `prefork_loadtest.entry`, or in the file of the scenario.
        share: how many of the users these are, relative to the other crews.
        open_rate: whether they divide the scenario's rate among themselves.
    """

    user_class: str
    share: int
    open_rate: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch under full load.

    Attributes:
        phase: what its requests are booked to.
        part: how much of the duration it takes, relative to the other stages.
        pace: users who keep a rate keep it so many times.
    """

    phase: str
    part: float = 1.0
    pace: float = 1.0


@dataclass(frozen=True, slots=True)
class Own:
    """The server that is started for a run without `--host`.

    Attributes:
        arguments: of `prefork serve`.
        unit: what it counts.
        replicas: how many of it. Several are behind a balancer, and are restarted in turn.
    """

    arguments: tuple[str, ...]
    unit: Unit = Unit.FRAMES
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load and its gates.

    Attributes:
        name: what is typed.
        summary: what it does, in one line.
        crews: the users, by behaviour.
        gates: what must hold whether faults are injected or not; each fault brings its own besides.
        users: how many of them together.
        rate: requests per second of all open-rate users together, at pace 1.
        duration_s: seconds from the last user's start to the drain.
        ramp_s: seconds in which the users start; 0 for as fast as Locust starts them.
        think_s: seconds that users without a schedule wait before their next request.
        stages: how the load changes.
        faults: what is done to the server, at a part of the duration.
        own: the server for it; None if there is none to start, and --host must name one.
        needs: what must be there besides, by the names of `prefork_loadtest.needs`.
        file: where its users are, if not in the kit.
    """

    name: str
    summary: str
    crews: tuple[Crew, ...]
    gates: tuple[str, ...]
    users: int = 16
    rate: float = 100.0
    duration_s: float = 10.0
    ramp_s: float = 0.0
    think_s: float = 0.02
    stages: tuple[Stage, ...] = (Stage(STEADY),)
    faults: tuple[Fault, ...] = ()
    own: Own | None = Own(("prefork_loadtest.targets:lines", "--workers", "2"))
    needs: tuple[str, ...] = ()
    file: Path | None = None

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

    def intended(self, rate: float, duration_s: float) -> float:
        """Requests that the schedules intend over all stages."""
        parts = sum(stage.part for stage in self.stages)
        return sum(rate * stage.pace * duration_s * stage.part / parts for stage in self.stages)


OPEN = Crew("OpenEchoUser", 1, open_rate=True)
MIXED = (Crew("EchoUser", 2), OPEN, Crew("ChurnUser", 1))
RIGHT = ("ramp.failed == 0", "steady.failed == 0", "drain.failed == 0", "run.wrong == 0")
KEPT = (*RIGHT, "steady.reopened == 0")
QUICK = "steady.p99_intended_ms < 250"
"""For runs on busy machines: what is stuck, not what is slow. Set your own by `--gates`."""
BESIEGED = (*KEPT, QUICK, "hostile.requests > 0", "hostile.failed == 0")
CURT = ("--first-byte-timeout", "2", "--frame-timeout", "2", "--write-timeout", "2", "--max-write-buffer", "65536")
"""Deadlines of a server that attacks must run into while somebody watches."""
ECHO = "prefork_loadtest.targets:lines"
FORTRESS = Own((ECHO, "--workers", "2", *CURT))


def _besieged(name: str, summary: str, attacker: str, share: int = 1) -> Scenario:
    """Attackers beside users who must not notice; so many for each eight of them."""
    crews = (OPEN, Crew("EchoUser", 1), Crew(attacker, share))
    return Scenario(name, summary, crews, BESIEGED, users=16 + 8 * share, rate=60.0, duration_s=8.0, own=FORTRESS)


def _service(name: str) -> Scenario:
    """One of the built-in services, by the user who knows its answers."""
    user = f"{name.capitalize()}User"
    own = Own((name, "--workers", "2"), Unit.OFF)
    summary = f"the built-in {name} service: every conversation from its beginning to its end"
    return Scenario(name, summary, (Crew(user, 1),), RIGHT, users=4, duration_s=3.0, think_s=0.05, own=own)


def _struck(name: str, summary: str, kind: Kind, hold_s: float = 0.0) -> Scenario:
    """A fault of one kind, twice, under a load whose connections have quiet moments."""
    faults = (Fault(0.1, kind, hold_s), Fault(0.55, kind, hold_s))
    own = Own((ECHO, "--workers", "2", "--drain-timeout", "10"))
    return Scenario(
        name, summary, MIXED, RIGHT, users=12, rate=40.0, duration_s=12.0, think_s=0.2, faults=faults, own=own
    )


SMOKE = Scenario(
    name="smoke",
    summary="echo over kept, scheduled and one-request connections: right answers and no losses, in half a minute",
    crews=MIXED,
    gates=KEPT,
    rate=200.0,
    duration_s=20.0,
)

CHAOS = Scenario(
    name="chaos",
    summary="reloads, upgrades, more and fewer workers, stopped and killed processes: what is planned loses nothing",
    crews=MIXED,
    gates=RIGHT,
    users=24,
    rate=24.0,
    duration_s=60.0,
    think_s=0.25,
)
"""For `prefork-loadtest chaos`, which plans its faults: kept connections may be closed while idle, by each of them.

Every user has quiet moments. A connection without any keeps its worker until the server's drain timeout, by design, and
each reload would last as long.
"""

_LOADS = (
    SMOKE,
    Scenario(
        "ramp",
        "users come one by one, then the rate climbs in four steps",
        MIXED,
        (*KEPT, "climb.failed == 0", QUICK),
        ramp_s=4.0,
        stages=(Stage(CLIMB, 1, 0.25), Stage(CLIMB, 1, 0.5), Stage(CLIMB, 1, 0.75), Stage(STEADY, 2)),
    ),
    Scenario("steady", "one rate that no answer can move", (OPEN,), (*KEPT, QUICK), users=8),
    Scenario(
        "spike",
        "five times the rate at once, and how long until it is forgotten",
        (OPEN,),
        (*KEPT, "spike.failed == 0", "recovery.failed == 0", "spike.recovery_s < 5"),
        rate=60.0,
        duration_s=15.0,
        stages=(Stage(STEADY, 2), Stage(SPIKE, 1, 5.0), Stage(RECOVERY, 2)),
    ),
    Scenario(
        "soak",
        "for hours (--duration 14400): nothing lost, and the server's memory does not grow",
        MIXED,
        (*KEPT, "run.rss_growth < 0.1"),
        rate=60.0,
        duration_s=30.0,
    ),
    Scenario(
        "churn",
        "connect, one request, close; and the same ended by a reset",
        (Crew("ChurnUser", 2), Crew("ResetUser", 1), OPEN),
        (*KEPT, QUICK),
    ),
    Scenario(
        "oracle",
        "the client package beside a plain socket that shares no code with it: which of the two is wrong",
        (Crew("EchoUser", 1), Crew("RawEchoUser", 1)),
        KEPT,
        users=8,
    ),
    Scenario(
        "pipelining", "sixteen requests in one write, sixteen answers in order", (Crew("PipelineUser", 1), OPEN), KEPT
    ),
    Scenario(
        "fragmentation", "requests that are written one byte at a time", (Crew("FragmentUser", 1), OPEN), (*KEPT, QUICK)
    ),
    Scenario(
        "big",
        "frames as large as the limit are answered, one byte more is refused",
        (Crew("BigUser", 2), OPEN, Crew("OversizeUser", 1)),
        BESIEGED,
        rate=60.0,
    ),
    Scenario(
        "overload",
        "two and a half times what the service can do: it says so at once, and loses none of what it can do",
        (Crew("CrowdUser", 1, open_rate=True),),
        (
            *("ramp.wrong == 0", "run.wrong == 0", "overload.busy > 0", "overload.failed == overload.busy"),
            *("overload.goodput >= 0.9 * steady.goodput", "overload.p99_busy_ms < 250"),
        ),
        users=60,
        rate=100.0,
        duration_s=12.0,
        stages=(Stage(STEADY), Stage(OVERLOAD, 1, 2.5)),
        own=Own(("prefork_loadtest.targets:crowded", "--workers", "1")),
    ),
)

_ATTACKS = (
    _besieged("idle", "many connections that say nothing for long, and are answered when they do", "IdleUser", 25),
    _besieged(
        "slowloris", "frames that come a byte at a time and never end: closed by their deadline", "SlowlorisUser"
    ),
    _besieged("slow-reader", "peers that ask and never read: closed by theirs, in bounded memory", "SlowReaderUser"),
    _besieged("half-open", "half a frame and then nothing, or an end of file: no answer, and closed", "HalfOpenUser"),
)

_FAULTS = (
    _struck("reload", "HUP under load: nothing is lost", Kind.HUP),
    _struck("upgrade", "USR2 under load: a new master on the same sockets, nothing is lost", Kind.USR2),
    _struck("kill", "kill -9 of a worker: no more is lost than it held", Kind.KILL),
    _struck("stop", "a worker is stopped and continued: everybody is answered, nobody is killed", Kind.STOP, 2.0),
    Scenario(
        "scale",
        "one worker more, one fewer: nothing is lost",
        MIXED,
        RIGHT,
        users=12,
        rate=40.0,
        duration_s=12.0,
        think_s=0.2,
        faults=(Fault(0.1, Kind.TTIN), Fault(0.55, Kind.TTOU)),
        own=Own((ECHO, "--workers", "2", "--drain-timeout", "10")),
    ),
)

_EDGES = (
    Scenario(
        "tls",
        "the same proof through TLS, connections kept and made anew",
        (Crew("TlsEchoUser", 1), Crew("TlsChurnUser", 1)),
        KEPT,
        users=6,
        think_s=0.05,
        own=Own((ECHO, "--workers", "2", "--tls-cert", "{tls}/cert.pem", "--tls-key", "{tls}/key.pem"), Unit.FRAMES),
        needs=("tls",),
    ),
    Scenario(
        "proxy",
        "PROXY v2 before the first frame: the service sees the address that the header gives",
        (Crew("ProxyUser", 1),),
        RIGHT,
        users=6,
        think_s=0.05,
        own=Own(
            (
                *("prefork_loadtest.targets:peer", "--workers", "2"),
                *("--proxy-protocol", "v2", "--proxy-trust", "127.0.0.0/8"),
            ),
            Unit.OFF,
        ),
        needs=("proxy",),
    ),
    Scenario(
        "rolling",
        "two replicas behind HAProxy, told to stop and started again in turn: nothing is lost",
        # A connection each: through a balancer nobody can tell an end that crosses a request from a lost request.
        (Crew("ChurnUser", 1),),
        (
            *(*RIGHT, "rolling.failed == 0", "rolling.struck == 2", "rolling.unsettled == 0"),
            *("run.log_errors == 0", "run.exit_code == 0"),
        ),
        users=8,
        duration_s=8.0,
        think_s=0.1,
        own=Own(
            (
                # A server that stops serves its accept queue for two thirds of this at most; here it is never empty.
                *(ECHO, "--workers", "2", "--drain-timeout", "4"),
                *("--proxy-protocol", "v2", "--proxy-trust", "127.0.0.0/8"),
            ),
            Unit.OFF,
            replicas=2,
        ),
        needs=("proxy", "haproxy"),
    ),
)

_SERVICES = tuple(map(_service, ("echo", "discard", "daytime", "time", "qotd", "chargen", "greet")))

SCENARIOS = {scenario.name: scenario for scenario in (*_LOADS, *_ATTACKS, *_FAULTS, *_EDGES, *_SERVICES)}


@dataclass(frozen=True, slots=True)
class Suite:
    """Scenarios one after another, each with a server and a report of its own."""

    name: str
    summary: str
    scenarios: tuple[str, ...]


SUITES = {
    suite.name: suite
    for suite in (
        Suite("services", "every built-in service", tuple(scenario.name for scenario in _SERVICES)),
        Suite("full", "every scenario, in less than ten minutes", tuple(SCENARIOS)),
    )
}
