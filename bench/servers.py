"""The table of servers: what each is called, what it is made with, and how it is started.

All answer the same: each line by `+PONG`. Those that give back what they were sent have a table of their own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench import needs
from bench.load import MULTI_BULK, PING, PONG
from bench.needs import OTHER_PYTHON, PEERS, MissingError, Need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

USUAL_CONNECTIONS: Final = 1000
"""As many open connections need no word to anybody."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a server is to run.

    Attributes:
        port: of loopback.
        processes: how many are to serve.
        connections: how many will be open at once.
        folder: of its own: for sockets, logs, configuration.
        kit: where the compiled ones are.
    """

    port: int
    processes: int
    connections: int
    folder: Path
    kit: Path


@dataclass(frozen=True, slots=True)
class Server:
    """One server.

    Attributes:
        name: in every table.
        language: what its handlers are written in.
        needs: what it is made with; its version is the server's.
        command: what starts it.
        one_each: a process serves one connection at a time: it needs as many processes as there are connections.
        forks_each: it makes a process for each connection.
        not_preforked: why there is one process only, for those that are not preforked.
        ask: what it is sent to see whether it is there.
        answer: what it must say to that.
    """

    name: str
    language: str
    needs: Need
    command: Callable[[Spot], list[str]]
    one_each: bool = False
    forks_each: bool = False
    not_preforked: str = ""
    ask: bytes = PING
    answer: bytes = PONG


def limit(mode: str = "pong") -> Server:
    """Return the C server: `pong`, `echo`, or frames of so many bytes."""
    ask, answer = (PING, PONG) if mode == "pong" else (MULTI_BULK, MULTI_BULK)
    if mode.isdecimal():
        ask = answer = b"x" * int(mode)

    def command(spot: Spot) -> list[str]:
        return [str(spot.kit / "limit"), mode, str(spot.port), str(spot.processes)]

    return Server("C, epoll", "C", needs.CC, command, ask=ask, answer=answer)


def ours(name: str, target: str, *options: str, ask: bytes = PING, answer: bytes = PONG) -> Server:
    """Return a server of prefork's: a target in peers/prefork_pong.py, or a built-in one."""

    def command(spot: Spot) -> list[str]:
        many = spot.connections > USUAL_CONNECTIONS
        patience = ["--max-connections", str(spot.connections + 100), "--idle-timeout", "3600"] if many else []
        return [
            sys.executable, "-m", "prefork", "serve", target, "--chdir", str(PEERS),
            "--bind", f"127.0.0.1:{spot.port}", "--workers", str(spot.processes),
            "--control", str(spot.folder / "control"), *patience, *options,
        ]  # fmt: skip

    return Server(name, "Python", needs.PREFORK, command, ask=ask, answer=answer)


def _script(*words: str) -> Callable[[Spot], list[str]]:
    """A command that ends with the port and the number of processes."""
    return lambda spot: [*words, str(spot.port), str(spot.processes)]


def _peer(name: str, *options: str, python: str = OTHER_PYTHON) -> Callable[[Spot], list[str]]:
    return _script(python, str(PEERS / name), *options)


def _apache(spot: Spot) -> list[str]:
    names = {"PORT": spot.port, "PROCESSES": spot.processes, "FOLDER": spot.folder, "MODULES": needs.apache_modules()}
    defined = [word for name, value in names.items() for word in ("-C", f"Define {name} {value}")]
    return ["apache2", "-DFOREGROUND", *defined, "-f", str(PEERS / "apache.conf")]


LIMIT: Final = limit()
REPLY: Final = ours("@reply", "prefork_pong:pong")
CONVERSATION: Final = ours("@conversation", "prefork_pong:talk")
GO: Final = Server(
    "Go net", "Go", needs.GO, lambda spot: [str(spot.kit / "pong"), str(spot.port), "1"],
    not_preforked="one process uses all CPUs",
)  # fmt: skip
STREAMS: Final = "asyncio streams"
UVLOOP_STREAMS: Final = f"{STREAMS} on uvloop"

PEER_SERVERS: Final = (
    GO,
    Server(UVLOOP_STREAMS, "Python", needs.UVLOOP, _peer("streams_pong.py", "uvloop", python=sys.executable)),
    Server(STREAMS, "Python", needs.PYTHON, _peer("streams_pong.py", "stock", python=sys.executable)),
    Server("Tornado TCPServer", "Python", needs.TORNADO, _peer("tornado_pong.py")),
    Server("gevent StreamServer", "Python", needs.GEVENT, _peer("gevent_pong.py")),
    Server(
        "socketserver, threads", "Python", needs.PYTHON, _peer("socketserver_pong.py", "threads", python=sys.executable)
    ),
    Server(
        "socketserver, forks", "Python", needs.PYTHON, _peer("socketserver_pong.py", "forks", python=sys.executable),
        forks_each=True, not_preforked="forks for each connection",
    ),
    Server("py-prefork-server", "Python", needs.PREFORKSERVER, _peer("preforkserver_pong.py"), one_each=True),
    Server(
        "Net::Server::PreFork", "Perl", needs.NET_SERVER, _script("perl", str(PEERS / "net_server.pl")), one_each=True
    ),
    Server("ServerEngine, Cool.io", "Ruby", needs.SERVERENGINE, _script("ruby", str(PEERS / "serverengine_pong.rb"))),
)  # fmt: skip
"""Whom prefork is compared with. Those that are not `one_each` serve any number of connections from one process."""

ECHO_LIMIT: Final = limit("echo")
ECHOES: Final = (
    ours("prefork's echo", "echo", ask=MULTI_BULK, answer=MULTI_BULK),
    Server("Apache, mod_echo", "C", needs.APACHE, _apache, one_each=True, ask=MULTI_BULK, answer=MULTI_BULK),
)
CREATE_SERVER: Final = Server(
    "create_server", "Python", needs.PREFORK, _peer("create_server_pong.py", python=sys.executable)
)
"""The link of a `@reply`, accepted by the event loop's own server."""


def find(servers: Iterable[Server], kit: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Compile what is to be compiled, and return the versions of the servers that are there, and why others are not.

    Raises:
        MissingError: there is no C compiler. Without the limit there is nothing to compare with.
    """
    needs.compile_c(kit)
    versions, missing = {"C, epoll": needs.CC.version()}, {}
    for server in servers:
        try:
            versions[server.name] = server.needs.version()
            if server is GO:
                needs.compile_go(kit)
        except MissingError as error:
            missing[server.name] = str(error)
            versions.pop(server.name, None)
    return versions, missing
