"""Steps 1 to 4 of a server program: find the port by the service's name, make the socket, bind it, listen.

It owns every listening socket of the program from its making to its closing. Only the master makes them; workers
inherit them. It never accepts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prefork.errors import AddressError
from prefork.log import LOGGER
from prefork_wire.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
_TCP_INFO_UNACKED: Final = 24  # offset of tcpi_unacked in struct tcp_info; on a listener: the accept queue's length


@dataclass
class Listener:
    """One listening socket, and what is known of it."""

    socket: socket.socket
    backlog: int
    bind: str  # the address as it was asked for, by which a new master finds what it inherits
    path: str | None = None  # of a unix socket
    owned: bool = True  # whether the path is this process's to remove; not yet, in a new master that is on trial
    address: str = field(init=False)
    """As it is written on the command line; a port of 0 has become the real one."""

    def __post_init__(self) -> None:
        self._inode = 0
        with contextlib.suppress(OSError):  # somebody may have removed it
            self._inode = os.lstat(self.path).st_ino if self.path else 0
        name: Any = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            self.address = f"unix:{os.fsdecode(name)}"
        else:
            self.address = str(Address("tcp", host=name[0], port=name[1]))

    def queued(self) -> int | None:
        """Return how many connections wait in the accept queue (tcp(7), TCP_INFO), or None where that is not told."""
        if self.socket.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
            return None
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_UNACKED + 4)
        except OSError:
            return None
        return int(struct.unpack_from("=I", info, _TCP_INFO_UNACKED)[0])

    def close(self) -> None:
        """Close this process's copy. The queue lives on while any other process holds the socket."""
        self.socket.close()

    def unlink_path(self) -> None:
        """Remove the unix socket's path, if it is still the one made here: a successor may have taken its place."""
        if self.path is not None and self.owned:
            with contextlib.suppress(OSError):
                if os.lstat(self.path).st_ino == self._inode:
                    Path(self.path).unlink()


class Heirloom(NamedTuple):
    """An open listener that an older master left: the address it was asked for, its descriptor, its unix path."""

    bind: str
    fd: int
    path: str | None


INHERITED: Final = "inherited"
"""What stands for the address of a socket that a service manager passed."""


def open_all(
    addresses: Sequence[Address],
    inherited: Iterable[int],
    heritage: Iterable[Heirloom] = (),
    *,
    backlog: int,
    reuse_port: bool,
    option: str = "--bind",
) -> tuple[list[Listener], list[Listener]]:
    """Open every address, after the sockets that a service manager passed; all of them or none.

    Returns what listens, and what an older master left that is not asked for any more: closed, its path still there.

    Args:
        addresses: what to bind; may be empty if something was inherited.
        inherited: descriptors of sockets that listen already.
        heritage: open listeners of an older master.
        backlog: length of each accept queue.
        reuse_port: set SO_REUSEPORT on what is bound here.
        option: the name of what asks for it, for a person to read.

    Raises:
        AddressError: one line for the first address that could not be opened; the others are closed again.
    """
    opened: list[Listener] = []
    try:
        opened += [_adopt(fd, backlog, INHERITED) for fd in inherited]
        left = [_inherit(one, backlog) for one in heritage]
        opened += [one for one in left if one.bind == INHERITED]
        left = [one for one in left if one.bind != INHERITED]
        for address in addresses:
            if found := _find(left, str(address)):
                opened += found
            elif address.kind == "fd":
                opened.append(_adopt(address.fd, backlog, str(address)))
            elif address.kind == "unix":
                opened.append(_open_unix(address, backlog))
            else:
                opened += _open_tcp(address, backlog, reuse_port=reuse_port, option=option)
    except BaseException:
        for listener in opened:
            listener.close()
            listener.unlink_path()
        raise
    for unwanted in left:
        unwanted.close()
    _warn_if_clamped(backlog)
    return opened, left


def _inherit(one: Heirloom, backlog: int) -> Listener:
    sock = socket.socket(fileno=one.fd)
    sock.listen(backlog)  # listen(2) again only sets the queue's length
    _prepare(sock)
    return Listener(sock, backlog, one.bind, one.path, owned=False)


def _find(left: list[Listener], address: str) -> list[Listener]:
    """Take from `left` what was asked for as `address`, or is bound to it.

    An address that is asked for twice is in `left` twice, side by side, and each asking takes one.
    """
    asked = [one for one in left if one.bind == address] or [one for one in left if one.address == address]
    # a host name may stand for several addresses: as many as differ belong to one asking
    found = list({one.address.rpartition(":")[0]: one for one in reversed(asked)}.values())[::-1]
    for one in found:
        left.remove(one)
    return found


def port_of(service: str) -> int:
    """Return the TCP port of a service by its name: getservbyname(3), the chapter's first step.

    Raises:
        OSError: the services database has no such name.
    """
    return socket.getservbyname(service, "tcp")


def _open_tcp(address: Address, backlog: int, *, reuse_port: bool, option: str) -> list[Listener]:
    made: list[socket.socket] = []
    port = _resolve_port(address)
    try:
        for family, host in _resolve_host(address, option):
            sock = socket.socket(family, socket.SOCK_STREAM)  # step 2: the socket
            made.append(sock)
            # without this, connections of the last run that linger in TIME_WAIT would refuse us the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                both = address.host == "" and socket.has_dualstack_ipv6()
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
            sock.bind((host, port))  # step 3: bind
            sock.listen(backlog)  # step 4: listen
            _prepare(sock)
            port = port or sock.getsockname()[1]  # one name with several addresses gets one port
    except OSError as error:
        for sock in made:
            sock.close()
        raise AddressError(_explain(address, port, error, option)) from error
    return [Listener(sock, backlog, str(address)) for sock in made]


def _resolve_port(address: Address) -> int:
    if isinstance(address.port, int):
        return address.port
    try:
        return port_of(address.port)  # step 1: getservbyname
    except OSError as error:
        raise AddressError(
            f"--bind {address}: the services database has no TCP service {address.port!r}; give the port's number"
        ) from error


def _resolve_host(address: Address, option: str) -> list[tuple[socket.AddressFamily, str]]:
    if not address.host:
        return [(socket.AF_INET6, "::") if socket.has_dualstack_ipv6() else (socket.AF_INET, "0.0.0.0")]  # noqa: S104 - what ":PORT" asks for
    try:
        found = socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressError(
            f"{option} {address}: the host {address.host!r} has no address here ({error.strerror})"
        ) from error
    return list(dict.fromkeys((family, str(name[0])) for family, _, _, _, name in found))


def _open_unix(address: Address, backlog: int) -> Listener:
    path = address.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        sock.listen(backlog)
        _prepare(sock)
        return Listener(sock, backlog, str(address), path)
    except OSError as error:
        sock.close()
        raise AddressError(_explain(address, None, error)) from error


def _remove_stale(path: str) -> None:
    """Remove a unix socket nobody listens on any more; leave everything else for bind(2) to refuse."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        except OSError:
            return


def _adopt(fd: int, backlog: int, bind: str) -> Listener:
    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFD)
        sock = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        raise AddressError(f"--bind fd://{fd}: no socket was passed as descriptor {fd} ({error.strerror})") from error
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise AddressError(f"--bind fd://{fd}: the descriptor is not a listening stream socket")
    fcntl.fcntl(fd, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)
    os.close(fd)
    _prepare(sock)
    return Listener(sock, backlog, bind)


def _prepare(sock: socket.socket) -> None:
    """Set what holds for every listener, and for what is accepted of it, whoever made it."""
    sock.setblocking(False)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        # What accept(2) returns has it of the listener. Without it (tcp(7)) the second of two small answers waits until
        # the peer has acknowledged the first, which it puts off for 40 ms in the hope of something to send along.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _explain(address: Address, port: int | None, error: OSError, option: str = "--bind") -> str:
    """Return one line that names the option, the value and the cure."""
    cure = {
        errno.EADDRINUSE: "another program listens there; stop it, or bind another address",
        errno.EACCES: f"needs root or CAP_NET_BIND_SERVICE for a port below {_first_unprivileged()}; bind a higher one"
        if port
        else "no permission there",
        errno.EADDRNOTAVAIL: "this machine has no such address",
        errno.EAFNOSUPPORT: "this machine has no IPv6",
        errno.ENOENT: "the folder does not exist",
    }.get(error.errno or 0, os.strerror(error.errno or 0))
    number = f" (port {port})" if isinstance(address.port, str) and port else ""
    return f"{option} {address}{number}: {cure}"


def _first_unprivileged() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text("ascii"))
    except (OSError, ValueError):
        return 1024


def _warn_if_clamped(backlog: int) -> None:
    try:
        limit = int(_SOMAXCONN.read_text("ascii"))
    except (OSError, ValueError):
        return
    if backlog > limit:
        LOGGER.warning("--backlog %d is more than this kernel allows; it uses %d (net.core.somaxconn)", backlog, limit)
