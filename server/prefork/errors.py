"""What can go wrong, split by who must act; each error carries the exit code of the program it ends.

    PreforkError                  the base: one clear line, no traceback
    ├── SettingsError       2     the person who typed the settings; lists every fault at once
    ├── TargetError         3     the author of the service: it did not load, or it is not a service
    ├── AddressError        4     the machine: a port is taken, a privilege or an interface is missing
    └── ControlError        1     the person who asked a running server something it could not do

This file owns the tree and never prints or exits: `cli` does both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class PreforkError(Exception):
    """An error that a person can act on; `str()` of it is the line to print."""

    exit_code: ClassVar[int] = 1


class SettingsError(PreforkError):
    """The settings have faults; every one of them is in `faults`, one line each."""

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class TargetError(PreforkError):
    """The target could not be imported, or what it names is no service."""

    exit_code = 3


class AddressError(PreforkError):
    """An address could not be resolved, bound or taken over."""

    exit_code = 4


class ControlError(PreforkError):
    """No server answers on the control socket, or it refused the command."""
