"""The master: wait for events, handle each, reap, and carry out what policy decided.

It owns the loop and the performing of actions; what to do is decided in `policy`, how to fork is in `process`, what is
known of the workers is in `pool`.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Self, assert_never

from prefork import __version__
from prefork.errors import ControlError, PreforkError
from prefork.log import LOGGER
from prefork.master import policy, process, status, upgrade
from prefork.master.notify import Notifier
from prefork.master.pool import Pool, State, Stop, Worker
from prefork.master.signals import SIGNALS, Intent, intent_of
from prefork.scoreboard import Scoreboard
from prefork.settings import MAX_WORKERS
from prefork.signals import SignalWatch
from prefork.worker import boot
from prefork.worker.post import FAILED, READY, Plan, Post

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from prefork.listener import Listener
    from prefork.log import LogHandler
    from prefork.master.control import Asker, ControlSocket
    from prefork.master.upgrade import Channel, Successor

OVERSLEPT: Final = 2.0
"""Seconds beyond the longest wait after which the master takes itself, not its workers, for the one that slept."""


class Master:
    """One running server. Enter it, then `run` it; it returns the program's exit code."""

    def __init__(
        self,
        plan: Plan,
        listeners: list[Listener],
        log: LogHandler,
        control: ControlSocket | None,
        front: Channel | None,
    ) -> None:
        self._plan = plan
        self._listeners = listeners
        self._log = log
        self._control = control
        self._front = front  # the line to the older master that started this one
        self._trial: Successor | None = None
        self._successor: Successor | None = None
        self._notifier = Notifier()
        self._announced = False
        self._replan: Callable[[], Plan] = lambda: plan
        self._board = Scoreboard()
        self._pool = Pool(plan.settings.workers, jitter=lambda: random.uniform(0.75, 1.25))  # noqa: S311 - spreads retries
        self._channels: dict[int, socket.socket] = {}
        self._askers: set[Asker] = set()
        self._waiting: list[Asker] = []  # for the end of a reload
        self._hoping: list[Asker] = []  # for the end of an upgrade
        self._plans: dict[int, Plan] = {self._pool.generation: plan}
        self._totals = status.Totals()
        self._signals = SignalWatch(SIGNALS)
        self._selector = selectors.DefaultSelector()
        self._code: int | None = None
        self._started = self._woke = time.monotonic()

    def on_reload(self, replan: Callable[[], Plan]) -> None:
        """Set what gives the plan of a new generation, from settings read anew; it may raise a `PreforkError`."""
        self._replan = replan

    def __enter__(self) -> Self:
        """Hear signals and commands."""
        self._signals.__enter__()
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        if self._control is not None:
            self._selector.register(self._control, selectors.EVENT_READ, self._on_control)
        if self._front is not None:
            self._selector.register(self._front, selectors.EVENT_READ, self._on_front)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back, and kill what is left after an error of the master's own."""
        for worker in self._pool:
            process.send(worker.pid, signal.SIGKILL)
        self._selector.close()
        for asker in self._askers:
            asker.close()
        for channel in self._channels.values():
            channel.close()
        self._close_control()
        self._signals.__exit__(kind, error, trace)

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        while self._code is None:
            now = time.monotonic()
            self._take_beats(now)
            for action in policy.decide(self._pool, now):
                self._perform(action, now)
            self._let_go_of_the_port(now)
            self._announce()
            self._judge_trial(now)
            self._notifier.alive(now)
            if self._code is None:
                now = time.monotonic()
                self._wait(min(policy.next_deadline(self._pool, now), self._notifier.next_alive(now)))
        return self._code

    def _wait(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if self._selector.get_map().get(key.fd) is key:  # an event before this one may have ended it
                key.data()

    def _let_go_of_the_port(self, now: float) -> None:
        """Close the master's own listeners once the workers are told to stop.

        The accept queue lives as long as any process holds the socket. The last worker closes it after it has stayed
        empty; a master that held on would let newcomers in whom nobody serves, and reset them at its end.
        """
        if self._pool.stop is not None and self._successor is None and now >= self._pool.stop.at:
            for listener in self._listeners:
                listener.close()

    def _take_beats(self, now: float) -> None:
        """Read the heartbeats; if the master itself was stopped or suspended, forgive everybody for it."""
        slept, self._woke = now - self._woke, now
        if slept > 1.0 + OVERSLEPT:
            LOGGER.warning("the master was away for %.1f s; nobody is killed for that", slept)
            self._pool.forgive(slept, now)
        for worker in self._pool:
            reading = self._board.row(worker.row).read()
            worker.beat = max(worker.beat, min(now, reading.beat_s))
            if worker.state is State.SERVING and not worker.worn:
                self._look_for_wear(worker, reading.requests, now)

    def _look_for_wear(self, worker: Worker, requests: int, now: float) -> None:
        settings = worker.settings
        if worker.allowance and requests >= worker.allowance:
            worker.worn = f"it has served {requests} requests (--max-requests)"
        elif settings.max_lifetime and now - worker.started >= settings.max_lifetime:
            worker.worn = f"it has lived for {now - worker.started:.0f} s (--max-lifetime)"
        elif settings.max_rss and (rss := process.rss_bytes(worker.pid)) > settings.max_rss:
            worker.worn = f"it holds {rss >> 20} MiB (--max-rss)"
        if worker.worn:
            LOGGER.info("%s is to be replaced: %s", worker, worker.worn)

    # Events. ---------------------------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.read():
            intent = intent_of(number)
            if intent is None or intent is Intent.CHILD:
                continue
            LOGGER.info("got %s: %s", number.name, intent.value)
            if self._successor is not None and intent is not Intent.UPGRADE:
                self._pass_on(number, intent)
            else:
                self._act(intent)
        # a lost byte must not lose a child: every wake-up by any signal reaps
        self._reap()

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
                    min(MAX_WORKERS, self._pool.target + 1) if self._pool.target else self._plan.settings.workers
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
            worker = self._pool.workers.get(pid)
            master = next((m for m in (self._trial, self._successor) if m is not None and m.pid == pid), None)
            if master is not None:
                self._master_ended(master, wait_status)
                continue
            if worker is None:
                LOGGER.debug("reaped pid %d, which is no worker", pid)
                continue
            self._on_channel(worker)  # its last words
            self._bury(worker, process.how_it_ended(wait_status))

    def _bury(self, worker: Worker, how: str) -> None:
        channel = self._channels.pop(worker.pid)
        if channel.fileno() in self._selector.get_map():
            self._selector.unregister(channel)
        channel.close()
        row = self._board.row(worker.row)
        self._totals.add(row.read())
        row.clear()
        doomed = worker.doomed
        self._pool.never_ready(worker, f"{worker} {how} before it was ready", hopeless=False)
        if not self._pool.exited(worker, time.monotonic()):
            LOGGER.info("%s %s", worker, how)
            return
        self._totals.lost += 1
        if worker.ready_at is not None or doomed:
            LOGGER.error("%s %s%s", worker, how, f": {doomed}" if doomed else "")

    def _on_channel(self, worker: Worker) -> None:
        channel = self._channels[worker.pid]
        try:
            said = channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said and channel.fileno() in self._selector.get_map():
            self._selector.unregister(channel)  # it is ending; its SIGCHLD comes
        for line in said.splitlines(keepends=True):
            if line == READY:
                self._pool.ready(worker, time.monotonic())
                LOGGER.info("%s is ready", worker)
            elif line.startswith(FAILED):
                why = line.removeprefix(FAILED).decode("utf-8", "replace").strip()
                self._pool.never_ready(worker, why, hopeless=True)
            else:
                LOGGER.warning("%s said something unknown", worker)  # it is all gossip: never trusted, never fatal

    def _on_control(self) -> None:
        if self._control is None:
            return
        asker = self._control.accept()
        if asker is not None:
            self._askers.add(asker)
            self._selector.register(asker, selectors.EVENT_READ, lambda: self._on_asker(asker))

    def _on_asker(self, asker: Asker) -> None:
        try:
            request = asker.read()
            if request is not None:
                self._command(asker, request)
        except ControlError as error:
            asker.answer(error=str(error))
            self._dismiss(asker)

    def _dismiss(self, asker: Asker) -> None:
        self._selector.unregister(asker)
        self._askers.discard(asker)
        if asker in self._waiting:
            self._waiting.remove(asker)
        asker.close()

    def _command(self, asker: Asker, request: dict[str, Any]) -> None:
        match request:
            case {"command": "status"}:
                asker.answer(**self.status())
            case {"command": "stop", **rest}:
                self.stop(now=bool(rest.get("now")))
                asker.answer(ok=True)
            case {"command": "scale", "workers": int(count)} if 1 <= count <= MAX_WORKERS:
                self.scale(count)
                asker.answer(ok=True, workers=count)
            case {"command": "scale"}:
                raise ControlError(f"scale: give a number of workers from 1 to {MAX_WORKERS}")
            case {"command": "reopen-logs"}:
                self.reopen_logs()
                asker.answer(ok=True)
            case {"command": "reload"}:
                self.reload(asker)
            case {"command": "upgrade"}:
                self.upgrade(asker)
            case _:
                raise ControlError(f"unknown command {str(request.get('command'))[:40]!r}")

    # What people ask for. --------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what `prefork status --json` prints."""
        now = time.monotonic()
        return {
            "state": status.state_of(self._pool),
            "version": __version__,
            "pid": os.getpid(),
            "target": self._plan.settings.target,
            "generation": self._pool.generation,
            "uptime_s": round(now - self._started, 3),
            "listeners": status.listeners(self._listeners),
            "workers": status.workers(self._pool, self._board, now),
            "totals": self._totals.with_living(self._board.row(w.row).read() for w in self._pool),
        }

    def stop(self, *, now: bool) -> None:
        """Stop: gracefully after the stop delay, or now."""
        at = time.monotonic() + (0.0 if now else self._plan.settings.stop_delay)
        before = self._pool.stop
        if before is not None and (before.signal is signal.SIGQUIT or not now):
            return
        self._pool.stop = Stop(signal.SIGQUIT if now else signal.SIGTERM, at, before.code if before else 0)
        self._notifier.stopping()
        if self._front is not None:
            self._front.say(upgrade.STOPPING)
        self._end_reload(error="the server is stopping")
        if self._trial is not None:
            self._give_trial_up("the server is stopping")

    def scale(self, workers: int) -> None:
        """Set how many workers there should be."""
        if workers != self._pool.target:
            LOGGER.info("scaling from %d to %d workers", self._pool.target, workers)
            self._pool.target = workers

    def reopen_logs(self) -> None:
        """Reopen the log file, here and in every worker."""
        try:
            self._log.reopen()
        except OSError as error:
            LOGGER.error("cannot reopen the log: %s", error.strerror)
        for worker in self._pool:
            if worker.state is not State.STARTING:  # it opened the file by itself just now, or inherits this one
                process.send(worker.pid, signal.SIGUSR1)

    def reload(self, asker: Asker | None) -> None:
        """Try a new generation with the settings as they are now; `asker` is told how that ended.

        What was bound stays bound, and what needs a new process (addresses, the control socket, a preloaded target)
        stays as it was.
        """
        if self._pool.stop is not None or self._pool.candidate is not None:
            why = "the server is stopping" if self._pool.stop else "a reload is under way"
            LOGGER.warning("not reloading: %s", why)
            if asker is not None:
                asker.answer(error=why)
            return
        if asker is not None:
            self._waiting.append(asker)
        try:
            plan = self._replan()
        except PreforkError as error:
            why = "; ".join(str(error).splitlines())
            LOGGER.error("reload refused, nothing has changed: %s", why)
            self._end_reload(error=why)
            return
        self._notifier.reloading()
        generation = self._pool.try_generation()
        self._plans[generation] = plan
        if self._pool.target == 0:
            self._pool.target = plan.settings.workers
        LOGGER.info("reloading: trying generation %d", generation)

    def _end_reload(self, **answer: object) -> None:
        for asker in self._waiting:
            asker.answer(**answer)
        self._waiting.clear()

    # Upgrade. --------------------------------------------------------------------------------------------------------

    def upgrade(self, asker: Asker | None) -> None:
        """Try a new master beside this one; `asker` is told how that ended."""
        if self._front is not None:  # the process that everybody knows does it; it tells this one how it went
            if asker is not None:
                self._hoping.append(asker)
            self._front.say(upgrade.UPGRADE)
            return
        why = "an upgrade is under way" if self._trial else "a reload is under way" if self._pool.candidate else ""
        if self._pool.stop is not None and self._successor is None:
            why = "the server is stopping"
        if why:
            self._upgrade_refused(why, asker)
            return
        if asker is not None:
            self._hoping.append(asker)
        deadline = time.monotonic() + self._plan.settings.boot_timeout
        try:
            self._trial = upgrade.launch(self._heirlooms(), deadline, self._not_a_childs())
        except OSError as error:
            self._upgrade_refused(f"cannot fork: {error.strerror}", None)
            return
        self._selector.register(self._trial.channel, selectors.EVENT_READ, self._on_masters)
        LOGGER.info("upgrading: trying %s", self._trial)

    def _heirlooms(self) -> list[Listener]:
        """Return the listeners, kept open here even as the front: a later upgrade inherits them from this process."""
        return self._listeners

    def _on_masters(self) -> None:
        """Hear what the new master, or the successor, says."""
        for master in (self._trial, self._successor):
            if master is None:
                continue
            lines, gone = master.channel.hear()
            for word, reason in lines:
                if word == upgrade.READY and master is self._trial:
                    self._hand_over(master)
                elif word == upgrade.FAILED and master is self._trial:
                    master.failure = reason
                elif word == upgrade.STOPPING and master is self._successor:
                    for one in self._listeners:
                        one.close()
                elif word == upgrade.UPGRADE and master is self._successor:
                    self.upgrade(None)
            if gone:
                self._forget(master.channel)

    def _on_front(self) -> None:
        """Hear what the older master says."""
        front = self._front
        if front is None:
            return
        lines, gone = front.hear()
        for word, reason in lines:
            if word == upgrade.RETIRE:
                LOGGER.info("a newer master serves; leaving")
                self._front = None
                self._leave_to_another()
            elif word == upgrade.REFUSED:
                self._end_upgrade(error=reason)
            elif word == upgrade.RELEASED:
                self._front = None
        if gone:
            self._forget(front)
        if gone and self._front is not None:
            LOGGER.warning("the older master that started this one is gone; stopping")
            self._front = None
            self.stop(now=False)

    def _hand_over(self, new: Successor) -> None:
        """Let the new master be the one that serves: it has said that all its workers do."""
        LOGGER.info("upgraded: %s serves", new)
        before, self._successor, self._trial = self._successor, new, None
        if before is not None:
            before.channel.say(upgrade.RETIRE)
            self._forget(before.channel)
            return
        self._leave_to_another()
        if self._notifier.present:
            self._notifier.main_pid(new.pid)
            new.channel.say(upgrade.RELEASED)
            self._forget(new.channel)
            self._successor = None

    def _leave_to_another(self) -> None:
        """Retire every worker: another master's serve the same accept queue."""
        for one in self._listeners:
            one.unlink = None  # its path is the other's now
        self._pool.stop = Stop(signal.SIGUSR2, time.monotonic(), 0)
        self._end_upgrade(ok=True)
        self._close_control()

    def _judge_trial(self, now: float) -> None:
        if self._trial is not None and now >= self._trial.deadline:
            self._give_trial_up(f"it was not ready within --boot-timeout {self._plan.settings.boot_timeout:g} s")

    def _give_trial_up(self, why: str) -> None:
        """Roll back: the new master's workers leave the queue to the old ones when it is gone."""
        trial, self._trial = self._trial, None
        if trial is not None:
            process.send(trial.pid, signal.SIGKILL)
            self._forget(trial.channel)
            self._upgrade_refused(trial.failure or f"{trial}: {why}", None)

    def _upgrade_refused(self, why: str, asker: Asker | None) -> None:
        LOGGER.error("upgrade failed, nothing has changed: %s", why)
        if asker is not None:
            asker.answer(error=why)
            return
        self._end_upgrade(error=why)
        if self._successor is not None:
            self._successor.channel.say(upgrade.REFUSED, why)

    def _end_upgrade(self, **answer: object) -> None:
        for asker in self._hoping:
            asker.answer(**answer)
        self._hoping.clear()

    def _master_ended(self, master: Successor, wait_status: int) -> None:
        how = process.how_it_ended(wait_status)
        self._on_masters()  # its last words
        if master is self._trial:
            self._give_trial_up(f"{how} before it was ready")
        elif master is self._successor:
            LOGGER.info("%s %s", master, how)
            self._forget(master.channel)
            self._successor = None
            code = os.waitstatus_to_exitcode(wait_status)
            self._pool.stop = Stop(signal.SIGUSR2, time.monotonic(), code if code >= 0 else process.CRASHED)

    def _pass_on(self, number: signal.Signals, intent: Intent) -> None:
        """Give a signal to the successor; one that means "now" counts for the workers that are still here too."""
        if self._successor is not None:
            process.send(self._successor.pid, number)
        if intent is Intent.QUIT:
            self._pool.stop = Stop(signal.SIGQUIT, time.monotonic(), 0)

    def _announce(self) -> None:
        """Say once that everything serves: to the service manager and to the older master."""
        if self._announced or self._pool.stop is not None or self._pool.serving() < max(1, self._pool.target):
            return
        self._announced = True
        self._notifier.ready(f"{self._pool.target} workers serve {self._plan.settings.target}")
        if self._control is not None:
            self._control.take_over()
        if self._front is not None:
            self._front.say(upgrade.READY)

    def _close_control(self) -> None:
        for asker in tuple(self._askers):
            self._dismiss(asker)
        if self._control is not None:
            self._forget(self._control)
            self._control.unlink()
            self._control = None

    def _forget(self, thing: Channel | ControlSocket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(thing)
        thing.close()

    def _not_a_childs(self) -> list[process.Closeable]:
        """Return everything open here that no child may keep."""
        masters = [m.channel for m in (self._trial, self._successor) if m is not None]
        others = [thing for thing in (self._control, self._front) if thing is not None]
        return [self._signals, self._selector, *self._channels.values(), *self._askers, *masters, *others]

    # Actions. --------------------------------------------------------------------------------------------------------

    def _perform(self, action: policy.Action, now: float) -> None:
        match action:
            case policy.Spawn(slot, generation):
                self._spawn(slot, generation, now)
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
                LOGGER.error("reload failed, generation %d still serves: %s", self._pool.generation, why)
                self._plans.pop(generation)
                self._pool.settle(self._pool.generation)
                self._notifier.ready(f"Reload failed: {why}")
                self._end_reload(error=why)
            case policy.GiveUp(why):
                LOGGER.error("%s", why)
                if self._front is not None:
                    self._front.say(upgrade.FAILED, why)
                self._pool.stop = Stop(signal.SIGQUIT, now, boot.NEVER_READY)
            case policy.Finish(code):
                if self._successor is None:
                    self._code = code
            case _:
                assert_never(action)

    def _promote(self, generation: int) -> None:
        before, self._plan = self._plan.settings, self._plans[generation]
        if self._plan.settings.workers != before.workers:
            self._pool.target = self._plan.settings.workers
        self._plans = {generation: self._plan}
        self._pool.settle(generation)
        LOGGER.info("reloaded: generation %d serves", generation)
        self._notifier.ready(f"Generation {generation} serves")
        self._end_reload(ok=True, generation=generation)

    def _spawn(self, slot: int, generation: int, now: float) -> None:
        row = self._pool.free_row()
        plan = self._plans[generation]
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._board.row(row).clear()
        self._board.set_used(max(row + 1, *(w.row + 1 for w in self._pool), 0))
        board, cells = self._board, self._board.row(row)
        post = Post(slot, generation, plan, tuple(self._listeners), board, cells, theirs, self._log)
        try:
            pid = process.fork(lambda: boot.run(post), [ours, *self._not_a_childs()])
        except OSError as error:
            LOGGER.error("cannot fork: %s; trying again in a moment", error.strerror)
            self._pool.fork_failed(slot, now)
            ours.close()
            return
        finally:
            theirs.close()
        # the deadline counts from before the fork: a child that never runs is overdue too
        deadline = now + plan.settings.boot_timeout
        worker = Worker(slot, generation, pid, row, plan.settings, started=now, deadline=deadline, beat=now)
        if plan.settings.max_requests:
            jitter = random.randint(0, plan.settings.max_requests_jitter)  # noqa: S311 - spreads the replacements
            worker.allowance = plan.settings.max_requests + jitter
        self._pool.workers[pid] = worker
        self._channels[pid] = ours
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_channel(worker))
        LOGGER.debug("%s forked", worker)
