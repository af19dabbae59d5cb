"""How an address is written, for those who listen and those who connect.

It owns the text: parsing it and writing it back. It never resolves a name and never opens anything.
"""

import re
from dataclasses import dataclass
from typing import Literal

_FORMS = "HOST:PORT, [IPV6]:PORT, :PORT, unix:/PATH or fd://N"
_MAX_PORT = 65535
_MAX_SHOWN = 80  # characters of an address in a refusal
_HOST = re.compile(r"[\w.-]*")
# The shape only; whether the digits make an address is for whoever resolves it. RFC 4007 adds the zone after %.
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[\w.-]+)?")
# RFC 6335 allows letters, digits and hyphens; services databases in use have a few more.
_SERVICE = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9_.+-]*")
_FD = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, as a person wrote it. ``str(address)`` is the canonical form.

    Attributes:
        kind: Which of the other fields count: `host` and `port`, `path`, or `fd`.
        host: A name or an IP address without brackets; empty for every interface when listening, and for loopback
            when connecting.
        port: 0 to 65535, or the name of a service, still to be looked up.
        path: The path of a Unix socket.
        fd: The number of an open file descriptor.
    """

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    port: int | str = 0
    path: str = ""
    fd: int = -1

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd://{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT``, ``unix:/PATH`` or ``fd://N``.

    The port is a number or the name of a service; ``tcp://`` may stand before the first three.

    Raises:
        ValueError: It is none of these; the message is one line with the value and the cure.
    """
    if text.startswith("unix:"):
        return _unix(text)
    if text.startswith("fd:"):
        number = text.removeprefix("fd://")
        if not _FD.fullmatch(number):
            raise _refusal(text, "needs the number of an open file descriptor, such as fd://3")
        return Address("fd", fd=int(number))
    rest = text.removeprefix("tcp://")
    if "://" in rest:
        raise _refusal(text, f"starts with an unknown scheme; write {_FORMS}")
    host, port = _bracketed(text, rest) if rest.startswith("[") else _plain(text, rest)
    return Address("tcp", host=host, port=_port(text, port))


def _bracketed(text: str, rest: str) -> tuple[str, str]:
    host, bracket, port = rest[1:].partition("]:")
    if not bracket:
        raise _refusal(text, "needs a port after the bracket, such as [::1]:7000")
    if not _IPV6.fullmatch(host):
        raise _refusal(text, "needs an IPv6 address between the brackets, such as [::1]:7000")
    return host, port


def _plain(text: str, rest: str) -> tuple[str, str]:
    host, colon, port = rest.rpartition(":")
    if not colon:
        raise _refusal(text, f"has no port; write {_FORMS}")
    if ":" in host:
        raise _refusal(text, f"needs brackets around an IPv6 address, such as [::1]:7000; or write {_FORMS}")
    if not _HOST.fullmatch(host):
        raise _refusal(text, f"has a host that is neither a name nor an IP address; write {_FORMS}")
    return host, port


def _unix(text: str) -> Address:
    path = text.removeprefix("unix:")
    if path.startswith("//"):  # also written as a URL, unix:///PATH
        path = path.removeprefix("//")
    if not path or not path.isprintable():  # addresses are shown in logs and by `prefork status`
        raise _refusal(text, "needs the path of a socket in printable characters, such as unix:/run/echo.sock")
    return Address("unix", path=path)


def _port(text: str, port: str) -> int | str:
    if port.isascii() and port.isdigit():
        if len(port) > len(str(_MAX_PORT)) or int(port) > _MAX_PORT:
            raise _refusal(text, f"has a port above {_MAX_PORT}; write a number from 0 to {_MAX_PORT}")
        return int(port)
    if not _SERVICE.fullmatch(port):
        raise _refusal(text, f"needs a port from 0 to {_MAX_PORT} or the name of a service, such as 127.0.0.1:echo")
    return port


def _refusal(text: str, cure: str) -> ValueError:
    shown = text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
    return ValueError(f"address {shown!r} {cure}")
