"""The one file that reads the process's environment.

It owns the names of the variables and hands out plain values; it never decides what they mean.
"""

from __future__ import annotations

import os
from pathlib import Path

_PREFIX = "PREFORK_"
_HERITAGE = "PREFORK_HERITAGE"
_FIRST_INHERITED_FD = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START


def prefixed() -> dict[str, str]:
    """Return every `PREFORK_*` variable, its name lowered and without the prefix."""
    return {name[len(_PREFIX) :].lower(): value for name, value in os.environ.items() if name.startswith(_PREFIX)}


def listen_fds() -> tuple[int, ...]:
    """Return the descriptors a service manager passed to this very process (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return ()
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isascii() or not count.isdigit():
        return ()
    return tuple(range(_FIRST_INHERITED_FD, _FIRST_INHERITED_FD + int(count)))


def runtime_dir() -> Path:
    """Return the folder for sockets of running programs: `$XDG_RUNTIME_DIR`, `/run` for root, else one in `/tmp`."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named:
        return Path(named)
    return Path("/run") if os.geteuid() == 0 else Path(f"/tmp/prefork-{os.geteuid()}")  # noqa: S108 - made 0700 and owned by us before use


def notify_socket() -> str:
    """Return where the service manager wants to be told of changes (sd_notify(3)), or ""."""
    return os.environ.get("NOTIFY_SOCKET", "")


def watchdog_interval() -> float:
    """Return the seconds within which the service manager wants a sign of life (sd_watchdog_enabled(3)), or 0.0."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(microseconds) / 1e6 if microseconds.isascii() and microseconds.isdigit() else 0.0


def take_heritage() -> str:
    """Return what an older master left for this process, once; "" if there was none."""
    return os.environ.pop(_HERITAGE, "")


def with_heritage(heritage: str) -> dict[str, str]:
    """Return this environment for a new master that is to inherit: no other process's sockets, and `heritage`."""
    others = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"}
    return {**{name: value for name, value in os.environ.items() if name not in others}, _HERITAGE: heritage}


def tunes_malloc() -> bool:
    """Say whether somebody has told the C library how to keep free memory (mallopt(3), ENVIRONMENT; ld.so(8))."""
    return any(name.startswith("MALLOC_") for name in os.environ) or (
        "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    )


def working_folder() -> Path:
    """Return the current folder as its user names it: through `$PWD`, a link to the newest release stays a link."""
    named = os.environ.get("PWD", "")
    try:
        if named and Path(named).samefile(Path.cwd()):
            return Path(named)
    except OSError:
        pass  # a shell's old idea of where it was
    return Path.cwd()
