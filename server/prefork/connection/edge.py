"""The edge: what a connection may wait for, how long, and why it ended. Pure: no socket, no clock, no log.

Every connection waits for exactly one thing at a time; each has its own limit, so a slow peer is closed by the deadline
that names what it was slow at.
"""

from __future__ import annotations

import contextlib
import math
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from prefork.settings import Settings
    from prefork_wire import Framing

LINGER: Final = 2.0
"""Seconds that a connection closed from here is read on for the peer's close: unread input would become a reset."""

TLS_CLOSE: Final = 86400.0
"""Seconds for TLS's own close as the event loop counts them: longer than any of ours.

It would cut off a peer that still reads what was sent; `Link.expire` does not.
"""

QUEUE_QUIET: Final = 0.1
"""Seconds for which the accept queue must have stayed empty before a stopping worker lets go of it."""

QUIET: Final = 0.2
"""Seconds without traffic after which a draining worker takes a connection for idle.

A client that sends its next request as soon as it has the reply leaves a gap of one round trip, mostly a shorter one.
"""

CLOSING: Final = 1 / 3
"""Last part of a drain: a connection that never pauses is ended right behind a reply, so that both arrive together."""

FIRST_QUIET: Final = 1.0
"""The same for a connection that has not sent anything yet: its first request may still be on its way."""

PAUSE: Final = 5.0
"""Seconds without a byte either way after which a draining worker takes a connection of opaque bytes for idle, at most.

Where frames are unknown, a pause may be the gap between two requests or one in the middle of a message: a mail client
that scans an attachment, a person who types. It is as much as `PAUSE_PART` of the drain allows.
"""

PAUSE_PART: Final = 1 / 6
"""How much of the drain timeout such a pause may take."""

RECEIVE_SIZE: Final = 1 << 16
"""Bytes read from a blocking socket at once, and how far reading goes ahead of a handler that does not take frames."""


LARGE: Final = 512
"""Bytes of an answer that is sent before the next one is made. Smaller ones leave together: at most `prefork_wire.MOST`
of them, 128 KiB, are made before it is noticed that a peer does not read."""


PAUSE_AT: Final = 1 / 2
"""Part of the write limit at which a peer that does not read is left unread itself.

The rest is room for what is under way then: the answer that crosses this line, what a dialogue sends in one write, and
what the event loop has read of the peer in one go (uvloop: up to 256,000 bytes) and those requests' own bookkeeping.
"""

PAUSE_AT_TLS: Final = 1 / 16
"""The same with TLS: what is read in one go is there twice, encrypted and not, and keeps its room when it is gone."""


class Wait(IntEnum):
    """What a connection waits for."""

    FIRST_BYTE = 0
    FRAME = 1  # the rest of a frame that has begun
    NEXT = 2  # the next frame's first byte
    READER = 3  # a peer that does not read
    HANDLER = 4  # the service itself: no limit here; a stuck loop is the master's to find
    CLOSE = 5  # the peer's own close, after ours


class ConnectionEnded(Exception):  # noqa: N818 - an end is no error
    """The connection is over: the peer closed or was too slow, a frame was refused, or the worker drains.

    A handler may let it pass: it ends the conversation and is not logged as a failure.
    """


class Limits(NamedTuple):
    """How many seconds each `Wait` may last, in its order."""

    first_byte: float
    frame: float
    idle: float
    write: float
    handler: float = math.inf
    close: float = LINGER
    pause: float = PAUSE  # no wait's, but a drain's: see `silence`

    def changed(self, idle: float | None, frame: float | None, write: float | None) -> Limits:
        """Return these limits with those that are given replaced; one for the next frame counts for the first byte too.

        Raises:
            ValueError: a limit is not above 0.
        """
        if any(limit is not None and not limit > 0 for limit in (idle, frame, write)):
            raise ValueError("a timeout must be above 0 seconds; math.inf is none")
        return self._replace(
            first_byte=self.first_byte if idle is None else idle,
            idle=self.idle if idle is None else idle,
            frame=self.frame if frame is None else frame,
            write=self.write if write is None else write,
        )


def limits(settings: Settings) -> Limits:
    """Return the limits that the settings give every connection."""
    return Limits(
        settings.first_byte_timeout,
        settings.frame_timeout,
        settings.idle_timeout,
        settings.write_timeout,
        pause=min(PAUSE, settings.drain_timeout * PAUSE_PART),
    )


def silence(limits: Limits, wait: Wait, *, owes: bool, closing: bool) -> float:
    """Return the seconds without a byte after which a draining worker ends a connection of opaque bytes; inf: not yet.

    Args:
        limits: the connection's.
        wait: what it waits for. One that is new is given time for its first byte, as ever.
        owes: the last bytes came from the peer. The service is at work, or the rest of a message is still to come: only
            the last part of the drain ends that. If the last bytes went out, it is the peer's turn to begin something.
        closing: the last part of the drain has come.
    """
    if owes:
        return limits.pause if closing else math.inf
    wanted = min(QUIET, limits.pause) if closing else limits.pause
    return max(wanted, FIRST_QUIET) if wait is Wait.FIRST_BYTE else wanted


SLOW_AT: Final = {
    Wait.FIRST_BYTE: "sent nothing within --first-byte-timeout",
    Wait.FRAME: "did not finish a frame within --frame-timeout",
    Wait.NEXT: "was idle for --idle-timeout",
    Wait.READER: "did not read its replies within --write-timeout",
    Wait.CLOSE: "did not close after us",
}
"""What to say of a peer whose wait ran out."""

PEER_CLOSED: Final = "the peer closed"
CUT_SHORT: Final = "the peer closed in the middle of a frame"
DRAINS: Final = "the worker drains"
NO_HANDSHAKE: Final = "the TLS handshake failed"
RETURNED: Final = "the handler returned"
"""Why a connection is over, for its handler and the access log."""


def failure(error: BaseException) -> str:
    """Return why a connection is over whose handler raised."""
    return f"the handler failed: {type(error).__name__}"


def encode_before_fault(framing: Framing, answers: Sequence[bytes]) -> bytes:
    """Return the frames of the answers before the first that makes none, whatever it raises: they are still sent."""
    frames: list[bytes] = []
    with contextlib.suppress(Exception):
        # a framing may let pass what is no bytes: joined by itself it raises here
        frames.extend(b"".join((framing.encode(answer),)) for answer in answers)
    return b"".join(frames)


def peer_name(address: object) -> str:
    """Return a socket address as it is written: `127.0.0.1:4711`, `[::1]:4711`, or `unix` for a nameless peer."""
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return getattr(address, "name", "unix")  # a `Source` names itself


def why_lost(error: BaseException | None) -> str:
    """Return in a few words why a connection was lost that nobody here has ended."""
    if error is None:
        return "the peer is gone"
    return getattr(error, "strerror", None) or type(error).__name__


def take_peer(sock: socket.socket) -> str:
    """Return the name of a socket's peer, or `gone` if it has left already."""
    try:
        return peer_name(sock.getpeername())
    except OSError:
        return "gone"
