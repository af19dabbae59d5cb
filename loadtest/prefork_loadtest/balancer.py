"""HAProxy before servers of this machine, as a process or a container: found, configured, started, ended.

It says to each server whose connection it is (PROXY, version 2), and goes to another one where one refuses. It is the
configuration of deploy/haproxy/haproxy.cfg, but for addresses that are known beforehand.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Self

from prefork_client import Client, ClientError
from prefork_loadtest.server import did_not_start

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

IMAGE = "haproxy:3.0"
START_S = 15.0
STOP_S = 10.0
LOOK_S = 30.0
INSIDE = "/usr/local/etc/haproxy/haproxy.cfg"
CONFIGURATION = """
global
    log stdout format raw local0
    maxconn 4000
    nbthread 1

defaults
    log global
    mode tcp
    option tcplog
    option dontlog-normal
    timeout connect 1s
    timeout client 90s
    timeout server 90s
    timeout client-fin 5s
    timeout server-fin 5s
    retries 3
    option redispatch 1

frontend load
    bind {address}
    default_backend servers

backend servers
    balance leastconn
    option httpchk GET /ready
    default-server check inter 200ms fall 1 rise 1 send-proxy-v2
    default-server observe layer4 error-limit 1 on-error mark-down
{servers}
"""


def missing() -> str | None:
    """Why there is no HAProxy here, in a few words; None if there is one."""
    if shutil.which("haproxy") or _has_image():
        return None
    return f"no haproxy: install it, or pull the image {IMAGE} where a Docker engine runs"


def _has_image() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            [docker, "image", "inspect", IMAGE], capture_output=True, timeout=LOOK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class Balancer:
    """A context manager around one HAProxy.

    Args:
        servers: their addresses, HOST:PORT, of this machine, and for each the port where it says that it is ready.
        folder: where its configuration goes.
        log: where its log goes.

    Attributes:
        address: where it listens, as a load test takes it.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], folder: Path, log: Path) -> None:
        place = f"127.0.0.1:{free_port()}"
        self.address = f"tcp://{place}"
        self._log = log
        self._configuration = folder / "haproxy.cfg"
        lines = "\n".join(
            f"    server replica{number} {server} port {ready}" for number, (server, ready) in enumerate(servers, 1)
        )
        self._configuration.write_text(CONFIGURATION.format(address=place, servers=lines), "utf-8")
        self._configuration.chmod(0o644)  # in a container it is read by a user of the image's
        self._container = ""
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str]:
        if program := shutil.which("haproxy"):
            return [program, "-db", "-f", str(self._configuration)]
        self._container = f"prefork-loadtest-{secrets.token_hex(4)}"
        mount = f"{self._configuration}:{INSIDE}:ro"
        return [
            *("docker", "run", "--rm", "--name", self._container, "--network", "host", "--volume", mount),
            *("--entrypoint", "haproxy", IMAGE, "-db", "-f", INSIDE),
        ]

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            # A session of its own: an interrupt from the keyboard ends the run first.
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                self._command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self._end()
            raise
        return self

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a request through it is answered.

        Raises:
            StartFailed: none is, in one line.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with Client(self.address, connect_timeout=1.0, reply_timeout=1.0) as client:
                    client.request(b"ready?")
                    return
            except ClientError:
                time.sleep(0.1)
        raise did_not_start("haproxy did not get ready", self._log)

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        if self._container:  # whoever ends `docker run` leaves its container; the load is over, nobody is cut off
            command = ["docker", "rm", "--force", self._container]
            subprocess.run(command, capture_output=True, timeout=LOOK_S, check=False)  # noqa: S603 - our own words
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that was free a moment ago, for who does not tell which one it took for 0."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port
