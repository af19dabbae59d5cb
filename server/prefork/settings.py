"""The settings: one frozen object, and all there is to say of each option.

This file owns every option: its name, its type and unit, what its value may be, its default and its help. Where values
come from is `configuration`'s. It never opens a socket and never imports a target.
"""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from prefork import networks
from prefork.log import FORMATS, LEVELS, Format, Level
from prefork_wire.address import Address, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

Model = Literal["async", "sync", "threads"]
MODELS: Final[tuple[Model, ...]] = ("async", "sync", "threads")

Adapter = Literal["protocol", "streams", "socketserver", "function", "listening"]
ADAPTERS: Final[tuple[Adapter, ...]] = ("protocol", "streams", "socketserver", "function", "listening")

TlsVersion = Literal["1.2", "1.3"]
TLS_VERSIONS: Final[tuple[TlsVersion, ...]] = ("1.2", "1.3")
TlsMode = Literal["implicit", "starttls"]
TLS_MODES: Final[tuple[TlsMode, ...]] = ("implicit", "starttls")
"""RFC 8314's words: TLS from the first byte, or when the protocol asks for it."""

ProxyProtocol = Literal["off", "v1", "v2", "any"]
PROXY_PROTOCOLS: Final[tuple[ProxyProtocol, ...]] = ("off", "v1", "v2", "any")

MAX_WORKERS: Final = 256
"""A quarter of the scoreboard's rows: a reload doubles the workers, and a long drain may keep older ones."""

DESCRIPTORS_KEPT: Final = 64
"""Descriptors a worker needs beside its connections: listeners, log, event loop, pipes, what the service opens."""

CONTROL_OFF: Final = "off"

_MAX_ID: Final = (1 << 32) - 2
"""The greatest user or group; setuid(2) takes the number above it for "leave it"."""

OWN_PORT: Final = ""
"""In place of a port: the one that the services database gives the service."""


class Span(NamedTuple):
    """From how many to how many workers; both the same for a fixed number."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


@dataclass(frozen=True)
class Option:
    """What is known of one option beside its value: how it is read and how it is explained."""

    parse: Callable[[str], Any]
    help: str
    group: str
    metavar: str
    default: str  # as a person reads it
    many: bool = False
    flag: bool = False


def _option(  # noqa: PLR0913 - keyword-only columns of a table
    default: object,
    parse: Callable[[str], Any],
    help: str,  # noqa: A002 - the word users know it by
    *,
    group: str,
    metavar: str,
    shown: str | None = None,
    many: bool = False,
    flag: bool = False,
) -> Any:  # noqa: ANN401 - stands for a field of any type, as dataclasses.field does
    text = shown if shown is not None else f"{default:g}" if isinstance(default, float) else str(default)
    return dataclasses.field(
        default=default, metadata={"option": Option(parse, help, group, metavar, text, many, flag)}
    )


# The parsers: text in, value out, ValueError with the cure. ----------------------------------------------------------


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _address(text: str) -> Address:
    if text.endswith(":") and not text.startswith(("unix:", "fd:")):
        # parsed with a port in its place, so that the host is held to the same rules
        return dataclasses.replace(parse_address(text + "0"), port=OWN_PORT)
    return parse_address(text)


def _workers(text: str) -> Span:
    low, colon, high = text.partition(":")
    one = _whole(1, MAX_WORKERS)
    try:
        span = Span(one(low), one(high if colon else low))
    except ValueError:
        raise ValueError(f"must be a number from 1 to {MAX_WORKERS}, or two, MIN:MAX") from None
    if span.low > span.high:
        raise ValueError("must be MIN:MAX, the smaller number first")
    return span


def _seconds(low: float, high: float = 86400.0) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) or not low <= float(text) <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return float(text)

    return parse


_UNITS: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12})(|KiB|MiB|GiB)", text, re.ASCII)
    if match is None or int(match[1]) == 0:
        raise ValueError("must be a size in bytes above 0, such as 65536, 64KiB or 1MiB")
    return int(match[1]) * _UNITS[match[2]]


def _size_or_0(text: str) -> int:
    return 0 if text == "0" else _size(text)


def _choice(values: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return text

    return parse


def _switch(text: str) -> bool:
    if text.lower() in {"true", "yes", "on", "1"}:
        return True
    if text.lower() in {"false", "no", "off", "0"}:
        return False
    raise ValueError("must be on or off")


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("must not have a NUL in it" if text else "must not be empty")
    return text


def _umask(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,4}", text, re.ASCII):
        raise ValueError("must be octal, such as 027")
    return int(text, 8)


def _user(text: str) -> int:
    if text.isascii() and text.isdigit():
        return _whole(0, _MAX_ID)(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):  # ValueError: no text of the operating system's
        raise ValueError("is no user of this machine; name one, or give its number") from None


def _group(text: str) -> int:
    if text.isascii() and text.isdigit():
        return _whole(0, _MAX_ID)(text)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise ValueError("is no group of this machine; name one, or give its number") from None


def _folder(text: str) -> str:
    if not _is_folder(Path(text)):
        raise ValueError("is no folder")
    return text


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, or a folder above it that is closed to us
        return False


def _path(text: str) -> str:
    return str(Path(_text(text)).absolute())  # as it was meant where it was typed, whatever --chdir says


def _alpn(text: str) -> str:
    if not text.isascii() or not 1 <= len(text) <= 255:  # noqa: PLR2004 - RFC 7301, section 3.1
        raise ValueError("must be 1 to 255 ASCII characters, such as xmpp-server")
    return text


def _trusted(text: str) -> networks.Network:
    if text == "unix":
        return networks.UNIX
    return networks.parse(text)


def _parent_exists(text: str) -> str:
    path = Path(_text(text))
    if not _is_folder(path.absolute().parent):
        raise ValueError(f"cannot be made: the folder {path.absolute().parent} does not exist")
    if _is_folder(path):
        raise ValueError("is a folder; name a file in it")
    return str(path.absolute())  # as it was meant where it was typed, whatever --chdir says


def _control(text: str) -> str:
    if text == CONTROL_OFF:
        return text
    if len(os.fsencode(text)) > 90:  # noqa: PLR2004 - unix(7): sun_path is 108 bytes, some systems less; an heir adds to it
        raise ValueError("is too long for a unix socket: at most 90 bytes")
    return _parent_exists(text)


def _metrics(text: str) -> Address:
    address = parse_address(text)
    if address.kind != "tcp" or not isinstance(address.port, int):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:9108")
    return address


@dataclass(frozen=True)
class Settings:
    """Everything a person may set. Times are in seconds, sizes in bytes."""

    target: str = ""

    bind: tuple[Address, ...] = _option(
        (), _address, "HOST:PORT, [V6]:PORT, :PORT, HOST:SERVICE, unix:/PATH or fd://N; HOST: alone, or a mere colon, "
        "means the service's own port; repeatable",
        group="binding", metavar="ADDRESS", shown="loopback and the service's own port", many=True,
    )  # fmt: skip
    backlog: int = _option(
        2048, _whole(1, 1 << 20), "length of the accept queue (the kernel may clamp it)", group="binding", metavar="N"
    )
    reuse_port: bool = _option(
        False, _switch, "let another server bind the same port (its queue dies with it)",
        group="binding", metavar="", shown="off", flag=True,
    )  # fmt: skip

    workers: Span = _option(
        Span(0, 0), _workers, "worker processes; MIN:MAX keeps a spare one (sync, threads) or follows the load (async)",
        group="workers", metavar="N|MIN:MAX", shown="usable CPUs, cgroup quota included",
    )  # fmt: skip
    model: Model | None = _option(
        None, _choice(MODELS), "how a worker serves: async, sync or threads", group="workers", metavar="MODEL",
        shown="what the handler is",
    )  # fmt: skip
    adapter: Adapter | None = _option(
        None, _choice(ADAPTERS), f"what a target is that was not written for prefork: {', '.join(ADAPTERS)}",
        group="workers", metavar="ADAPTER", shown="by the target itself",
    )  # fmt: skip
    threads: int = _option(
        8, _whole(1, 1024), "connections at once in a worker of the threads model", group="workers", metavar="N"
    )
    preload: bool = _option(
        False, _switch, "import the target once in the master, before the fork", group="workers", metavar="", flag=True,
        shown="off",
    )  # fmt: skip

    boot_timeout: float = _option(
        30.0, _seconds(0.1), "until a new worker must be ready", group="clocks", metavar="SECONDS"
    )
    hang_timeout: float = _option(
        30.0, _seconds(0.5), "a serving loop that has not moved for so long is killed, its stacks logged",
        group="clocks", metavar="SECONDS",
    )  # fmt: skip
    first_byte_timeout: float = _option(
        10.0, _seconds(0.05), "from accept to the first byte", group="clocks", metavar="SECONDS"
    )
    frame_timeout: float = _option(
        30.0, _seconds(0.05), "from a frame's first byte to its last", group="clocks", metavar="SECONDS"
    )
    idle_timeout: float = _option(
        75.0, _seconds(0.05), "between frames of one connection", group="clocks", metavar="SECONDS"
    )
    write_timeout: float = _option(
        30.0, _seconds(0.05), "for a peer that does not read what it is sent", group="clocks", metavar="SECONDS"
    )
    handshake_timeout: float = _option(
        5.0, _seconds(0.05), "from accept to the end of the TLS handshake", group="clocks", metavar="SECONDS"
    )
    stop_delay: float = _option(
        0.0,
        _seconds(0),
        "keep serving so long after TERM, until balancers have noticed",
        group="clocks",
        metavar="SECONDS",
    )
    drain_timeout: float = _option(
        30.0, _seconds(0), "for connections to finish after a stop or a reload", group="clocks", metavar="SECONDS"
    )

    max_requests: int = _option(
        0, _whole(0, 10**12), "requests after which a worker is replaced; 0 never", group="recycling", metavar="N"
    )
    max_requests_jitter: int = _option(
        0, _whole(0, 10**12), "up to so many more, drawn for each worker, so that not all go at once",
        group="recycling", metavar="N",
    )  # fmt: skip
    max_lifetime: float = _option(
        0.0, _seconds(0, 1e8), "seconds after which a worker is replaced; 0 never", group="recycling", metavar="SECONDS"
    )
    max_rss: int = _option(
        0, _size_or_0, "resident memory above which a worker is replaced; 0 never", group="recycling", metavar="SIZE"
    )

    max_connections: int = _option(
        1024, _whole(1, 1 << 20), "open connections per worker; the rest wait in the kernel's queue",
        group="limits", metavar="N",
    )  # fmt: skip
    max_connections_per_source: int = _option(
        0, _whole(0, 1 << 20), "open connections of one client over all workers: an IPv4 address, an IPv6 /64; "
        "further ones are reset; 0 any number",
        group="limits", metavar="N",
    )  # fmt: skip
    allow: tuple[networks.Network, ...] = _option(
        (), networks.parse, "network that may connect, and then no other; the most specific of --allow and --deny "
        "decides, --deny where both are the same; repeatable",
        group="limits", metavar="CIDR", shown="everybody", many=True,
    )  # fmt: skip
    deny: tuple[networks.Network, ...] = _option(
        (), networks.parse, "network whose connections are reset; repeatable",
        group="limits", metavar="CIDR", shown="nobody", many=True,
    )  # fmt: skip
    max_write_buffer: int = _option(
        1 << 20, _size, "bytes held for one slow peer; it is left unread from half of them on, with TLS a sixteenth",
        group="limits", metavar="SIZE", shown="1MiB",
    )  # fmt: skip

    tls_cert: tuple[str, ...] = _option(
        (), _path, "certificate and its chain (PEM): every connection is TLS; repeatable, each served to whoever asks "
        "for a name in it (SNI), the first to everybody else",
        group="edge", metavar="PATH", shown="none", many=True,
    )  # fmt: skip
    tls_key: tuple[str, ...] = _option(
        (), _path, "private key (PEM); repeatable, in the order of --tls-cert",
        group="edge", metavar="PATH", shown="in the certificate's file", many=True,
    )  # fmt: skip
    tls_client_ca: str | None = _option(
        None, _path, "certificates (PEM) of whom clients must be signed by", group="edge", metavar="PATH", shown="none"
    )
    tls_min_version: TlsVersion = _option(
        "1.2", _choice(TLS_VERSIONS), "oldest version spoken: 1.2 or 1.3", group="edge", metavar="VERSION"
    )
    tls_alpn: tuple[str, ...] = _option(
        (), _alpn, "protocol offered by ALPN; repeatable", group="edge", metavar="NAME", shown="none", many=True
    )
    tls_mode: TlsMode = _option(
        "implicit", _choice(TLS_MODES), "implicit: from the first byte; starttls: when the handler says so",
        group="edge", metavar="MODE",
    )  # fmt: skip

    proxy_protocol: ProxyProtocol = _option(
        "off", _choice(PROXY_PROTOCOLS), "header with the client's address that a balancer sends first: off, v1, v2 or "
        "any of the two; what comes without one is reset",
        group="edge", metavar="VERSION",
    )  # fmt: skip
    proxy_trust: tuple[networks.Network, ...] = _option(
        (), _trusted, "network of the balancers whose headers are believed, or unix for unix sockets; everybody else "
        "is reset; repeatable",
        group="edge", metavar="CIDR", shown="none", many=True,
    )  # fmt: skip

    user: int | None = _option(
        None, _user, "user the workers become", group="process", metavar="USER", shown="the one who starts"
    )
    group: int | None = _option(
        None, _group, "group the workers become", group="process", metavar="GROUP", shown="the user's own"
    )
    umask: int | None = _option(
        None, _umask, "file creation mask, octal", group="process", metavar="MASK", shown="inherited"
    )
    chdir: str | None = _option(
        None, _folder, "folder to run in; the target is imported from there", group="process", metavar="PATH",
        shown="the current one",
    )  # fmt: skip
    pidfile: str | None = _option(
        None, _parent_exists, "file that holds the master's process id", group="process", metavar="PATH", shown="none"
    )
    control: str | None = _option(
        None, _control, "control socket for status, stop and scale (0600), or off", group="process", metavar="PATH",
        shown="prefork/PID.sock in the runtime folder",
    )  # fmt: skip
    metrics: Address | None = _option(
        None, _metrics, "serve /metrics for Prometheus and /ready for balancers, by HTTP", group="process",
        metavar="HOST:PORT", shown="off",
    )  # fmt: skip

    log_level: Level = _option(
        "info", _choice(LEVELS), "least severe line written: debug, info, warning, error", group="logs", metavar="LEVEL"
    )
    log_format: Format = _option("text", _choice(FORMATS), "text or json", group="logs", metavar="FORMAT")
    log_file: str | None = _option(
        None, _parent_exists, "append the log to a file (USR1 reopens it)", group="logs", metavar="PATH",
        shown="standard error",
    )  # fmt: skip
    access_log: bool = _option(
        False,
        _switch,
        "write a line per connection: whose, how long, how much, why it ended",
        group="logs",
        metavar="",
        flag=True,
        shown="off",
    )

    def admission(self) -> list[str]:
        """Return the options in use that decide which connections may come in; none: all may, as they are."""
        names = ("proxy_protocol", "max_connections_per_source", "allow", "deny")
        return [flag_of(name) for name in names if getattr(self, name) != getattr(Settings, name)]


def options() -> dict[str, Option]:
    """Return every option by its field's name, in the order of the reference."""
    return {f.name: cast("Option", f.metadata["option"]) for f in dataclasses.fields(Settings) if f.metadata}


def flag_of(name: str) -> str:
    """Return an option as it is written on a command line."""
    return "--" + name.replace("_", "-")
