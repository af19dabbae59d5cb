"""A server while it runs: started on its CPUs, seen to answer, ended with everything of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from bench import measure
from bench.load import LoadError, connect
from bench.needs import MissingError
from bench.servers import USUAL_CONNECTIONS, Server, Spot

if TYPE_CHECKING:
    from types import TracebackType

START_S: Final = 30.0
END_S: Final = 3.0


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def environment(kit: Path) -> dict[str, str]:
    """Return the environment of all that is measured.

    Nothing of this shell's settings for prefork; and Python keeps what it has compiled, as it does for whatever is
    installed: otherwise each process would compile anew, and pay in memory and time.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PREFORK_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**kept, "PYTHONPYCACHEPREFIX": str(kit / "pycache")}


class Running:
    """A server in a session of its own; `with Running(server, kit) as running`.

    Attributes:
        server: which one.
        port: where it answers.
        session: its session, and the pid of what was started.
        ports_free: when whoever makes many connections to it finds enough ports again, on the monotonic clock.
        start_s: seconds from the start to the first answer.
    """

    def __init__(
        self,
        server: Server,
        kit: Path,
        processes: int = 1,
        *,
        connections: int = USUAL_CONNECTIONS,
        cpus: set[int] | None = None,
    ) -> None:
        self.server = server
        self.processes = processes
        self.start_s = 0.0
        self.ports_free = 0.0
        self._kit = kit
        self._connections = connections
        self._cpus = measure.sides()[0] if cpus is None else cpus

    def __enter__(self) -> Self:
        """Start it and wait until it has answered and come to rest.

        Raises:
            MissingError: it does not start, or answers wrongly. The text has the last line of its log.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.port = free_port()
        spot = Spot(self.port, self.processes, self._connections, Path(self._folder.name), self._kit)
        self._log = spot.folder / "log"
        env = environment(self._kit)
        command = self.server.command(spot)
        with self._log.open("wb") as log, measure.on(self._cpus):
            begin = time.perf_counter()
            try:
                self._process = subprocess.Popen(  # noqa: S603 - the table's
                    command, cwd=spot.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                self._folder.cleanup()
                raise MissingError(f"did not start: {error}") from None
        self.session = self._process.pid
        try:
            self._wait_for_an_answer(begin)
            measure.settle(self.session)
        except TimeoutError as error:
            self._end()
            raise MissingError(str(error)) from None
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _wait_for_an_answer(self, begin: float) -> None:
        while True:
            try:
                connect(self.port, self.server.ask, self.server.answer).close()
            except (OSError, LoadError) as error:
                waited = time.perf_counter() - begin
                if self._process.poll() is not None or isinstance(error, LoadError) or waited > START_S:
                    raise MissingError(f"did not start: {self._last_words() or error}") from None
                time.sleep(0.001)
            else:
                self.start_s = time.perf_counter() - begin
                return

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][-200:] if lines else ""

    def cpu(self) -> float:
        """Return the CPU seconds that all its processes have used."""
        return measure.cpu(self.session)

    def pss_kib(self) -> float:
        """Return the memory of all its processes in KiB."""
        return measure.pss_kib(self.session)

    def _end(self) -> None:
        """End it by TERM, and whatever is left of it by KILL."""
        with suppress(ProcessLookupError):
            os.killpg(self.session, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        for pid in measure.members(self.session):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()
