"""Fuzzing: what strangers may send, under a coverage-guided fuzzer (`make fuzz`).

Each target is a file with one `check`, which takes bytes, makes of them what a peer or a person could give, and fails
unless the promises hold; `WORDS` are what no chance would spell, and beyond `LONGEST` bytes nothing new is to be found.
`cases/TARGET/` has inputs worth keeping: seeds, and everything that was ever found. The tests replay them without a
fuzzer (`tests/server/test_fuzz.py`). Only `engine.py` imports the fuzzer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

TARGETS: Final = ("wire", "proxy", "control", "settings", "log")
CASES: Final = Path(__file__).parent / "cases"
