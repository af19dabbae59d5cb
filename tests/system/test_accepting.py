"""What a worker makes of an accept(2) that fails: each of three named sets, in each model.

The failures are the kernel's own: on its client's word a worker puts a filter (seccomp(2)) over its accept(2), which
answers with the error that the client has named, for as long as that worker lives.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from support.scorecard import cpu_seconds
from support.server import exchange, read_all, read_exactly
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.server import Server

MODELS = ("async", "threads", "sync")
CAPACITY = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")

FAILING = """
    import ctypes, errno, platform, struct
    from prefork import Lines, reply

    libc = ctypes.CDLL(None, use_errno=True)
    SECCOMP, ACCEPT4 = {"x86_64": (317, 288), "aarch64": (277, 242)}[platform.machine()]

    class Program(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    def fail(number):
        code = b"".join(struct.pack("HBBI", *one) for one in (
            (0x20, 0, 0, 0),  # load the number of the system call
            (0x15, 0, 1, ACCEPT4),  # unless it is this one, skip
            (0x06, 0, 0, 0x00050000 | number),  # fail with this error
            (0x06, 0, 0, 0x7FFF0000),  # let it pass
        ))
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC: for every thread
        if libc.syscall(SECCOMP, 1, 1, ctypes.byref(Program(4, code))):
            raise OSError(ctypes.get_errno(), "seccomp")

    @reply(Lines(newline=b"\\n"))
    def service(line: bytes) -> bytes:
        if line.startswith(b"E"):
            fail(getattr(errno, line.decode()))
        return line
"""


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CAPACITY)
def test_worker_that_lacks_what_accepting_takes_pauses_and_serves_whom_it_has(
    start: Callable[..., Server], module: Callable[..., str], name: str, model: str
) -> None:
    with start(module(FAILING), "--workers", "1", "--model", model) as server:
        worker = server.workers()[0]
        with server.connect() as live:
            live.sendall(name.encode() + b"\n")
            assert read_exactly(live, len(name) + 1) == name.encode() + b"\n"
            if model == "sync":
                live.close()  # it serves one at a time, and looks for the next one now
            with server.connect() as newcomer:
                newcomer.sendall(b"new\n")
                said = f"cannot accept: {os.strerror(getattr(errno, name))}; trying again every 0.1 s"
                until(lambda: said in server.log())
                began, used = time.monotonic(), cpu_seconds(worker)
                until(lambda: time.monotonic() >= began + 1)
                assert cpu_seconds(worker) - used <= 0.1, "it spins"
                assert server.log().count("cannot accept") == 1
                if model != "sync":
                    live.sendall(b"live\n")
                    assert read_exactly(live, 5) == b"live\n"
                assert [one["pid"] for one in server.status()["workers"]] == [worker]
                os.kill(worker, signal.SIGKILL)
                assert read_exactly(newcomer, 4) == b"new\n"  # it waited in the queue for a worker that can


@pytest.mark.parametrize("model", MODELS)
def test_worker_whose_listener_is_not_what_it_should_be_says_so_and_leaves_for_another(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    with start(module(FAILING), "--workers", "1", "--model", model) as server:
        worker = server.workers()[0]
        with server.connect() as live:
            live.sendall(b"EINVAL\n")
            assert read_exactly(live, 7) == b"EINVAL\n"
            if model == "sync":
                live.close()
            with server.connect() as newcomer:
                newcomer.sendall(b"new\n")
                assert read_exactly(newcomer, 4) == b"new\n"
            if model != "sync":
                assert read_all(live) == b""  # what it had is ended in order, not reset
        assert "cannot accept any more: Invalid argument; leaving" in server.log()
        assert "Traceback" not in server.log()
        until(lambda: server.workers().get(0, worker) != worker)
        assert exchange(server.address, b"again\n") == b"again\n"


@pytest.mark.parametrize("model", MODELS)
def test_connection_that_was_gone_before_it_was_accepted_is_no_event(
    start: Callable[..., Server], module: Callable[..., str], model: str
) -> None:
    with start(module(FAILING), "--workers", "1", "--model", model) as server:
        worker = server.workers()[0]
        with server.connect() as live:
            live.sendall(b"EAGAIN\n")
            assert read_exactly(live, 7) == b"EAGAIN\n"
            used = cpu_seconds(worker)
            began = time.monotonic()
            until(lambda: time.monotonic() >= began + 1)
            assert cpu_seconds(worker) - used <= 0.1, "it spins"
            assert server.workers()[0] == worker
        assert "cannot accept" not in server.log()


SHORT_OF_DESCRIPTORS = """
    import os, resource
    from prefork import Lines, reply
    from prefork.worker import accept

    accept.PAUSE = 3.0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    @reply(Lines(newline=b"\\n"))
    def service(line: bytes) -> bytes:
        if line == b"none":
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        if line == b"some":
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return line
"""


def test_worker_that_is_told_to_leave_while_it_lacks_descriptors_serves_who_waits_in_the_queue(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    with start(module(SHORT_OF_DESCRIPTORS), "--workers", "1") as server, server.connect() as live:
        live.sendall(b"none\n")
        assert read_exactly(live, 5) == b"none\n"
        with server.connect() as newcomer:
            newcomer.sendall(b"new\n")
            until(lambda: "cannot accept" in server.log())
            live.sendall(b"some\n")
            assert read_exactly(live, 5) == b"some\n"
            server.send(signal.SIGTERM)
            assert read_exactly(newcomer, 4) == b"new\n"
