"""The master: wait for events, handle each, and carry out what policy decided.

It owns the loop, what signals and people ask for, and the performing of actions. What to do is decided in `policy`;
what is known of the workers is in `pool`, `children` has them from fork to burial, and `generations` has the reloads.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, assert_never

from prefork import __version__, log
from prefork.log import LOGGER, fields
from prefork.master import metrics, policy, process, status, upgrade
from prefork.master.children import Children, Legacy
from prefork.master.commands import Commands
from prefork.master.events import Events
from prefork.master.expiry import Expiry
from prefork.master.generations import Generations
from prefork.master.metrics import Metrics
from prefork.master.notify import Notifier
from prefork.master.pool import Pool, State, Stop
from prefork.master.signals import REPEATABLE, SIGNALS, Intent, intent_of
from prefork.master.spare import Spare
from prefork.master.succession import Court, Succession
from prefork.settings import MAX_WORKERS
from prefork.signals import SignalWatch
from prefork.throttle import Throttle
from prefork.worker import boot, privileges

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from prefork.listener import Listener
    from prefork.log import LogHandler
    from prefork.master.control import Asker, ControlSocket
    from prefork.master.upgrade import Heritage
    from prefork.worker.post import Plan

OVERSLEPT: Final = 2.0
"""Seconds beyond the longest wait after which the master takes itself, not its workers, for the one that slept."""


@dataclass(frozen=True)
class Estate:
    """What an older master left to this one, and what to do once it is this one's own."""

    heritage: Heritage
    metrics: list[Listener]  # of the metrics socket
    taken: Callable[[], None]  # this master serves: the paths of the sockets are its own
    released: Callable[[], None]  # and no older process stands in front of it


class Master:
    """One running server. Enter it, then `run` it; it returns the program's exit code."""

    def __init__(
        self,
        plan: Plan,
        listeners: list[Listener],
        handler: LogHandler,
        control: ControlSocket | None,
        estate: Estate,
    ) -> None:
        self._listeners = listeners
        self._log = handler
        self._pool = Pool(plan.settings.workers.low, jitter=lambda: random.uniform(0.75, 1.25))  # noqa: S311 - spreads retries
        self._spare = Spare(plan.settings.workers, time.monotonic())
        self._totals = status.Totals()
        self._expiry = Expiry(plan.tls)
        self._signals = SignalWatch(SIGNALS)
        self._events = Events()
        self._notifier = Notifier()
        self._generations = Generations(plan, self._pool, self._totals, self._notifier)
        legacy = Legacy(listeners, handler, plan.settings.max_connections)
        self._children = Children(self._pool, legacy, self._totals, self._events, self._not_a_childs)
        self._commands = Commands(control, self._events, self)
        self._estate = estate
        court = Court(
            serve=self._take_over,
            released=estate.released,
            retire=self._leave_to_another,
            taken=self._commands.close,
            given_up=self._commands.forget_heir,
            stop=lambda: self.stop(now=False),
            ended=self._end_as,
            not_a_childs=self._not_a_childs,
        )
        self._succession = Succession(estate.heritage, self._events, self._notifier, court)
        self._metrics = Metrics(estate.metrics, self._events, {metrics.PAGE: self._page, metrics.READY: self._ready})
        if not self._succession.on_trial:
            self._metrics.open()
        self._said = Throttle()
        self._announced = False
        self._code: int | None = None
        self._started = self._woke = time.monotonic()
        self._started_at = round(time.time(), 3)

    def on_reload(self, replan: Callable[[Plan], Plan]) -> None:
        """Set what makes of the plan that serves that of a new generation; it may raise a `PreforkError`."""
        self._generations.replan = replan

    def __enter__(self) -> Self:
        """Hear signals."""
        self._signals.__enter__()
        self._events.on(self._signals, self._on_signals)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back, and kill what is left after an error of the master's own."""
        for worker in self._pool:
            process.send(worker.pid, signal.SIGKILL)
        self._commands.close()
        self._metrics.close()
        self._children.close()
        for line in self._succession.open_things():
            self._events.drop(line)
        self._events.close()
        self._signals.__exit__(kind, error, trace)

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        while self._code is None:
            now = time.monotonic()
            self._take_beats(now)
            self._keep_spare(now)
            self._generations.reload_if_asked_meanwhile()
            for action in policy.decide(self._pool, now):
                self._perform(action, now)
            self._let_go_of_the_port(now)
            self._announce()
            self._commands.look(now)
            self._succession.judge(now)
            self._notifier.alive(now)
            self._expiry.look(now)
            self._metrics.look(now)
            if self._code is None:
                now = time.monotonic()
                self._events.wait(min(policy.next_deadline(self._pool, now), self._notifier.next_alive(now)))
        return self._code

    def _let_go_of_the_port(self, now: float) -> None:
        """Close the master's own listeners once the workers are told to stop.

        The accept queue lives as long as any process holds the socket. The last worker closes it after it has stayed
        empty; a master that held on would let newcomers in whom nobody serves, and reset them at its end.
        """
        if self._pool.stop is not None and now >= self._pool.stop.at:
            self._close_listeners()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _announce(self) -> None:
        """Say once that everything serves: to the service manager, on the control socket, to an older master."""
        if self._announced or self._pool.stop is not None or self._pool.serving() < max(1, self._pool.target):
            return
        if not self._succession.on_trial:
            self._announced = True
            self._take_over()
        elif (proven_at := self._pool.proven_at(self._pool.generation)) is not None and time.monotonic() >= proven_at:
            self._announced = True
            self._succession.say_ready()

    def _take_over(self) -> None:
        """Be the master that serves."""
        self._commands.take_over()
        self._metrics.open()
        self._estate.taken()
        self._notifier.ready(f"{self._pool.target} workers serve {self._generations.settings.target}")

    def _take_beats(self, now: float) -> None:
        """Read the heartbeats; if the master itself was stopped or suspended, forgive everybody for it."""
        slept, self._woke = now - self._woke, now
        if slept > 1.0 + OVERSLEPT:
            LOGGER.warning("the master was away for %.1f s; nobody is killed for that", slept)
            self._pool.forgive(slept, now)
        self._children.look(now)

    def _keep_spare(self, now: float) -> None:
        """With `--workers MIN:MAX`, add or take away what the load asks for."""
        if self._spare.due(now) and self._pool.stop is None and self._pool.target:
            loads = self._children.loads(self._pool.generation, now)
            self.scale(self._spare.look(self._pool.target, loads, now))

    # Events. ---------------------------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.read():
            intent = intent_of(number)
            if intent is None or intent is Intent.CHILD:
                continue
            self._say(number, intent)
            if self._succession.is_front:
                self._pass_on(number, intent)
            else:
                self._act(intent)
        # a lost byte must not lose a child: every wake-up by any signal reaps
        self._reap()

    def _say(self, number: signal.Signals, intent: Intent) -> None:
        more = self._said.more(number.name) if intent in REPEATABLE else {}
        if more is not None:
            LOGGER.info("got %s: %s", number.name, intent.value, extra=fields(**more))

    def _act(self, intent: Intent) -> None:
        match intent:
            case Intent.STOP:
                self.stop(now=self._pool.stop is not None)
            case Intent.QUIT:
                self.stop(now=True)
            case Intent.RELOAD:
                self.reload(None)
            case Intent.UPGRADE:
                self.upgrade(None)
            case Intent.REOPEN_LOGS:
                self.reopen_logs()
            case Intent.MORE:
                self.scale(
                    min(MAX_WORKERS, self._pool.target + 1)
                    if self._pool.target
                    else self._generations.settings.workers.low
                )
            case Intent.FEWER:
                self.scale(max(1, self._pool.target - 1))
            case Intent.DRAIN:
                self.scale(0)
            case Intent.CHILD:
                pass
            case _:
                assert_never(intent)

    def _reap(self) -> None:
        for pid, wait_status in process.reap():
            if not self._succession.reaped(pid, wait_status):
                self._children.ended(pid, wait_status)

    # What people ask for. --------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what `prefork status --json` prints."""
        now = time.monotonic()
        return {
            "state": status.state_of(self._pool),
            "version": __version__,
            "pid": os.getpid(),
            "target": self._generations.settings.target,
            "generation": self._pool.generation,
            "started": self._started_at,
            "uptime_s": round(now - self._started, 3),
            "listeners": status.listeners(self._listeners),
            "workers_wanted": self._pool.target,
            "workers": status.workers(self._pool, self._children.board, now),
            "totals": self._totals.with_living(self._children.readings(), self._log.dropped),
            "certificates": status.certificates(self._generations.plan.tls),
        }

    def _page(self) -> tuple[str, bytes]:
        from prefork.master import exposition  # noqa: PLC0415 - only a server with --metrics has loaded the library

        return "200 OK", exposition.page(self.status())

    def _ready(self) -> tuple[str, bytes]:
        """Tell a balancer whether to send newcomers: not before workers serve, not once the server is to stop."""
        state = status.state_of(self._pool)
        ready = self._pool.stop is None and self._pool.serving() > 0
        return "200 OK" if ready else "503 Service Unavailable", f"{state}\n".encode("ascii")

    def stop(self, *, now: bool) -> None:
        """Stop: gracefully after the stop delay, or now."""
        at = time.monotonic() + (0.0 if now else self._generations.settings.stop_delay)
        before = self._pool.stop
        if before is not None and (before.signal is signal.SIGQUIT or not now):
            return
        self._pool.stop = Stop(signal.SIGQUIT if now else signal.SIGTERM, at, before.code if before else 0)
        if before is None:
            self._notifier.stopping()
        self._generations.tell_failed("the server is stopping")
        self._succession.give_up("the server is stopping")

    def scale(self, workers: int) -> None:
        """Set how many workers there should be."""
        if workers != self._pool.target:
            LOGGER.info("scaling from %d to %d workers", self._pool.target, workers)
            self._pool.target = workers

    def reopen_logs(self) -> str:
        """Reopen the log file, here and in every worker; return why that is not possible, and the old one is kept."""
        why = ""
        try:
            self._log.reopen()
            privileges.give_log(self._generations.settings, self._log.fd)
        except OSError as error:
            why = f"cannot reopen the log, the old file is still written to: {error.strerror}"
            LOGGER.error("%s", why)
        for worker in self._pool:
            if worker.state is State.STARTING:  # it would not hear yet
                worker.log_is_old = True
            else:
                process.send(worker.pid, signal.SIGUSR1)
        return why

    def reload(self, asker: Asker | None) -> None:
        """Try a new generation with the settings as they are now; `asker` is told how that ended."""
        self._generations.reload(asker)

    def upgrade(self, asker: Asker | None) -> None:
        """Try a new master, possibly a new version of this program; `asker` is told how that ended."""
        busy = "a reload is under way" if self._pool.candidate is not None else ""
        if self._pool.stop is not None:
            busy = "the server is stopping"
        passed_on = upgrade.Passed(self._listeners, self._metrics.listeners)
        self._succession.try_new(passed_on, self._generations.settings.boot_timeout, asker, busy)

    def _leave_to_another(self) -> None:
        """Retire every worker: a newer master's serve the same accept queue."""
        self._commands.retire()
        for listener in self._listeners:
            listener.owned = False  # its path is the other's now
        self._metrics.leave_to_another()
        self._expiry.serve(None)
        self._generations.tell_failed("a newer master has taken over")
        self._pool.stop = Stop(signal.SIGUSR2, time.monotonic(), 0)

    def _pass_on(self, number: signal.Signals, intent: Intent) -> None:
        """As the front: give a signal to the master that serves, and do here what concerns all that still serve."""
        stops = intent in {Intent.STOP, Intent.QUIT}
        if self._succession.pass_on(number, stops=stops, now=intent is Intent.QUIT):
            self._pool.stop = Stop(signal.SIGQUIT, time.monotonic(), self._pool.stop.code if self._pool.stop else 0)
        elif intent is Intent.REOPEN_LOGS:
            self.reopen_logs()

    def _end_as(self, code: int) -> None:
        """End as the newer master has ended, once the last worker here is gone."""
        number = self._pool.stop.signal if self._pool.stop else signal.SIGUSR2
        self._pool.stop = Stop(number, time.monotonic(), code)

    # Actions. --------------------------------------------------------------------------------------------------------

    def _perform(self, action: policy.Action, now: float) -> None:
        match action:
            case policy.Spawn(slot, generation):
                on_trial = self._succession.on_trial or generation == self._pool.candidate
                self._children.spawn(slot, generation, self._generations.plan_of(generation), now, on_trial=on_trial)
            case policy.Tell(worker, number, patience):
                self._pool.tell(worker, number, patience, now)
                process.send(worker.pid, number)
            case policy.Kill(worker, number, why):
                LOGGER.error("%s: %s; sending %s", worker, why, number.name)
                self._pool.never_ready(worker, f"{worker}: {why}", hopeless=True)
                self._pool.doom(worker, why, now)
                process.send(worker.pid, number)
            case policy.Promote(generation):
                self._promote(generation)
            case policy.Abandon(generation, why):
                self._generations.abandon(generation, why)
            case policy.GiveUp(why):
                LOGGER.error("%s", why)
                self._succession.say_failed(why)
                self._pool.stop = Stop(signal.SIGQUIT, now, boot.NEVER_READY)
            case policy.Finish(code):
                if not self._succession.must_stay:
                    self._code = code
            case _:
                assert_never(action)

    def _promote(self, generation: int) -> None:
        before = self._generations.promote(generation)
        settings = self._generations.settings
        if settings.workers != before.workers:
            self._pool.target = settings.workers.low
            self._spare = Spare(settings.workers, time.monotonic())
        log.set_levels(settings.log_level, access=settings.access_log)
        self._expiry.serve(self._generations.plan.tls)
        self._generations.say_promoted()

    def _not_a_childs(self) -> list[process.Closeable]:
        """Return everything open here that no child may keep."""
        mine: list[process.Closeable] = [self._signals, self._events, *self._children.open_things()]
        mine += self._metrics.open_things()
        return [*mine, *self._commands.open_things(), *self._succession.open_things()]
