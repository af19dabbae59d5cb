"""The log: whatever a stranger's text has in it, a record is one line without a control character, and bounded."""

from __future__ import annotations

import json
import logging
import sys
from typing import Final

from fuzz.given import Given
from prefork import log

WORDS: Final = (b"\r\n", b"\x1b[2J", b"\xc2\x9b", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\x7f", b"\0", b'" a="', b"%s")
LONGEST: Final = 20000
PLACES: Final = ("message", "field", "error")
MOST: Final = log.MAX_MESSAGE + 2 * log.MAX_FIELD + 100  # a field's backslashes are doubled where it is quoted


def check(data: bytes) -> None:
    """Log the rest of `data` in one of the places a stranger's text comes to."""
    given = Given(data)
    place = PLACES[given.below(len(PLACES))]
    errors = ("surrogateescape", "replace")[given.below(2)]
    text = given.rest().decode("utf-8", errors)
    record = _record(place, text)
    line = log._TextFormatter().format(record)  # what `configure` makes
    first, *others = line.split("\n")
    assert all(one.startswith("    ") for one in others)
    assert not others or place == "error"
    for one in (first, *others):
        assert one.isprintable(), f"the log would show {one!r}"
        assert len(one) <= MOST
    line = log._JsonFormatter().format(record)
    assert line.isprintable(), f"the log would show {line!r}"
    assert json.loads(line)["level"] == "warning"


def _record(place: str, text: str) -> logging.LogRecord:
    error = None
    if place == "error":
        try:
            _fail(text)
        except RuntimeError:
            error = sys.exc_info()
    message = text if place == "message" else "something of a peer's"
    record = logging.LogRecord("prefork", logging.WARNING, __file__, 1, "%s", (message,), error)
    record.fields = {"peer": text} if place == "field" else {}
    return record


def _fail(text: str) -> None:
    raise RuntimeError(text)
