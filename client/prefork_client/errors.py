"""What can go wrong with a client, split by who must act.

The tree::

    ClientError
    ├── UsageError              the caller: the call itself is wrong; no connection was harmed
    │   ├── BadAddress          the address cannot be read, or cannot be connected to
    │   ├── BadPayload          the payload cannot be made a frame; nothing was sent
    │   ├── ClientBusy          another call is still using this client
    │   └── ClientClosed        the client is closed, or was never connected
    ├── ConnectFailed           the operator: no connection came about
    │   ├── NameNotFound        the name of the host or of the service is unknown
    │   ├── Refused             nobody listens there
    │   ├── ConnectTimeout      nobody answered in time
    │   └── Unreachable         anything else, such as no route or no permission
    └── PeerError               the peer: the connection is closed for good
        ├── ReplyTimeout        the peer did not answer, or did not read, in time
        ├── ConnectionLost
        │   ├── PeerClosed      the peer closed the connection between two frames
        │   │   └── PeerClosedIdle  the same, before any of this request was sent: it may be sent again
        │   ├── PeerReset       the connection broke
        │   └── Truncated       the peer closed the connection in the middle of a frame
        └── ProtocolError
            ├── BadFrame        the peer's bytes are no frame, or one too large
            ├── UnexpectedData  bytes were there before the request that they could answer
            └── WrongReply      a whole frame, but not the expected answer

Every message is one line with the address and the cure, and never shows the peer's bytes.
"""

# ruff: noqa: N818 - the names are short because they are read in reports


class ClientError(Exception):
    """The base of everything this package raises on purpose."""


class UsageError(ClientError):
    """The call itself is wrong; no connection was harmed."""


class BadAddress(UsageError):
    """The address cannot be read, or cannot be connected to."""


class BadPayload(UsageError):
    """The payload cannot be made a frame; nothing was sent."""


class ClientBusy(UsageError):
    """Another thread or task is still using this client."""


class ClientClosed(UsageError):
    """The client is closed, or was never connected."""


class ConnectFailed(ClientError):
    """No connection came about."""


class NameNotFound(ConnectFailed):
    """The name of the host or of the service is unknown."""


class Refused(ConnectFailed):
    """Nobody listens there."""


class ConnectTimeout(ConnectFailed):
    """Nobody answered in time."""


class Unreachable(ConnectFailed):
    """No connection for any other reason, such as no route or no permission."""


class PeerError(ClientError):
    """The peer failed; the connection is closed for good."""


class ReplyTimeout(PeerError):
    """The peer did not answer, or did not read what was sent, in time."""


class ConnectionLost(PeerError):
    """The connection ended before the answer."""


class PeerClosed(ConnectionLost):
    """The peer closed the connection between two frames."""


class PeerClosedIdle(PeerClosed):
    """The peer had closed the connection before any of this request was sent: it may be sent again."""


class PeerReset(ConnectionLost):
    """The connection broke."""


class Truncated(ConnectionLost):
    """The peer closed the connection in the middle of a frame."""


class ProtocolError(PeerError):
    """The peer does not keep to the protocol."""


class BadFrame(ProtocolError):
    """The peer's bytes are no frame of this framing, or one too large."""


class UnexpectedData(ProtocolError):
    """Bytes were there before the request that they could answer."""


class WrongReply(ProtocolError):
    """A whole frame, but not the expected answer."""
