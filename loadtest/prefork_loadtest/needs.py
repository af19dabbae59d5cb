"""What a scenario needs besides a server of this project: looked for before it runs, and named when it is not there.

A scenario whose needs are not met is reported as not available; it never passes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

from prefork_loadtest import balancer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SECONDS = 30.0


def missing(needs: Iterable[str]) -> str | None:
    """Why a scenario with these needs is not available here, in a few words; None if it is."""
    return next((reason for need in needs if (reason := NEEDS[need]())), None)


@cache
def serve_help() -> str:
    """What `prefork serve --help` says; "" where it is not installed."""
    command = [sys.executable, "-m", "prefork", "serve", "--help"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def server() -> str | None:
    """`prefork serve` itself."""
    return None if serve_help() else "prefork is not installed beside the load kit: give --host of a server that runs"


def _option(name: str) -> str | None:
    return server() or (None if f"{name} " in serve_help() else f"this prefork serve has no {name}")


def _tls() -> str | None:
    if shutil.which("openssl") is None:
        return "there is no openssl to make a certificate with"
    return _option("--tls-cert")


def _proxy() -> str | None:
    return _option("--proxy-protocol")


NEEDS: dict[str, Callable[[], str | None]] = {"tls": _tls, "proxy": _proxy, "haproxy": balancer.missing}


def make_certificate(folder: Path) -> None:
    """Write `key.pem` and `cert.pem`, for loopback and for a day, into a folder.

    Raises:
        OSError: it could not be made.
    """
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "1"),
        *("-subj", "/CN=prefork-loadtest", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise OSError(f"openssl made no certificate: {done.stderr.strip().splitlines()[-1:]}")
