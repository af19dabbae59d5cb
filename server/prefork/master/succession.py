"""Who is the master: the one that made this one, the one on trial, the one that serves in this one's place.

It owns the upgrade as this process sees it, whichever of these it is; what is passed on and said is in `upgrade`. It
touches no worker: `Court` is what it asks of the loop.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefork import prctl
from prefork.log import LOGGER
from prefork.master import process, upgrade
from prefork.master.commands import Audience

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefork.master.control import Asker
    from prefork.master.events import Events
    from prefork.master.notify import Notifier
    from prefork.master.upgrade import Channel, Heritage, Successor


@dataclass(frozen=True)
class Court:
    """What a succession asks of the loop around it."""

    serve: Callable[[], None]  # this master is the one that serves: take the paths
    released: Callable[[], None]  # and it is the service's main process
    retire: Callable[[], None]  # let every worker leave: another master's serve the same queue
    given_up: Callable[[int], None]  # a new master with this pid is no more
    taken: Callable[[], None]  # the new master answers on the control path
    stop: Callable[[], None]  # stop gracefully: a process that this one lives under is gone
    ended: Callable[[int], None]  # the master that serves has ended, with this exit code
    not_a_childs: Callable[[], list[process.Closeable]]


class Succession:
    """The masters beside this one."""

    def __init__(self, heritage: Heritage, events: Events, notifier: Notifier, court: Court) -> None:
        self._maker = heritage.maker
        self._front = heritage.front
        self._trial: Successor | None = None
        self._line: Channel | None = None  # to the masters after this one, if this is the front
        self._current = 0  # the pid of the one that serves, if this is the front
        self._masters: set[int] = set()  # every master after this one that has not ended
        self._events = events
        self._notifier = notifier
        self._court = court
        self._hoping = Audience()
        self._passed_stop = False
        self._taking = False  # a new master has been granted and has not said "taken" yet
        if self._maker is not None:
            events.on(self._maker, self._on_maker)
        if self._front is not None:
            events.on(self._front, self._on_front)

    @property
    def on_trial(self) -> bool:
        """Whether this master has not been granted yet."""
        return self._maker is not None

    @property
    def is_front(self) -> bool:
        """Whether this process stands in front of a newer master, or of several."""
        return self._line is not None

    @property
    def must_stay(self) -> bool:
        """Whether this process must not end yet.

        It is the front of masters that live, or the one it has granted does not answer on the control path yet.
        """
        return self._taking or (self.is_front and bool(self._masters))

    def open_things(self) -> list[Channel]:
        """Return everything open here that no child may keep."""
        trial = self._trial.line if self._trial else None
        return [line for line in (self._maker, self._front, self._line, trial) if line is not None]

    def try_new(self, passed_on: upgrade.Passed, boot_timeout: float, asker: Asker | None, busy: str) -> None:
        """Try a new master beside this one; `asker` is told how that ended. `busy` is why it cannot be now, or ""."""
        busy = busy or ("an upgrade is under way" if self._trial or self.on_trial else "")
        if busy:
            LOGGER.warning("not upgrading: %s", busy)
            if asker is not None:
                asker.answer(error=busy)
            return
        self._hoping.add(asker)
        try:
            deadline = time.monotonic() + boot_timeout
            trial = upgrade.launch(passed_on, self._front, deadline, self._court.not_a_childs())
        except OSError as error:
            self._refuse(f"cannot fork: {error.strerror}")
            return
        self._trial = trial
        self._events.on(trial.line, lambda: self._on_made(trial))
        LOGGER.info("upgrading: trying %s", trial)

    def judge(self, now: float) -> None:
        """Give a new master up whose time to get ready is over."""
        if self._trial is not None and now >= self._trial.deadline:
            self._on_made(self._trial)  # its word may have come at the last moment
            self.give_up("it was not ready within --boot-timeout")

    def give_up(self, why: str) -> None:
        """Roll back, if a new master is on trial: its workers see it die and leave, and the old ones never did."""
        trial, self._trial = self._trial, None
        if trial is not None:
            process.send(trial.pid, signal.SIGKILL)
            self._events.drop(trial.line)
            self._court.given_up(trial.pid)
            self._refuse(trial.failure or f"{trial}: {why}")

    def say_ready(self) -> None:
        """Tell the maker that all workers here serve."""
        if self._maker is not None:
            self._maker.say(upgrade.READY)

    def say_failed(self, why: str) -> None:
        """Tell the maker that they never will."""
        if self._maker is not None:
            self._maker.say(upgrade.FAILED, why)

    def pass_on(self, number: signal.Signals, *, stops: bool, now: bool) -> bool:
        """Give a signal to the master that serves; return whether it means "now" for all that are still here."""
        if self._current in self._masters:  # else it has been reaped, and its pid may be anybody's
            process.send(self._current, number)
        now = now or (stops and self._passed_stop)
        self._passed_stop = self._passed_stop or stops
        for pid in self._masters - {self._current}:
            if now:
                process.send(pid, signal.SIGQUIT)
            elif number == signal.SIGUSR1:
                process.send(pid, number)
        return now

    def reaped(self, pid: int, wait_status: int) -> bool:
        """Note that a child has ended; return whether it was one of the masters."""
        how = process.how_it_ended(wait_status)
        if self._trial is not None and self._trial.pid == pid:
            self._on_made(self._trial, dead=True)  # its last words
            self.give_up(f"{how} before it was ready")
            return True
        if self._line is not None:
            self._on_line()  # who serves now
        if pid == self._current:
            self._taking = False  # whether it had or not
        if pid not in self._masters:
            return False
        LOGGER.info("master pid %d %s", pid, how)
        code = os.waitstatus_to_exitcode(wait_status)
        self._ended(pid, code if code >= 0 else process.CRASHED)
        return True

    def _ended(self, pid: int, code: int) -> None:
        self._masters.discard(pid)
        if self._front is not None:  # its maker alone has seen it end, if it still lives then
            self._front.say(upgrade.ENDED, f"{pid} {code}")
        elif pid == self._current:
            self._court.ended(code)

    def _on_made(self, trial: Successor, *, dead: bool = False) -> None:
        """Hear what the one on trial says, and its last word when it has been granted."""
        lines, gone = trial.line.hear()
        for word, reason in lines:
            if word == upgrade.READY and trial is self._trial and not dead:
                self._grant(trial)
            elif word == upgrade.FAILED:
                trial.failure = reason
            elif word == upgrade.TAKEN:
                self._taken()
        if gone:
            self._events.off(trial.line)  # it is ending; its SIGCHLD comes
            if trial is not self._trial:
                self._taken()

    def _grant(self, new: Successor) -> None:
        """Let the new master be the one that serves: it has said that all its workers do."""
        LOGGER.info("upgraded: %s serves", new)
        self._trial = None
        self._taking = True
        self._masters.add(new.pid)
        if self._front is not None:
            self._front.say(upgrade.MAIN, str(new.pid))
        self._court.retire()
        alone = self._front is None and self._notifier.present
        if alone:
            self._notifier.hand_over(new.pid)  # before the new one says READY=1: a stranger would not be heard
        new.line.say(upgrade.GRANTED)
        if alone:
            new.line.say(upgrade.RELEASED)
            self._masters.discard(new.pid)
        elif self._front is None:
            prctl.adopt_orphans()  # a later master's maker may end before it does
            self._current, self._line = new.pid, new.line

    def _taken(self) -> None:
        self._taking = False
        self._hoping.tell(ok=True)
        self._court.taken()
        if self._line is not None:
            self._events.off(self._line)
            self._events.on(self._line, self._on_line)

    def _on_line(self) -> None:
        """Hear, as the front, who serves."""
        line = self._line
        if line is None:
            return
        lines, gone = line.hear()
        for word, reason in lines:
            numbers = [int(part) for part in reason.split() if part.isdigit()]
            if word == upgrade.TAKEN:
                self._taken()
            elif word == upgrade.MAIN and numbers:
                self._current = numbers[0]
                self._masters.add(self._current)
            elif word == upgrade.ENDED and len(numbers) > 1 and numbers[0] in self._masters:
                self._ended(numbers[0], numbers[1])
        if gone:
            self._events.off(line)

    def _on_maker(self) -> None:
        """Hear, on trial, what the maker says."""
        maker = self._maker
        if maker is None:
            return
        lines, gone = maker.hear()
        for word, _ in lines:
            if word == upgrade.GRANTED:
                self._maker = None
                self._events.off(maker)
                self._court.serve()
                maker.say(upgrade.TAKEN)
                if self._front is None:
                    self._front = maker
                    self._events.on(maker, self._on_front)
                else:
                    maker.close()
            elif word == upgrade.RELEASED:
                self._release(maker)
        if gone and self._maker is not None:
            LOGGER.warning("the master that made this one is gone; stopping")
            self._maker = None
            self._events.drop(maker)
            self._court.stop()

    def _release(self, line: Channel) -> None:
        self._front = None
        self._events.drop(line)
        self._court.released()

    def _on_front(self) -> None:
        """Hear, as the one that serves or has served, that the front is gone; it says nothing else but "released"."""
        front = self._front
        if front is None:
            return
        lines, gone = front.hear()
        if any(word == upgrade.RELEASED for word, _ in lines):
            self._release(front)
        elif gone:
            LOGGER.warning("the process that this master lives under is gone; stopping")
            self._front = None
            self._events.drop(front)
            self._court.stop()

    def _refuse(self, why: str) -> None:
        LOGGER.error("upgrade failed, nothing has changed: %s", why)
        self._hoping.tell(error=why)
