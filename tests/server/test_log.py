from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    last_resort = logging.lastResort
    yield
    logging.lastResort = last_resort
    for handler in log.LOGGER.handlers[:]:
        log.LOGGER.removeHandler(handler)


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[log.Format], Callable[[], list[str]]]:
    def configure(form: log.Format) -> Callable[[], list[str]]:
        path = tmp_path / "log"
        log.configure("debug", form, str(path), access=True)
        return lambda: path.read_text("utf-8").splitlines()

    return configure


def test_text_line_has_time_level_message_and_fields(lines: Callable[[log.Format], Callable[[], list[str]]]) -> None:
    written = lines("text")
    log.LOGGER.info("hello %s", "world", extra=log.fields(peer="127.0.0.1:1", reason="two words", count=3))
    (line,) = written()
    assert line.endswith('Z info    hello world peer=127.0.0.1:1 reason="two words" count=3')


def test_json_line_is_one_object_with_its_fields(lines: Callable[[log.Format], Callable[[], list[str]]]) -> None:
    written = lines("json")
    log.LOGGER.warning("hello\n", extra=log.fields(count=3, peer="x\ny"))
    (line,) = written()
    entry = json.loads(line)
    assert (entry["level"], entry["message"], entry["count"], entry["peer"]) == ("warning", "hello\\n", 3, "x\\ny")
    assert entry["pid"] == os.getpid()


@given(st.text())
def test_no_control_character_gets_through_and_every_field_is_bounded(text: str) -> None:
    escaped = log.escape(text, 50)
    assert escaped.isprintable()
    assert len(escaped) <= 50


def test_field_ends_where_it_seems_to_end(lines: Callable[[log.Format], Callable[[], list[str]]]) -> None:
    written = lines("text")
    log.LOGGER.info("hello", extra=log.fields(error='a"b', reason="x=1", empty=""))
    (line,) = written()
    assert line.endswith(r'hello error="a\"b" reason="x=1" empty=""')


def test_line_of_a_connection_says_which_worker_counted_it(
    lines: Callable[[log.Format], Callable[[], list[str]]],
) -> None:
    written = lines("text")
    log.LOGGER.info("hello", extra=log.fields(connection=7))
    assert written()[0].endswith(f"hello connection=7 pid={os.getpid()}")


def test_json_traceback_holds_no_control_byte(lines: Callable[[log.Format], Callable[[], list[str]]]) -> None:
    written = lines("json")
    try:
        raise ValueError("\x9b31m\x07 \u202e")  # noqa: TRY301
    except ValueError:
        log.LOGGER.exception("failed")
    (line,) = written()
    assert line.isprintable()
    assert json.loads(line)["traceback"].endswith("ValueError: \\x9b31m\\x07 \\u202e")


def test_traceback_cannot_pass_for_a_record(lines: Callable[[log.Format], Callable[[], list[str]]]) -> None:
    written = lines("text")
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z info    forged\x1b[31m")  # noqa: TRY301
    except ValueError:
        log.LOGGER.exception("failed")
    assert all(line.startswith("    ") for line in written()[1:])
    assert not any("\x1b" in line for line in written())


def test_line_that_cannot_be_written_is_dropped_and_counted() -> None:
    handler = log.configure("info", "text", "/dev/full", access=False)
    log.LOGGER.info("nobody will read this")
    assert handler.dropped == 1


def configure_on(stderr: int, form: log.Format) -> log.LogHandler:
    """Let the log go to this descriptor as it goes to standard error."""
    with os.fdopen(stderr, "w", closefd=False) as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        return log.configure("info", form, None, access=False)


class Pipe:
    """A pipe whose reader reads when it is told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def read(self) -> list[str]:
        os.set_blocking(self.reader, False)
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self.reader, 1 << 16):
                data += more
        return data.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.reader)
    os.close(made.writer)


def test_pipe_that_nobody_reads_is_not_waited_for_and_its_flags_are_left_alone(pipe: Pipe) -> None:
    handler = configure_on(pipe.writer, "text")
    for number in range(3000):
        log.LOGGER.info("line %d", number)
    assert os.get_blocking(pipe.writer)
    assert handler.dropped > 0
    written = pipe.read()
    assert [line.rpartition(" ")[2] for line in written] == [str(number) for number in range(3000 - handler.dropped)]
    log.LOGGER.info("again")
    said, again = pipe.read()
    assert f"warning {handler.dropped} log lines of pid {os.getpid()} were dropped: nobody reads them" in said
    assert again.endswith("info    again")
    log.LOGGER.info("once more")
    assert len(pipe.read()) == 1


def test_line_that_was_torn_is_counted_and_the_next_one_of_any_process_begins_on_its_own(pipe: Pipe) -> None:
    handler = configure_on(pipe.writer, "json")
    while not handler.dropped:  # three pages each, of sixteen: the last one fits in part
        log.LOGGER.info("x", extra={"trace": "\n".join(["y" * 1000] * 10)})
    *whole, torn = pipe.read()
    assert all(json.loads(line)["message"] == "x" for line in whole)
    assert torn.startswith("{")
    assert not torn.endswith("}")
    if os.fork() == 0:
        handler.count_in([0])
        log.LOGGER.info("another process")
        os._exit(0)
    os.wait()
    empty, other = pipe.read()
    assert (empty, json.loads(other)["message"]) == ("", "another process")
    log.LOGGER.info("and this one")
    assert [json.loads(line)["message"][:11] for line in pipe.read()] == ["1 log lines", "and this one"[:11]]


def test_pipe_whose_reader_has_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    handler = configure_on(pipe.writer, "text")
    reader = pipe.reader
    pipe.reader = os.dup(0)
    os.close(reader)
    log.LOGGER.info("nobody")
    assert handler.dropped == 1


def test_socket_that_nobody_reads_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()  # as a service manager gives for standard error
    with ours, theirs:
        handler = configure_on(theirs.fileno(), "text")
        while not handler.dropped:
            log.LOGGER.info("x" * 1000)
        assert theirs.getblocking()
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while ours.recv(1 << 16):
                pass
        log.LOGGER.info("again")
        assert b"1 log lines of pid" in ours.recv(1 << 16)
        handler.close()


NOBODY = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")


def test_pipe_of_somebody_else_is_asked_for_room_first() -> None:
    if os.geteuid() != 0 or shutil.which(NOBODY[0]) is None:
        pytest.skip("only root can be somebody else, by setpriv")
    code = """if True:
        from prefork import log
        handler = log.configure("info", "text", None, access=False)
        assert handler.fd == 2  # it cannot be opened anew
        while not handler.dropped:
            log.LOGGER.info("x" * 1000, extra={"trace": "y" * 10000})
        print("dropped", handler.dropped)
    """
    reader, writer = os.pipe()
    try:
        caps = "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"
        done = subprocess.run(
            [*NOBODY, *caps, sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, timeout=30, check=False
        )
        assert done.stdout == b"dropped 1\n", os.read(reader, 1 << 16)
    finally:
        os.close(reader)
        os.close(writer)


def test_named_pipe_without_a_reader_is_refused_in_words(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="nobody reads this pipe"):
        log.configure("info", "text", str(tmp_path / "log"), access=False)


def test_record_that_cannot_be_made_a_line_is_dropped_and_its_cause_told(
    lines: Callable[[log.Format], Callable[[], list[str]]],
) -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError

    written = lines("text")
    log.LOGGER.info("%s", Bad())
    log.LOGGER.info("good")
    said, good = written()
    assert "1 log lines of pid" in said
    assert "no line could be made of one: RuntimeError" in said
    assert good.endswith("good")


def test_what_nobody_has_configured_goes_the_same_way(lines: Callable[[log.Format], Callable[[], list[str]]]) -> None:
    handlers, logging.root.handlers = logging.root.handlers, []  # the test runner has its own
    try:
        written = lines("text")
        logging.getLogger("some.library").warning("beware\x07")
        assert written()[0].endswith("warning beware\\x07")
    finally:
        logging.root.handlers = handlers


def test_reopening_follows_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = log.configure("info", "text", str(path), access=False)
    log.LOGGER.info("before")
    path.rename(tmp_path / "log.1")
    handler.reopen()
    log.LOGGER.info("after")
    assert "before" in (tmp_path / "log.1").read_text()
    assert "after" in path.read_text()
    assert "before" not in path.read_text()


def test_access_lines_are_off_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.configure("info", "text", str(path), access=False)
    log.ACCESS.info("closed")
    assert path.read_text() == ""
    log.configure("error", "text", str(path), access=True)
    log.ACCESS.info("closed")
    assert "closed" in path.read_text()
