"""A worker's rights: it becomes who it is to be, proves that it has, and can gain nothing by executing a program.

It owns the drop and its proof, and what a worker needs to be given before. Whom to become is said by the settings; the
master stays who it is, for the next worker.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from typing import TYPE_CHECKING

from prefork import prctl
from prefork.errors import SettingsError

if TYPE_CHECKING:
    from prefork.settings import Settings


def drop(settings: Settings) -> None:
    """Become `--user` and `--group` if this is root, and renounce set-user-ID programs in any case.

    Raises:
        SettingsError: the kernel refused, or something of the old rights is left.
    """
    if os.geteuid() == 0 and (settings.user is not None or settings.group is not None):
        asked = " ".join(
            f"--{name} {value}" for name in ("user", "group") if (value := getattr(settings, name)) is not None
        )
        try:
            _become(settings.user, settings.group)
        except OSError as error:
            raise SettingsError([f"{asked}: the kernel does not let root become that: {error.strerror}"]) from error
        except _RightsLeftError as error:
            raise SettingsError([f"{asked}: {error} after the change; nothing is served so"]) from error
    prctl.gain_no_privileges()


def give_log(settings: Settings, fd: int) -> None:
    """As the master: let workers open the log file anew after a rotation, by making it their user's.

    Only a plain file of root's with one name, which is at the path itself: whoever can write into the folder may have
    put a link there, to any file of this machine.
    """
    if os.geteuid() != 0 or not settings.user or settings.log_file is None:
        return
    with contextlib.suppress(OSError):  # then a worker says that it cannot open it
        opened, found = os.fstat(fd), os.lstat(settings.log_file)
        is_there = (opened.st_dev, opened.st_ino) == (found.st_dev, found.st_ino)
        if is_there and stat.S_ISREG(opened.st_mode) and opened.st_uid == 0 and opened.st_nlink == 1:
            os.fchown(fd, settings.user, -1)


class _RightsLeftError(Exception):
    """What should be gone is not; its text says what."""


def _become(user: int | None, group: int | None) -> None:
    """Change the groups first: afterwards there is no right left to do it."""
    groups: list[int] = []
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(user) if user is not None else None
        if entry is not None:
            group = entry.pw_gid if group is None else group
            groups = os.getgrouplist(entry.pw_name, group)
    os.setgroups(groups)
    if group is not None:
        os.setgid(group)
    if user is not None:
        os.setuid(user)
    _prove(user, group, groups)


def _prove(user: int | None, group: int | None, groups: list[int]) -> None:
    """Look whether it is so, and whether there is a way back.

    capabilities(7): leaving user 0 clears them, unless whoever started the server has told the kernel not to.
    """
    if group is not None and {os.getgid(), os.getegid()} != {group}:
        raise _RightsLeftError(f"the group is {os.getgid()}")
    if set(os.getgroups()) != set(groups):
        raise _RightsLeftError(f"the groups are {os.getgroups()}")
    if not user:
        return
    if {os.getuid(), os.geteuid()} != {user}:
        raise _RightsLeftError(f"the user is {os.getuid()}")
    if prctl.has_capabilities():
        raise _RightsLeftError("capabilities are left")
    for way_back in (os.setuid, os.setgid) if group else (os.setuid,):
        with contextlib.suppress(OSError):
            way_back(0)
            raise _RightsLeftError("there is a way back to root")
