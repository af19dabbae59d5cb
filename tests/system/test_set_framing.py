"""Another framing in mid-stream: not a byte is lost, whatever was cut already; and nothing comes behind an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from prefork_wire import Delimited, FixedSize, LengthPrefixed, Lines, Netstring
from support.server import Server, exchange, read_all
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(("model", "keyword", "wait"), [("async", "async ", "await "), ("threads", "", "")])
def test_framing_changes_in_mid_stream_without_losing_a_byte(
    start: Callable[..., Server], module: Callable[..., str], model: str, keyword: str, wait: str
) -> None:
    service = module(f"""
        from prefork import Lines, Netstring, conversation

        @conversation(Lines())
        {keyword}def service(conn):
            assert {wait}conn.receive() == b"netstrings"
            conn.set_framing(Netstring())
            {keyword}for frame in conn:
                {wait}conn.send(frame)
    """)
    with start(service, "--workers", "1", "--model", model) as server:
        assert exchange(server.address, b"netstrings\r\n5:hello,3:you,") == b"5:hello,3:you,"


@pytest.mark.parametrize(("model", "keyword", "wait"), [("async", "async ", "await "), ("threads", "", "")])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_the_old_framing_would_refuse_is_the_new_ones(
    start: Callable[..., Server], module: Callable[..., str], model: str, keyword: str, wait: str, before: int
) -> None:
    service = module(f"""
        from prefork import FixedSize, Lines, conversation

        @conversation(Lines(max_length=20))
        {keyword}def service(conn):
            while (line := {wait}conn.receive()) != b"data":
                pass
            conn.set_framing(FixedSize(50_000))
            {wait}conn.send({wait}conn.receive())
    """)
    body = (bytes(49) + b"\n") * 1000  # to Lines: lines that are too long
    with start(service, "--workers", "1", "--model", model) as server:
        assert exchange(server.address, b"hello\r\n" * before + b"data\r\n" + body) == body
        assert server.status()["totals"]["errors"] == 0


@pytest.mark.parametrize(("model", "keyword", "wait"), [("async", "async ", "await "), ("threads", "", "")])
@pytest.mark.parametrize("at_once", [1, 7, 100_000])
def test_framing_changes_behind_every_few_frames_back_and_forth(
    start: Callable[..., Server], module: Callable[..., str], model: str, keyword: str, wait: str, at_once: int
) -> None:
    service = module(f"""
        from prefork import Delimited, FixedSize, LengthPrefixed, Lines, Netstring, conversation

        FRAMINGS = (Lines(), Netstring(), FixedSize(3), LengthPrefixed(2), Delimited(b"END"))

        @conversation(FRAMINGS[0])
        {keyword}def service(conn):
            for number in range(300):
                conn.set_framing(FRAMINGS[number % 5])
                for _ in range(1 + number % 3):
                    {wait}conn.send({wait}conn.receive())
    """)
    framings = (Lines(), Netstring(), FixedSize(3), LengthPrefixed(2), Delimited(b"END"))
    sent = b"".join(
        framings[number % 5].encode(b"%03d" % (number + turn))
        for number in range(300)
        for turn in range(1 + number % 3)
    )
    with start(service, "--workers", "1", "--model", model) as server, server.connect() as sock:
        for at in range(0, len(sent), at_once):
            sock.sendall(sent[at : at + at_once])
        assert read_all(sock) == sent
        assert server.status()["totals"]["errors"] == 0


@pytest.mark.parametrize(
    ("model", "keyword", "wait", "library"),
    [("async", "async ", "await ", "asyncio"), ("threads", "", "", "time")],
)
@pytest.mark.parametrize("end", ["close", "abort"])
def test_nothing_is_handed_out_behind_the_end_that_the_handler_makes(  # noqa: PLR0913, PLR0917 - fixtures and models
    start: Callable[..., Server],
    module: Callable[..., str],
    tmp_path: Path,
    model: str,
    keyword: str,
    wait: str,
    library: str,
    end: str,
) -> None:
    service = module(f"""
        from pathlib import Path
        from {library} import sleep
        from prefork import ConnectionEnded, Lines, conversation

        @conversation(Lines())
        {keyword}def service(conn):
            {wait}conn.receive()
            while not Path("both").exists():
                {wait}sleep(0.01)
            {wait if end == "close" else ""}conn.{end}()
            said = []
            for step in (conn.receive, lambda: conn.send(b"more")):
                try:
                    said.append({wait}step())
                except ConnectionEnded as error:
                    said.append(str(error))
            Path("said").write_text(f"{{said}} {{conn.local}}")
    """)
    with start(service, "--workers", "1", "--model", model) as server:
        with server.connect() as sock:
            sock.sendall(b"first\r\n")
            until(lambda: server.status()["totals"]["bytes_in"] == 7)
            sock.sendall(b"second\r\n")
            until(lambda: model == "threads" or server.status()["totals"]["bytes_in"] == 15)
            (tmp_path / "both").touch()
            until((tmp_path / "said").exists)
        why = {"close": "the connection is closed", "abort": "the connection was aborted"}[end]
        until(lambda: (tmp_path / "said").read_text().startswith(f"{[why, why]} "))
        assert model == "async" or (tmp_path / "said").read_text().endswith(" gone")
        until(lambda: server.status()["totals"]["connections"] == 0)
        assert server.status()["totals"]["errors"] == 0


def test_bytes_that_come_after_a_wait_was_given_up_are_the_next_framings(
    start: Callable[..., Server], module: Callable[..., str]
) -> None:
    service = module("""
        import asyncio
        from prefork import Connection, Lines, Raw, conversation

        @conversation(Lines())
        async def service(conn: Connection) -> None:
            try:
                async with asyncio.timeout(0.05):
                    await conn.receive()
            except TimeoutError:
                await conn.send(b"go")
            while conn.state != "handler":
                await asyncio.sleep(0.01)
            conn.set_framing(Raw())
            await conn.send(await conn.receive())
    """)
    with start(service, "--workers", "1") as server, server.connect() as sock:
        assert sock.recv(10) == b"go\r\n"
        sock.sendall(b"raw\r\n")
        assert sock.recv(10) == b"raw\r\n"
