"""What each signal means to the master: one table, which `prefork serve --help` prints too."""

from __future__ import annotations

import os
import signal
from enum import Enum
from typing import Final


class Intent(Enum):
    """What somebody wants of the master."""

    STOP = "stop gracefully; a second TERM or INT stops now"
    QUIT = "stop now, in order"
    RELOAD = "reload: settings file and target, anew; what fails changes nothing"
    UPGRADE = "upgrade: a new master takes over the same open sockets; what fails changes nothing"
    REOPEN_LOGS = "reopen the log file"
    MORE = "one worker more"
    FEWER = "one worker fewer"
    DRAIN = "drain all workers, keep the sockets (HUP or TTIN starts them again)"
    CHILD = ""  # one of ours, or an orphan given to us as PID 1, has ended


SIGNALS: Final = {
    signal.SIGTERM: Intent.STOP,
    signal.SIGINT: Intent.QUIT,
    signal.SIGQUIT: Intent.QUIT,
    signal.SIGHUP: Intent.RELOAD,
    signal.SIGUSR1: Intent.REOPEN_LOGS,
    signal.SIGUSR2: Intent.UPGRADE,
    signal.SIGTTIN: Intent.MORE,
    signal.SIGTTOU: Intent.FEWER,
    signal.SIGWINCH: Intent.DRAIN,
    signal.SIGCHLD: Intent.CHILD,
}

REPEATABLE: Final = frozenset({Intent.RELOAD, Intent.UPGRADE, Intent.REOPEN_LOGS, Intent.DRAIN})
"""What many signals at once want no more than one does: ten thousand need not be ten thousand lines in the log."""


def intent_of(number: signal.Signals) -> Intent | None:
    """Return what a signal means now; None for a WINCH that only says that the terminal's window was resized."""
    intent = SIGNALS[number]
    if intent is Intent.DRAIN and _on_a_terminal():
        return None
    return intent


def _on_a_terminal() -> bool:
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(fd)


def table() -> list[tuple[str, str]]:
    """Return the signals a person may send, by name without SIG, with what each means."""
    names: dict[Intent, list[str]] = {}
    for number, intent in SIGNALS.items():
        if intent.value:
            names.setdefault(intent, []).append(number.name.removeprefix("SIG"))
    return [(", ".join(signals), intent.value) for intent, signals in names.items()]
