"""Reloads: the plan of the generation that serves, that of the one that is tried, and who waits for how that ends.

It owns when a reload may begin and what is said of its end. When a generation has proved itself is `policy`'s to say;
what else changes with the plan is the master's. It forks nothing and ends nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefork.errors import PreforkError
from prefork.log import LOGGER
from prefork.master.commands import Audience
from prefork.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork.master.control import Asker
    from prefork.master.notify import Notifier
    from prefork.master.pool import Pool
    from prefork.master.status import Totals
    from prefork.settings import Settings
    from prefork.worker.post import Plan


class Generations:
    """The plans of the generations.

    Args:
        plan: what the first generation serves.
        pool: which generation serves, and which one is tried.
        totals: where reloads are counted.
        notifier: tells the service manager.

    Attributes:
        plan: what the generation that serves has.
        replan: makes of it that of a new one; it may raise a `PreforkError`.
    """

    def __init__(self, plan: Plan, pool: Pool, totals: Totals, notifier: Notifier) -> None:
        self.plan = plan
        self.replan: Callable[[Plan], Plan] = lambda current: current
        self._pool = pool
        self._totals = totals
        self._notifier = notifier
        self._plans = {pool.generation: plan}
        self._audience = Audience()
        self._again = False  # a HUP came while a reload was under way
        self._said = Throttle()

    @property
    def settings(self) -> Settings:
        """Those of the generation that serves."""
        return self.plan.settings

    def plan_of(self, generation: int) -> Plan:
        """Return the plan of the generation that serves, or of the one that is tried."""
        return self._plans[generation]

    def reload(self, asker: Asker | None) -> None:
        """Try a new generation with the settings as they are now; `asker` is told how that ended.

        What was bound stays bound, and what needs a new process (addresses, the control socket, a preloaded target)
        stays as it was. A signal that comes during a reload is kept: the files may have changed since that began.
        """
        if asker is None and self._pool.candidate is not None and self._pool.stop is None:
            self._again = True
            return
        if self._pool.stop is not None or self._pool.candidate is not None:
            why = "the server is stopping" if self._pool.stop else "a reload is under way"
            if self._said.left_out(why) is not None:
                LOGGER.warning("not reloading: %s", why)
            if asker is not None:
                asker.answer(error=why)
            return
        self._audience.add(asker)
        try:
            plan = self.replan(self.plan)
        except PreforkError as error:
            self._refuse("; ".join(str(error).splitlines()))
            return
        except Exception as error:  # noqa: BLE001 - the server that serves does not end by it
            self._refuse(f"{type(error).__name__}: {error}")
            LOGGER.exception("this is a fault of prefork's own")
            return
        self._notifier.reloading()
        generation = self._pool.try_generation()
        self._plans[generation] = plan
        if self._pool.target == 0:
            self._pool.target = plan.settings.workers.low
        LOGGER.info("reloading: trying generation %d", generation)

    def _refuse(self, why: str) -> None:
        LOGGER.error("reload refused, nothing has changed: %s", why)
        self._totals.reloads_failed += 1
        self.tell_failed(why)

    def reload_if_asked_meanwhile(self) -> None:
        """Reload again for a signal that came during the last one."""
        if self._again and self._pool.candidate is None and self._pool.stop is None:
            self._again = False
            self.reload(None)

    def promote(self, generation: int) -> Settings:
        """Let the generation that was tried be the one that serves; return the settings that served before."""
        before, self.plan = self.settings, self._plans[generation]
        self._plans = {generation: self.plan}
        self._pool.settle(generation)
        self._totals.reloads += 1
        return before

    def say_promoted(self) -> None:
        """Say that it serves, once all that it changes is changed."""
        generation = self._pool.generation
        LOGGER.info("reloaded: generation %d serves", generation)
        self._notifier.ready(f"Generation {generation} serves")
        self._audience.tell(ok=True, generation=generation)

    def abandon(self, generation: int, why: str) -> None:
        """Forget the generation that was tried."""
        self._totals.reloads_failed += 1
        LOGGER.error("reload failed, generation %d still serves: %s", self._pool.generation, why)
        self._plans.pop(generation)
        self._pool.settle(self._pool.generation)
        self._notifier.ready(f"Reload failed: {why}")
        self.tell_failed(why)

    def tell_failed(self, why: str) -> None:
        """Tell who waits that nothing has come of it."""
        self._audience.tell(error=why)
