"""One target under Atheris, Google's coverage-guided fuzzer for Python, with libFuzzer within.

    python -m fuzz.engine TARGET [libFuzzer's options and corpus folders]

It ends at the first finding, with the traceback; the input is written where `-artifact_prefix` says.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

if TYPE_CHECKING:
    from collections.abc import Iterable

WATCHED = ["prefork", "prefork_wire", "tomllib", "json.decoder", "json.scanner"]
"""What is instrumented: our own, and the parsers that decide what is new to us."""


def words(path: Path, some: Iterable[bytes]) -> None:
    """Write the target's own words in the form of a libFuzzer dictionary: what no chance would ever spell."""
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in some)
    path.write_text("".join(f'"{line}"\n' for line in lines), "ascii")


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    target, *options = sys.argv[1:]
    with atheris.instrument_imports(include=WATCHED):
        module = importlib.import_module(f"fuzz.{target}")
    for option in options:
        if option.startswith("-dict="):
            words(Path(option.removeprefix("-dict=")), module.WORDS)
    atheris.Setup([f"fuzz-{target}", f"-max_len={module.LONGEST}", *options], module.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
