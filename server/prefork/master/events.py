"""What the master waits on: one selector, each thing in it with what to call when it is readable."""

from __future__ import annotations

import contextlib
import selectors
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Readable(Protocol):
    """Anything that can be waited on and closed."""

    def fileno(self) -> int:
        """Return its descriptor."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Events:
    """The master's one wait."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def on(self, thing: Readable, call: Callable[[], None]) -> None:
        """Call `call` whenever `thing` is readable."""
        self._selector.register(thing, selectors.EVENT_READ, call)

    def when_writable(self, thing: Readable, call: Callable[[], None]) -> None:
        """Wait until `thing`, which is waited on, is writable, and no longer for what it sends."""
        self._selector.modify(thing, selectors.EVENT_WRITE, call)

    def when_readable(self, thing: Readable, call: Callable[[], None]) -> None:
        """Go back from `when_writable`."""
        self._selector.modify(thing, selectors.EVENT_READ, call)

    def off(self, thing: Readable) -> None:
        """Wait on `thing` no longer; that it was not waited on is no error."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(thing)

    def drop(self, thing: Readable) -> None:
        """Wait on `thing` no longer, and close it."""
        self.off(thing)
        thing.close()

    def wait(self, seconds: float) -> None:
        """Wait for at most `seconds` and make the calls that are due."""
        for key, _ in self._selector.select(seconds):
            if self._selector.get_map().get(key.fd) is key:  # a call before this one may have ended it
                key.data()

    def close(self) -> None:
        """Close the selector itself: nothing that was in it."""
        self._selector.close()
