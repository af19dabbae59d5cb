"""What all adapters share: bytes without frames, the service that an adapter makes, and how a wait ends.

It owns no connection and no socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from prefork.connection.edge import ConnectionEnded
from prefork.errors import TargetError
from prefork.service import Service

if TYPE_CHECKING:
    from prefork.settings import Adapter, Model


class Ended(ConnectionEnded, TimeoutError):  # noqa: N818 - an end is no error, as ConnectionEnded
    """The connection was ended from here: the peer was too slow, or the worker drains.

    An error and no end of file, so that nobody takes half a message for a whole one. It is a `TimeoutError`, which code
    that knows sockets knows; where it is not caught it ends the connection and is not logged as a failure.
    """


class Opaque:
    """The framing of adapted services: no byte is ever held or cut, so one decoder serves every connection."""

    def decoder(self) -> Nothing:
        """Return the decoder that holds nothing."""
        return _NOTHING

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` as it is."""
        return payload


class Nothing:
    """A decoder that is given nothing and holds nothing."""

    buffered: Final = 0

    def feed(self, data: bytes) -> None:
        """Do nothing: the bytes of adapted services never come here."""

    def take(self) -> None:
        """Return None: there is no frame."""

    def end(self) -> None:
        """Do nothing: the end is the adapted code's to judge."""

    def rest(self) -> bytes:
        """Return nothing."""
        return b""


_NOTHING: Final = Nothing()


@dataclass
class Adapted(Service):
    """A service made of code that was not written for prefork.

    `handler` is, by `kind`: `protocol` makes a protocol, `streams` takes a reader and a writer, `sockets` takes a
    socket and an address, `listening` takes a `Listening`.
    """

    adapter: Adapter = "function"

    def model(self, wanted: Model | None) -> Model:
        """Return the worker model this service runs in: `wanted`, or the adapter's own.

        Raises:
            TargetError: the adapter cannot run in the wanted model.
        """
        blocking = self.kind == "sockets"
        if wanted is not None and blocking == (wanted == "async"):
            cure: Literal["--model threads or sync", "--model async"]
            cure = "--model threads or sync" if blocking else "--model async"
            manner = "blocks" if blocking else "needs an event loop"
            raise TargetError(f"--model {wanted}: {self.name} (adapter {self.adapter}) {manner}; use {cure}")
        return wanted or ("threads" if blocking else "async")
