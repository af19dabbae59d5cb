"""Metrics as Prometheus scrapes them: what is shown, through reload and upgrade, and whoever else comes to the port."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.server import Server, alive, read_all, reset, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.tls import Authority

METRICS = ("--metrics", "127.0.0.1:0")
GET = b"GET /metrics HTTP/1.0\r\n\r\n"


def port_of(server: Server) -> int:
    found = re.search(r"metrics at http://127\.0\.0\.1:(\d+)/metrics", server.log())
    assert found is not None
    return int(found[1])


def scrape(port: int, timeout: float = 10.0) -> dict[str, float]:
    """Return each sample by its name and labels, as they are written: `prefork_workers{state="serving"}`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=timeout) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        page = answer.read().decode("utf-8")
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in samples, "the same series twice"
            samples[name] = sample.value
    return samples


def test_a_scrape_shows_what_the_server_does(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2", *METRICS) as server:
        port = port_of(server)
        with server.connect() as sock:
            for _ in range(3):
                sock.sendall(b"0123456789")
                assert sock.recv(100) == b"0123456789"
            shown, status = scrape(port), server.status()
            assert shown["prefork_connections"] == shown["prefork_connections_accepted_total"] == 1
            assert shown["prefork_received_bytes_total"] == shown["prefork_sent_bytes_total"] == 30
            assert shown["prefork_requests_total"] == status["totals"]["requests"]
            assert shown["prefork_workers_started_total"] == shown["prefork_workers_wanted"] == 2
            for name in ("errors", "connections_refused", "workers_lost"):
                assert shown[f"prefork_{name}_total"] == 0
            assert shown['prefork_state{state="running"}'] == shown['prefork_workers{state="serving"}'] / 2 == 1
            assert abs(shown["prefork_start_time_seconds"] - time.time()) < 60
            assert shown[f'prefork_build_info{{version="{status["version"]}"}}'] == 1
            for worker in status["workers"]:
                labels = f'pid="{worker["pid"]}",slot="{worker["slot"]}"'
                assert shown[f"prefork_worker_connections{{{labels}}}"] == worker["connections"]
                assert shown[f"prefork_worker_requests_total{{{labels}}}"] == worker["requests"]
                assert shown[f"prefork_worker_resident_memory_bytes{{{labels}}}"] > 1 << 20
        assert scrape(port)["prefork_start_time_seconds"] == shown["prefork_start_time_seconds"]
        assert server.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10)


def test_a_drain_can_be_watched_to_its_end(start: Callable[..., Server], module: Callable[..., str]) -> None:
    target = module("""
        from prefork import Connection, Lines, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            await conn.receive()
            await conn.send(b"begun")
            while not conn.draining:
                await __import__("asyncio").sleep(0.01)
            await conn.receive()
    """)
    with start(target, "--workers", "1", *METRICS) as server, server.connect() as sock:
        port = port_of(server)
        sock.sendall(b"begin\r\nun")  # half a line: a drain waits for the rest
        assert sock.recv(100) == b"begun\r\n"
        server.send(signal.SIGTERM)
        until(lambda: scrape(port)['prefork_workers{state="draining"}'] == 1)
        assert scrape(port)['prefork_state{state="draining"}'] == 1
        sock.sendall(b"til\r\n")
        assert server.process.wait(15) == 0


def test_the_accept_queue_is_shown_while_the_one_worker_is_busy(start: Callable[..., Server]) -> None:
    with start("echo", "--model", "sync", "--workers", "1", *METRICS) as server:
        port, (host, number) = port_of(server), server.address
        name = f'{{address="{host}:{number}"}}'
        with server.connect() as busy:
            busy.sendall(b"x")
            assert busy.recv(1) == b"x"
            waiting = [server.connect() for _ in range(3)]
            shown = scrape(port)
            assert shown["prefork_accept_queue_connections" + name] == 3
            assert shown["prefork_accept_queue_limit" + name] == 2048
            for sock in waiting:
                sock.close()
        until(lambda: scrape(port)["prefork_accept_queue_connections" + name] == 0)


def test_counters_outlive_workers_and_reloads(start: Callable[..., Server], module: Callable[..., str]) -> None:
    target = module("""
        from prefork import Lines, reply

        @reply(Lines())
        def service(line: bytes) -> bytes:
            return line
    """)
    with start(target, "--workers", "1", *METRICS) as server:
        port = port_of(server)
        for number in (1, 2):
            with server.connect() as sock:
                sock.sendall(b"hi\r\n")
                assert sock.recv(100) == b"hi\r\n"
            assert run("reload", "--control", server.control).returncode == 0
            until(lambda: len(server.status()["workers"]) == 1)
            shown = scrape(port)
            assert shown["prefork_requests_total"] == shown['prefork_reloads_total{result="ok"}'] == number
            assert shown["prefork_generation"] == shown["prefork_workers_started_total"] == number + 1
        module("syntax error")
        assert run("reload", "--control", server.control).returncode == 1
        assert scrape(port)['prefork_reloads_total{result="failed"}'] == 1
        assert scrape(port)['prefork_reloads_total{result="ok"}'] == 2


class Scraper:
    """A thread that scrapes again and again; every failure is kept."""

    def __init__(self, port: int) -> None:
        self.failures: list[str] = []
        self.masters: list[float] = []  # when who answered was started, one for each scrape
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)

    def _scrape(self) -> None:
        while not self._over.wait(0.005):
            try:
                self.masters.append(scrape(self._port)["prefork_start_time_seconds"])
            except (OSError, AssertionError, KeyError) as error:
                self.failures.append(repr(error))


def test_no_scrape_fails_while_the_program_is_upgraded(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1", *METRICS) as server:
        masters = [server.status()["started"]]
        with Scraper(port_of(server)) as scraper:
            until(lambda: len(scraper.masters) > 3)
            for _ in range(2):
                assert run("upgrade", "--control", server.control).returncode == 0
                masters.append(server.status()["started"])
                before = len(scraper.masters)
                until(lambda now=before: len(scraper.masters) > now + 20)  # type: ignore[misc]
                # one scrape may have been asked of the older master and not yet been noted
                assert set(scraper.masters[before + 1 :]) == {masters[-1]}
        assert scraper.failures == []
        assert sorted(set(scraper.masters)) == masters
        assert server.stop() == 0


def test_a_master_on_trial_answers_no_scrape(
    start: Callable[..., Server], module: Callable[..., str], tmp_path: Path
) -> None:
    target = module("""
        import time
        from pathlib import Path
        from prefork import Lines, reply

        if Path("hang").exists():
            time.sleep(60)

        @reply(Lines())
        def service(line: bytes) -> bytes:
            return line
    """)
    with start(target, "--workers", "1", "--boot-timeout", "2", *METRICS) as server:
        started = server.status()["started"]
        with Scraper(port_of(server)) as scraper:
            until(lambda: len(scraper.masters) > 3)
            (tmp_path / "hang").touch()
            assert run("upgrade", "--control", server.control).returncode == 1
            before = len(scraper.masters)
            until(lambda: len(scraper.masters) > before + 3)
        assert scraper.failures == []
        assert set(scraper.masters) == {started}


def test_another_address_needs_an_upgrade_and_gets_one(start: Callable[..., Server], tmp_path: Path) -> None:
    config = tmp_path / "prefork.toml"
    config.write_text('metrics = "127.0.0.1:0"\n')
    with start("echo", "--workers", "1") as server:
        port = port_of(server)
        config.write_text('metrics = "localhost:0"\n')
        told = run("reload", "--control", server.control)
        assert (told.returncode, told.stderr.count("\n")) == (1, 1)
        assert (
            "--metrics localhost:0: a reload keeps its sockets; `prefork upgrade` opens another address" in told.stderr
        )
        assert scrape(port)['prefork_reloads_total{result="failed"}'] == 1
        config.write_text("")
        assert run("upgrade", "--control", server.control).returncode == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /metrics?x=y HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.0\n\n", b"200"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
        (b"\n\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 2000, b"431"),
        (GET * 1000, b"200"),
        (b"GET", b""),
        (b"", b""),
    ],
)
def test_each_request_has_its_answer_and_the_end_is_clean(
    start: Callable[..., Server], request_: bytes, status: bytes
) -> None:
    with start("echo", "--workers", "1", *METRICS) as server:
        with socket.create_connection(("127.0.0.1", port_of(server)), 10) as sock:
            sock.sendall(request_[:8000])  # what comes beyond the limit is not waited for
            sock.shutdown(socket.SHUT_WR) if len(request_) < 8000 else sock.sendall(request_[8000:8192])
            answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 " + status if status else b"")
        assert bool(answer) == bool(status)
        assert "Traceback" not in server.log()


def test_garbage_silence_and_resets_hold_up_neither_scrapers_nor_clients(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1", *METRICS) as server:
        port, master = port_of(server), server.process.pid
        address = ("127.0.0.1", port)
        silent = [socket.create_connection(address, 20) for _ in range(20)]  # more than are let in at once
        for number in range(100):
            sock = socket.create_connection(address, 10)
            sock.sendall((b"", b"\0" * 500, GET, b"GET /metr")[number % 4])
            reset(sock)
        began = time.monotonic()
        with server.connect() as client:
            client.sendall(b"still here")
            assert client.recv(100) == b"still here"
        assert server.status()["state"] == "running"
        assert time.monotonic() - began < 5  # the master hears others at once
        assert scrape(port, timeout=60)["prefork_workers_lost_total"] == 0  # it waited in the queue, and not for ever
        for sock in silent:
            with sock:
                assert read_all(sock) == b""  # closed by its deadline
        assert alive(master)
        assert "Traceback" not in server.log()
        assert server.stop() == 0


def sockets_at(port: int) -> set[str]:
    """Return the inodes of every socket bound to a port of loopback (proc(5), net/tcp)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[1] == f"0100007F:{port:04X}" and row[9] != "0"}


def test_no_worker_holds_a_copy_of_the_socket_or_of_a_connection(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "2", *METRICS) as server:
        port = port_of(server)

        def holders() -> dict[int, set[str]]:
            wanted = sockets_at(port)
            links = {pid: Path(f"/proc/{pid}/fd").glob("*") for pid in server.processes()}
            return {pid: {str(link.readlink()) for link in fds} & wanted for pid, fds in links.items()}

        with socket.create_connection(("127.0.0.1", port), 10):
            until(lambda: len(holders()[server.process.pid]) == 2)
            assert run("scale", "4", "--control", server.control).returncode == 0  # forks while one is open
            until(lambda: len(server.workers()) == 4)
            assert all(bool(held) == (pid == server.process.pid) for pid, held in holders().items())


def ask_ready(port: int) -> tuple[int, str]:
    """Return what a balancer is told."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
            return answer.status, answer.read().decode("utf-8").strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode("utf-8").strip()


def test_a_balancer_is_told_to_send_nobody_before_the_server_stops_to_serve(start: Callable[..., Server]) -> None:
    with start("echo", "--workers", "1", "--stop-delay", "1", *METRICS) as server:
        port = port_of(server)
        assert ask_ready(port) == (200, "running")
        server.send(signal.SIGTERM)
        until(lambda: ask_ready(port) == (503, "draining"))
        with server.connect() as sock:  # and whoever comes all the same is served
            sock.sendall(b"late")
            assert sock.recv(100) == b"late"
        assert server.process.wait(10) == 0


def test_the_end_of_each_certificate_is_shown(start: Callable[..., Server], authority: Authority) -> None:
    second = authority.issue("b.example", file="second")
    with start("echo", "--workers", "1", *METRICS, *authority.options, *second) as server:
        shown = scrape(port_of(server))
        for one in server.status()["certificates"]:
            name = f'prefork_tls_certificate_expiry_timestamp_seconds{{file="{one["file"]}"}}'
            assert shown[name] == one["expires"] > time.time()


def test_an_address_that_cannot_be_had_is_told_in_one_line(start: Callable[..., Server], tmp_path: Path) -> None:
    with start("echo", "--workers", "1", *METRICS) as server:
        taken = f"127.0.0.1:{port_of(server)}"
        for value, code, why in (
            (taken, 4, f"--metrics {taken}: another program listens there; stop it, or bind another address"),
            ("unix:/x", 2, "--metrics 'unix:/x': must be HOST:PORT, such as 127.0.0.1:9108"),
            ("127.0.0.1:echo", 2, "--metrics '127.0.0.1:echo': must be HOST:PORT, such as 127.0.0.1:9108"),
            ("no.such.host.invalid:1", 4, "--metrics no.such.host.invalid:1: the host"),
        ):
            told = run(
                "serve", "echo", "--bind", "127.0.0.1:0", "--control", "off", "--log-level", "error",
                "--metrics", value, cwd=tmp_path,
            )  # fmt: skip
            assert (told.returncode, told.stdout, told.stderr.count("\n")) == (code, "", 1), told
            assert why in told.stderr
