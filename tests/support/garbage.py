"""Garbage: what a server on the open internet is sent by scanners, by clients of other protocols, and by enemies.

Made from a seed, so that a run can be had again. Of the real thing only the beginning is imitated: nothing here waits
for an answer.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from fuzz import CASES
from support import proxying

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

OTHERS: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"EHLO \x1b]0;owned\x07\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
    b"\x05\x01\0",
    b"${jndi:ldap://127.0.0.1/a}\r\n",
)
"""How other protocols begin: HTTP, HTTP/2, SSH, SMTP, RESP, RDP, SOCKS; and one that wants to be logged."""

HEADERS: Final = (
    proxying.v1(),
    proxying.v1("2001:db8::7", 4711, "2001:db8::1"),
    proxying.v2(),
    proxying.v2("2001:db8::7", 4711, "2001:db8::1"),
    proxying.v2(tlvs=proxying.tlv(2, b"mail\x1b[2J.example") + proxying.tls(b"TLSv1.3", b"ada\n")),
    proxying.block(0x31, b"/run/\x1b[2J\n".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")),
    proxying.LOCAL,
)


def hello() -> bytes:
    """Return what a TLS client says first."""
    context = ssl.create_default_context()
    said = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return said.read()
    raise AssertionError("a handshake without a server")


def damaged(data: bytes, rng: Random) -> bytes:
    """Return `data` with a few bytes changed, left out, put in or said twice; or cut short."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        end = min(len(data), at + rng.choice((1, 1, 2, 8, 100)))
        how = rng.randrange(5)
        if how == 0:
            data = data[:at] + rng.randbytes(end - at) + data[end:]
        elif how == 1:
            data = data[:at] + data[end:]
        elif how == 2:
            data = data[:at] + rng.randbytes(rng.randint(1, 20)) + data[at:]
        elif how == 3:
            data = data[:end] + data[at:]
        else:
            data = data[:at]
    return data


def _frames(rng: Random) -> bytes:
    return damaged(b"".join(rng.randbytes(rng.randint(0, 80)) + b"\r\n" for _ in range(rng.randint(1, 300))), rng)


def _case(rng: Random) -> bytes:
    """Return one of the fuzzer's cases, without the bytes that mean something to the fuzzer alone."""
    return rng.choice(_cases("wire", "proxy", "log"))[2:]


def _cases(*targets: str) -> list[bytes]:
    return [path.read_bytes() for target in targets for path in sorted((CASES / target).iterdir())]


KINDS: Final[dict[str, Callable[[Random], bytes]]] = {
    "random bytes": lambda rng: rng.randbytes(rng.randint(1, 5000)),
    "damaged frames": _frames,
    "endless frames": lambda rng: rng.randbytes(1).replace(b"\n", b"x") * rng.randint(8193, 60000),
    "control characters": lambda rng: bytes(rng.choices((*range(32), 127, 0xC2, 0x9B), k=rng.randint(1, 400))) + b"\n",
    "other protocols": lambda rng: rng.choice(OTHERS),
    "TLS": lambda _: hello(),
    "damaged TLS": lambda rng: damaged(hello(), rng),
    "PROXY headers": lambda rng: rng.choice(HEADERS) + rng.randbytes(rng.randint(0, 50)),
    "damaged PROXY headers": lambda rng: damaged(rng.choice(HEADERS), rng),
    "the fuzzer's cases": _case,
}


def control(rng: Random) -> bytes:
    """Return garbage for the control socket: none that is a command."""
    if rng.randrange(2):
        return damaged(b'{"command": "nonsense", "workers": 1}\n', rng) + b"\n"
    orders = (b"stop", b"scale", b"reload", b"upgrade", b"reopen", b"status")
    return rng.choice([case[1:] for case in _cases("control") if not any(order in case for order in orders)]) + b"\n"
