"""Who is the master: the one that started this one, the one on trial, the one that serves in this one's place.

It owns the upgrade as this process sees it, whichever of the three it is; what is passed on and said is in `upgrade`.
It touches no worker: `Court` is what it asks of the loop.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefork.log import LOGGER
from prefork.master import process, upgrade
from prefork.master.commands import Audience

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prefork.listener import Listener
    from prefork.master.control import Asker
    from prefork.master.events import Events
    from prefork.master.notify import Notifier
    from prefork.master.upgrade import Channel, Successor


@dataclass(frozen=True)
class Court:
    """What a succession asks of the loop around it."""

    retire: Callable[[], None]  # let every worker leave: another master's serve the same queue
    stop: Callable[[], None]  # stop gracefully: nobody is above this master any more
    close_listeners: Callable[[], None]
    ended: Callable[[int], None]  # the successor has ended, with this exit code
    not_a_childs: Callable[[], list[process.Closeable]]


class Succession:
    """The masters beside this one."""

    def __init__(self, front: Channel | None, events: Events, notifier: Notifier, court: Court) -> None:
        self._front = front
        self._trial: Successor | None = None
        self._successor: Successor | None = None
        self._events = events
        self._notifier = notifier
        self._court = court
        self._hoping = Audience()
        if front is not None:
            events.on(front, self._on_front)

    @property
    def is_front(self) -> bool:
        """Whether this process only stands in front of a newer master."""
        return self._successor is not None

    def open_things(self) -> list[Channel]:
        """Return everything open here that no child may keep."""
        masters = [m.channel for m in (self._trial, self._successor) if m is not None]
        return [*masters, *([self._front] if self._front else [])]

    def try_new(self, listeners: Sequence[Listener], boot_timeout: float, asker: Asker | None, busy: str) -> None:
        """Try a new master beside this one; `asker` is told how that ended. `busy` is why it cannot be now, or ""."""
        self._hoping.add(asker)
        if self._front is not None:  # the process that everybody knows does it, and tells this one how it went
            self._front.say(upgrade.UPGRADE)
            return
        if busy or self._trial is not None:
            self._refuse(busy or "an upgrade is under way")
            return
        try:
            trial = upgrade.launch(listeners, time.monotonic() + boot_timeout, self._court.not_a_childs())
        except OSError as error:
            self._refuse(f"cannot fork: {error.strerror}")
            return
        self._trial = trial
        self._events.on(trial.channel, lambda: self._on_master(trial))
        LOGGER.info("upgrading: trying %s", trial)

    def judge(self, now: float) -> None:
        """Give a new master up whose time to get ready is over."""
        if self._trial is not None and now >= self._trial.deadline:
            self.give_up("it was not ready within --boot-timeout")

    def give_up(self, why: str) -> None:
        """Roll back, if a new master is on trial: its workers see it die and leave, and the old ones never did."""
        trial, self._trial = self._trial, None
        if trial is not None:
            process.send(trial.pid, signal.SIGKILL)
            self._events.drop(trial.channel)
            self._refuse(trial.failure or f"{trial}: {why}")

    def say_ready(self) -> None:
        """Tell the older master that all workers here serve."""
        if self._front is not None:
            self._front.say(upgrade.READY)

    def say_failed(self, why: str) -> None:
        """Tell the older master that they never will."""
        if self._front is not None:
            self._front.say(upgrade.FAILED, why)

    def say_stopping(self) -> None:
        """Tell the older master that this one stops, and give up the one on trial."""
        if self._front is not None:
            self._front.say(upgrade.STOPPING)
        self.give_up("the server is stopping")

    def pass_on(self, number: signal.Signals) -> None:
        """Give a signal to the successor."""
        if self._successor is not None:
            process.send(self._successor.pid, number)

    def reaped(self, pid: int, wait_status: int) -> bool:
        """Note that a child has ended; return whether it was one of the masters."""
        how = process.how_it_ended(wait_status)
        trial, successor = self._trial, self._successor
        if trial is not None and trial.pid == pid:
            self._on_master(trial)  # its last words
            self.give_up(f"{how} before it was ready")
            return True
        if successor is not None and successor.pid == pid:
            LOGGER.info("%s %s", successor, how)
            self._events.drop(successor.channel)
            self._successor = None
            code = os.waitstatus_to_exitcode(wait_status)
            self._court.ended(code if code >= 0 else process.CRASHED)
            return True
        return False

    def _on_master(self, master: Successor) -> None:
        """Hear what the one on trial, or the successor, says."""
        lines, gone = master.channel.hear()
        if gone:
            self._events.off(master.channel)  # it is ending; its SIGCHLD comes
        for word, reason in lines:
            if master is self._trial and word == upgrade.READY:
                self._hand_over(master)
            elif master is self._trial and word == upgrade.FAILED:
                master.failure = reason
            elif master is self._successor and word == upgrade.STOPPING:
                self._court.close_listeners()
            elif master is self._successor and word == upgrade.UPGRADE:
                os.kill(os.getpid(), signal.SIGUSR2)  # the same as if somebody had asked this process

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
                self._leave()
            elif word == upgrade.REFUSED:
                self._hoping.tell(error=reason)
            elif word == upgrade.RELEASED:
                self._front = None
        if gone and self._front is not None:
            LOGGER.warning("the older master that started this one is gone; stopping")
            self._front = None
            self._court.stop()
        if self._front is None:
            self._events.drop(front)

    def _hand_over(self, new: Successor) -> None:
        """Let the new master be the one that serves: it has said that all its workers do."""
        LOGGER.info("upgraded: %s serves", new)
        before, self._successor, self._trial = self._successor, new, None
        if before is not None:
            before.channel.say(upgrade.RETIRE)
            self._events.drop(before.channel)
            return
        self._leave()
        if self._notifier.present:
            self._notifier.main_pid(new.pid)
            new.channel.say(upgrade.RELEASED)
            self._events.drop(new.channel)
            self._successor = None

    def _leave(self) -> None:
        self._hoping.tell(ok=True)
        self._court.retire()

    def _refuse(self, why: str) -> None:
        LOGGER.error("upgrade failed, nothing has changed: %s", why)
        self._hoping.tell(error=why)
        if self._successor is not None:
            self._successor.channel.say(upgrade.REFUSED, why)
