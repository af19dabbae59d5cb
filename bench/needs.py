"""What a server needs to be there: how that is found out, which version it is, and where it comes from.

It asks the machine and compiles; it installs nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PEERS: Final = Path(__file__).with_name("peers")
VENV: Final = Path(__file__).resolve().parent.parent / ".venv-bench"
OTHER_PYTHON: Final = str(VENV / "bin" / "python")
"""The interpreter of the peers that are Python libraries (requirements/bench.txt)."""


class MissingError(Exception):
    """Something is not installed, or does not work. The text is one line with the cure."""


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a server is made with.

    Attributes:
        name: what it is called in the report.
        probe: a command that prints its version, in its first line.
        package: where it comes from: `make bench-peers` installs it.
    """

    name: str
    probe: tuple[str, ...]
    package: str

    def version(self) -> str:
        """Return its version.

        Raises:
            MissingError: it is not there.
        """
        try:
            done = subprocess.run(self.probe, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - a program of the machine's
        except (OSError, subprocess.SubprocessError):
            raise MissingError(f"{self.name} is not installed: `make bench-peers`, or install {self.package}") from None
        return (done.stdout.strip() or "unknown").splitlines()[0]


def _library(name: str, package: str) -> Need:
    code = f"import importlib.metadata as m, {name}; print(m.version({package!r}))"
    return Need(package, (OTHER_PYTHON, "-c", code), f"{package} from PyPI")


CC: Final = Need("a C compiler", ("cc", "--version"), "Debian's gcc")
GO: Final = Need("Go", ("go", "version"), "Debian's golang-go")
PYTHON: Final = Need("Python", (sys.executable, "--version"), "Python")
UVLOOP: Final = Need("uvloop", (sys.executable, "-c", "import uvloop; print(uvloop.__version__)"), "uvloop from PyPI")
PREFORK: Final = Need("prefork", (sys.executable, "-m", "prefork", "--version"), "this repository")
TORNADO: Final = _library("tornado", "tornado")
GEVENT: Final = _library("gevent", "gevent")
PREFORKSERVER: Final = _library("preforkserver", "py-prefork-server")
NET_SERVER: Final = Need(
    "Net::Server", ("perl", "-MNet::Server", "-e", "print qq(Net::Server $Net::Server::VERSION, Perl $^V)"),
    "Debian's libnet-server-perl",
)  # fmt: skip
SERVERENGINE: Final = Need(
    "ServerEngine",
    ("ruby", "-rcool.io", "-rserverengine", "-e",
     "print %Q(ServerEngine #{ServerEngine::VERSION}, Cool.io #{Coolio::VERSION}, Ruby #{RUBY_VERSION})"),
    "Debian's ruby-serverengine and ruby-cool.io",
)  # fmt: skip
APACHE: Final = Need("Apache", ("apache2", "-v"), "Debian's apache2")
REDIS_BENCHMARK: Final = Need("redis-benchmark", ("redis-benchmark", "--version"), "Debian's redis-tools")


def compile_c(folder: Path) -> None:
    """Make `limit` in a folder.

    Raises:
        MissingError: there is no compiler, or it refuses.
    """
    CC.version()
    _compile("C", ["cc", "-O2", "-o", str(folder / "limit"), str(PEERS / "limit.c")], folder)


def compile_go(folder: Path) -> None:
    """Make `pong` in a folder.

    Raises:
        MissingError: there is no compiler, or it refuses.
    """
    GO.version()
    _compile("Go", ["go", "build", "-o", str(folder / "pong"), str(PEERS / "pong.go")], folder)


def _compile(language: str, command: list[str], folder: Path) -> None:
    env = os.environ | {"GOCACHE": str(folder / "go-cache"), "GO111MODULE": "off", "GOFLAGS": ""}
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=env)  # noqa: S603 - ours
    except subprocess.CalledProcessError as error:
        raise MissingError(f"the {language} server does not compile: {error.stderr.strip()[-200:]}") from None


def apache_modules() -> str:
    """Return the folder of Apache's modules, as apxs would say; Debian's where nothing else is found."""
    apxs = shutil.which("apxs")
    if apxs is None:
        return "/usr/lib/apache2/modules"
    return subprocess.run([apxs, "-q", "LIBEXECDIR"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - Apache's
