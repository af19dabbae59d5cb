from __future__ import annotations

import json
import os
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
    yield
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
    assert len(escaped) <= 50 * 10


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
