"""Fuzz every target side by side for a while, and say how often each was run: `make fuzz`, or `python -m fuzz`.

A finding is written into `cases/TARGET`, where the tests replay it from then on: first red, and once the fault is
mended, green. What covers new code is kept in `reports/fuzz`, so that the next run goes on from there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from fuzz import CASES, TARGETS

HANG: Final = 20
"""Seconds that one input may take before it is a finding: on a busy machine none takes one."""

MEMORY_MB: Final = 1024


class Figures(NamedTuple):
    """What became of one target."""

    executions: int
    corpus: int
    features: int
    memory_mb: int
    ended: int


def main() -> int:
    """Run, print the table, and return 1 if anything was found or a target did not run."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    one_of = f"of {', '.join(TARGETS)}; all by default"
    parser.add_argument("targets", metavar="TARGET", nargs="*", choices=[*TARGETS, []], help=one_of)
    parser.add_argument("--seconds", type=int, default=600, help="how long, all targets at once (default 600)")
    parser.add_argument("--reports", type=Path, default=Path("reports") / "fuzz", help="for corpora and logs")
    asked = parser.parse_args()
    targets = asked.targets or TARGETS
    began = time.monotonic()
    running = {target: _start(target, asked.seconds, asked.reports / target) for target in targets}
    found = {}
    try:
        for target, process in running.items():
            code = process.wait(asked.seconds + 120)
            found[target] = _figures(asked.reports / target / "log", code)
    finally:
        for process in running.values():
            process.kill()
    _print(found, asked.reports, time.monotonic() - began)
    return int(any(one.ended or not one.executions for one in found.values()))


def _start(target: str, seconds: int, folder: Path) -> subprocess.Popen[bytes]:
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}", f"-timeout={HANG}", f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={CASES / target}/", f"-dict={folder / 'words'}", "-print_final_stats=1", "-reload=0",
        str(corpus), str(CASES / target),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fuzz.engine", target, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _figures(path: Path, code: int) -> Figures:
    log = path.read_text("utf-8", "replace")

    def last(pattern: str) -> int:
        numbers = re.findall(pattern, log)
        return int(numbers[-1]) if numbers else 0

    executions = max(last(r"number_of_executed_units: (\d+)"), last(r"(?m)^#(\d+)\t"))
    return Figures(executions, last(r" corp: (\d+)"), last(r" ft: (\d+)"), last(r" rss: (\d+)Mb"), code)


def _print(found: dict[str, Figures], reports: Path, seconds: float) -> None:
    print(f"{'target':<10}{'executions':>12}{'per second':>12}{'corpus':>8}{'features':>10}{'MB':>6}  findings")
    for target, one in found.items():
        log = reports / target / "log"
        said = f"ended with {one.ended}: {log}" if one.ended else "none"
        counts = f"{one.executions:>12,}{one.executions / seconds:>12,.0f}{one.corpus:>8,}{one.features:>10,}"
        print(f"{target:<10}{counts}{one.memory_mb:>6}  {said}")
        if one.ended:
            print("\n".join(line[:500] for line in log.read_text("utf-8", "replace").splitlines()[-30:]))
    total = sum(one.executions for one in found.values())
    print(f"{'total':<10}{total:>12,} executions in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
