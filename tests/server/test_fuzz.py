"""What the fuzzer, or a person who thought like one, has found stays found; and the fuzzer's own checks can fail."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

from fuzz import CASES, TARGETS
from fuzz.wire import check_framing
from prefork_wire import Lines, Raw

if TYPE_CHECKING:
    from pathlib import Path

    from prefork_wire import Decoder

FILES = sorted(path for path in CASES.rglob("*") if path.is_file())


@pytest.mark.parametrize("case", FILES, ids=[f"{path.parent.name}/{path.name}" for path in FILES])
def test_what_was_found_stays_mended(case: Path) -> None:
    importlib.import_module(f"fuzz.{case.parent.name}").check(case.read_bytes())


def test_every_target_has_cases_and_every_case_a_target() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)


class AsTheyCome:
    """A framing that is none: its frames are what arrived together."""

    def decoder(self) -> Decoder:
        return Raw().decoder()

    def encode(self, payload: bytes) -> bytes:
        return payload


def test_framing_that_depends_on_how_bytes_arrive_is_caught() -> None:
    with pytest.raises(AssertionError, match="cut by 1"):
        check_framing(AsTheyCome(), 0, b"one", 0)


def test_decoder_that_holds_more_than_its_limit_is_caught() -> None:
    with pytest.raises(AssertionError, match="its bound is 4"):
        check_framing(Lines(16), 4, b"fives", 0)
