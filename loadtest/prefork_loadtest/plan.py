"""What one run is to do: the scenario and what was asked on the command line, checked before anything starts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefork_loadtest import faultplan, gates
from prefork_loadtest.faults import GIVE_UP_S
from prefork_loadtest.ledger import DRAIN, HOSTILE, RAMP, ROLLING, STEADY
from prefork_loadtest.tally import Unit

if TYPE_CHECKING:
    from prefork_loadtest.faultplan import Fault
    from prefork_loadtest.reach import Reach
    from prefork_loadtest.scenarios import Scenario

LEAST_PART = 0.5
"""Of the requests that the schedule intends, this part has to be answered, or the run proves nothing."""
CONTROL_INTERVAL_S = 0.5


class PlanError(ValueError):
    """What was asked cannot be run. The text is one line with the option, the value and the cure."""


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        scenario: the users and the gates.
        host: the server, as `tcp://HOST:PORT`; "" while it is still to be started.
        users: how many users.
        rate: requests per second of all open-rate users together.
        duration_s: seconds under full load.
        workers: Locust worker processes to start here; 0 makes the load in this process.
        external_workers: Locust worker processes that somebody else starts, to be waited for.
        bind: where external workers connect, `(host, port)`.
        wait_s: seconds to wait for the server's first answer.
        reply_timeout_s: seconds that a reply may take, and a connection.
        reach: how the server's status is asked and its processes are struck; None if they cannot be.
        faults: what to do to the server and when, in seconds under full load.
        settle_s: seconds that the server may take to settle after each fault.
        front: the server's first process, if it was started here, as the leader of a session; else None.
        probe: `SEND=>EXPECT`, the request of a service that is no echo; "" for the proof of an echo.
        seed: of the faults' plan, to print; None if nothing was drawn.
        own_gates: gates from a file, which replace the scenario's.
        unit: in what the server's own count is compared with the load's.
        tls_ca: a file with the certificate that TLS users trust; "" for those that the system trusts.
    """

    scenario: Scenario
    host: str
    users: int
    rate: float
    duration_s: float
    workers: int = 0
    external_workers: int = 0
    bind: tuple[str, int] = ("127.0.0.1", 0)
    wait_s: float = 5.0
    reply_timeout_s: float = 5.0
    reach: Reach | None = None
    faults: tuple[Fault, ...] = ()
    settle_s: float = GIVE_UP_S
    front: int | None = None
    probe: str = ""
    seed: int | None = None
    own_gates: tuple[gates.Gate, ...] = ()
    unit: Unit = Unit.OFF
    tls_ca: str = ""

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            PlanError: two options contradict each other.
            GateError: a gate of the scenario names what this run will not have.
        """
        _ = self.gates
        if self.faults and self.reach is None and self.host:
            raise PlanError("a fault needs --control PATH, or --container NAME: the server's processes are found by it")
        late = [fault.at_s for fault in self.faults if fault.at_s >= self.duration_s]
        if late:
            raise PlanError(f"a fault at {late[0]:g} s: it must come before --duration {self.duration_s:g}")
        longest = max((fault.hold_s for fault in self.faults), default=0.0)
        if longest >= self.reply_timeout_s:
            raise PlanError(f"--reply-timeout {self.reply_timeout_s:g}: it must be longer than --hold {longest:g}")
        if self.workers and self.external_workers:
            raise PlanError("--workers and --external-workers: choose one; the load is made here or elsewhere")
        if self.users < max(self.workers, self.external_workers):
            raise PlanError(f"--users {self.users}: fewer than the load workers; give each of them one at least")

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that this run will have, for gates to name."""
        stages = [stage.phase for stage in self.scenario.stages]
        faults = [*(fault.kind.phase for fault in self.faults), *((ROLLING,) if self.is_rolling else ())]
        return (*dict.fromkeys((RAMP, *stages, STEADY, *faults, DRAIN, HOSTILE)),)

    @property
    def is_rolling(self) -> bool:
        """Whether replicas are started for it, and restarted in turn."""
        return self.scenario.own is not None and self.scenario.own.replicas > 1

    @property
    def gates(self) -> tuple[gates.Gate, ...]:
        """The gates of this run."""
        if self.own_gates:
            return self.own_gates
        texts = list(self.scenario.gates)
        if self.faults:
            texts += faultplan.gates(fault.kind for fault in self.faults)
        if self.front is not None:
            texts += ["run.log_errors == 0", "run.exit_code == 0"]
        return tuple(gates.parse(text, self.phases) for text in texts)

    @property
    def user_rate(self) -> float:
        """Requests per second of one open-rate user."""
        return self.rate / max(1, self.scenario.open_users(self.users))

    @property
    def least_requests(self) -> int:
        """Fewer right answers than this prove nothing."""
        scheduled = self.scenario.open_users(self.users)
        intended = self.scenario.intended(self.rate, self.duration_s) if scheduled else 0.0
        return max(self.users, int(intended * LEAST_PART))

    def settings(self) -> dict[str, str]:
        """Names and values to print."""
        load = "in one process"
        if self.workers or self.external_workers:
            load = f"{self.workers or self.external_workers} Locust workers"
        counts = Counter(fault.kind.value for fault in self.faults)
        faults = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"
        if self.seed is not None:
            faults += f"; seed {self.seed}"
        crews = ", ".join(f"{size} {name}" for name, size in self.scenario.crew_sizes(self.users).items())
        return {
            "users": f"{self.users} ({crews})",
            "open rate": f"{self.rate:g} requests/s over {self.scenario.open_users(self.users)} users",
            "duration": f"{self.duration_s:g} s under full load",
            "load": load,
            "request": repr(self.probe) if self.probe else "the proof of an echo",
            "stages": ", ".join(f"{stage.phase} at pace {stage.pace:g}" for stage in self.scenario.stages),
            "faults": faults,
        }
