"""Memory for large frames: it stays a worker's for the next frame, within a bound."""

from __future__ import annotations

import platform
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from prefork import heap
from support.server import Server, read_exactly

MIB = 2**20
FRAME = struct.pack("!I", MIB - 4) + b"x" * (MIB - 4)
PEERS = 8
ROUNDS = 12
TARGET = """
from prefork import LengthPrefixed, conversation, reply

framing = LengthPrefixed(4, max_length=2**20)

@reply(framing)
def answer(frame: bytes) -> bytes:
    return frame

@conversation(framing)
def block(conn) -> None:
    for frame in conn:
        conn.send(frame)
"""


def serve(tmp_path: Path, name: str) -> Server:
    (tmp_path / "large.py").write_text(TARGET, "utf-8")
    return Server(f"large:{name}", "--workers", "1", tmp_path=tmp_path, cwd=tmp_path)


def faults(pid: int) -> int:
    """Page faults that needed no disk (proc(5), stat, minflt)."""
    return int(Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[7])


def ask_for_large_frames(server: Server) -> float:
    """Have several connections answered, and return how many page faults an answer took once the first were there."""
    (pid,) = server.workers().values()
    with ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(PEERS)]
        before = 0
        for number in range(ROUNDS):
            if number == 2:
                before = faults(pid)
            for sock in socks:
                sock.sendall(FRAME)
            for sock in socks:
                assert read_exactly(sock, len(FRAME)) == FRAME
        return (faults(pid) - before) / (PEERS * (ROUNDS - 2))


pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such bounds")


@pytest.mark.parametrize("name", ["answer", "block"])
def test_a_large_frame_does_not_pay_for_its_pages_again_and_again(tmp_path: Path, name: str) -> None:
    with serve(tmp_path, name) as server:
        assert ask_for_large_frames(server) < 100


FREED = """
import os
from pathlib import Path
from prefork import heap

def resident():
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

heap.keep()
before = resident()
blocks = [b"x" * heap.LARGEST for _ in range(20)]
blocks += [b"x" * (heap.LARGEST // 2) for _ in range(20)]
del blocks
print(resident() - before)
"""


def test_what_is_free_at_the_end_of_the_heap_is_kept_up_to_a_bound() -> None:
    left = int(subprocess.run([sys.executable, "-c", FREED], capture_output=True, check=True).stdout)
    assert heap.KEPT / 2 < left < heap.KEPT + 2 * MIB


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_MMAP_THRESHOLD_", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536")]
)
def test_who_tunes_the_allocator_by_its_environment_is_not_overruled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with serve(tmp_path, "answer") as server:
        assert ask_for_large_frames(server) > 200
