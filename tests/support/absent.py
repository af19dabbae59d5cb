"""Libraries that are not installed, for one program: a folder for its PYTHONPATH where importing them fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def without(folder: Path, *modules: str) -> str:
    """Make the folder `without` in this one, and return its path."""
    made = folder / "without"
    made.mkdir()
    for name in modules:
        (made / f"{name}.py").write_text("raise ImportError('not installed')", "utf-8")
    return str(made)


LOOPS = {"uvloop": (), "asyncio": ("uvloop",)}
"""The two kinds of event loop that an async worker may have, and what must be absent for each."""
