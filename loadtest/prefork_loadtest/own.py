"""Load users and scenarios for a service of one's own: what a file that `prefork-loadtest init` writes is made of.

Such a file says three things: the framing, a request, and what answer is right. Everything else (schedules, both times,
the books, the verdict) is the kit's. Importing this makes any Locust file that does so one of the kit.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from locust import User

from prefork_loadtest import entry
from prefork_loadtest.failure import Failure
from prefork_loadtest.scenarios import Crew, Own, Scenario
from prefork_loadtest.users import ChurnUser, EchoUser, OpenEchoUser, ProvingUser

if TYPE_CHECKING:
    from pathlib import Path

    from locust.env import Environment

__all__ = ["Churning", "Closed", "Crew", "OpenRate", "Own", "OwnFileError", "Scenario", "load"]

NAME = "SCENARIO"


class OwnFileError(ValueError):
    """A file cannot be run. The text is one line with the file, what is wrong and the cure."""


class _Proof:
    """The requests of one user and their answers, as its own class has them."""

    def __init__(self, user: _Asking, nonce: int) -> None:
        self.nonce = nonce
        self.sequence = 0
        self._user = user

    def next(self) -> bytes:
        """The next request of this user."""
        self.sequence += 1
        return self._user.request(f"{self.nonce}{self.sequence:08d}")

    def check(self, request: bytes, answer: bytes) -> Failure | None:
        """None if `answer` is right."""
        return None if self._user.is_right(request, answer) else Failure.WRONG_ANSWER

    def expected(self, request: bytes) -> None:
        """Only `is_right` knows."""


class _Asking(ProvingUser):
    """One frame out, one frame in; subclasses say which, and what is right."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        if not self.options.probe:
            self.prover = _Proof(self, self.prover.nonce)

    def request(self, number: str) -> bytes:
        """The payload of a request. `number` is one that no other request has: put it in, to find mixed-up answers."""
        raise NotImplementedError

    def is_right(self, request: bytes, answer: bytes) -> bool:
        """Whether this is the answer to this request."""
        raise NotImplementedError


class Closed(_Asking, EchoUser):
    """Asks on one kept connection, waits for the answer, thinks, and asks again."""

    abstract = True


class OpenRate(_Asking, OpenEchoUser):
    """Asks on one kept connection by a schedule that no answer can move: times count from the intended start too."""

    abstract = True


class Churning(_Asking, ChurnUser):
    """Connects for each request, and closes after its answer."""

    abstract = True


def load(path: Path) -> Scenario:
    """The scenario of a file, whose user classes are known to a run from here on.

    Raises:
        OwnFileError: the file breaks, has no scenario, or its crews name classes that it has not.
    """
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise OwnFileError(f"SCENARIO {str(path)!r}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a file of somebody else raises
        raise OwnFileError(f"SCENARIO {str(path)!r}: {type(error).__name__}: {error}") from error
    scenario = getattr(module, NAME, None)
    if not isinstance(scenario, Scenario):
        raise OwnFileError(f"SCENARIO {str(path)!r}: it has no {NAME}; `prefork-loadtest init` writes a whole one")
    users = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, User) and not value.abstract
    }
    unknown = {crew.user_class for crew in scenario.crews} - users.keys() - entry.USERS.keys()
    if unknown:
        raise OwnFileError(f"SCENARIO {str(path)!r}: crew {min(unknown)!r}: there is no such user class in it")
    entry.USERS.update(users)
    return replace(scenario, file=path)
