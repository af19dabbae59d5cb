"""One wrong answer, shortened so that a report can carry it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TypedDict

MOST_SHOWN = 60
"""Bytes of each part that are shown."""
BEFORE = 20
"""Bytes shown before the first one that differs."""


class ExampleData(TypedDict):
    """A wrong answer as plain data: each part as a Python literal of bytes, and what of it is not shown."""

    asked: str
    expected: str | None
    came: str


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """What was asked, what had to come and what came.

    Attributes:
        expected: None where only the scenario's own code can tell what is right.
    """

    asked: bytes
    expected: bytes | None
    came: bytes

    def shown(self) -> ExampleData:
        """It as plain data. Of what is long, the two answers are shown from where they begin to differ."""
        same = 0
        if self.expected is not None:
            same = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.expected, self.came, strict=False))
            )
        start = max(0, same - BEFORE) if max(len(self.came), len(self.expected or b"")) > MOST_SHOWN else 0
        return ExampleData(
            asked=_shortened(self.asked, 0),
            expected=None if self.expected is None else _shortened(self.expected, start),
            came=_shortened(self.came, start),
        )


def _shortened(data: bytes, start: int) -> str:
    part = data[start : start + MOST_SHOWN]
    if len(part) == len(data):
        return repr(data)
    return f"{'…' if start else ''}{part!r}{'…' if start + len(part) < len(data) else ''} ({len(data)} bytes)"


def facts(example: ExampleData) -> dict[str, str]:
    """Its parts by name, to print."""
    expected = example["expected"]
    own = "what the scenario's own check takes for right"
    return {"asked": example["asked"], "expected": own if expected is None else expected, "came": example["came"]}
