"""The whole benchmark as a contents page: `python -m bench [--quick] [--only PART,…] [--output FOLDER]`.

    make bench                          all of it, into docs/benchmarks
    make bench ARGS=--quick             a look at whether everything works, into reports/benchmarks
    make bench ARGS="--only cost,memory"

It needs Linux, a C compiler and redis-benchmark; a peer that is not there is named in the report, with the way to it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import bursts, cost, growth, measure, memory, needs, report
from bench.load import FORMS, LoadError
from bench.needs import MissingError
from bench.plan import FULL, QUICK, Plan, Run
from bench.servers import ECHOES, PEER_SERVERS, find
from prefork_loadtest import machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.results import Model, Results

ROOT: Final = Path(__file__).resolve().parent.parent
WHOLE: Final = ROOT / "docs" / "benchmarks"
PART: Final = ROOT / "reports" / "benchmarks"
OURS: Final = 2
FAILED: Final = 1
INTERRUPTED: Final = 130


def _models(run: Run) -> dict[str, Model]:
    command = [sys.executable, str(Path(__file__).with_name("models.py")), "--json"]
    command += ["--connections", str(run.plan.modelled)]
    printed = subprocess.run(command, capture_output=True, check=True).stdout  # noqa: S603 - ourselves, with a small memory to fork
    found: dict[str, Model] = json.loads(printed)
    run.say("models")
    return found


def _cost(run: Run, found: Results) -> None:
    found["cost"] = cost.costs(run)


def _preforked(run: Run, found: Results) -> None:
    found["preforked"] = cost.preforked(run)
    found["one_each"] = cost.one_each(run)


def _memory(run: Run, found: Results) -> None:
    found["memory"] = memory.everybody(run)
    found["startup"] = memory.starts(run)


def _growth(run: Run, found: Results) -> None:
    found["growth"] = growth.curves(run)
    found["blocking"] = growth.blocking(run)


def _two(run: Run, found: Results) -> None:
    found["scaling"] = bursts.scaling(run)


def _echo(run: Run, found: Results) -> None:
    found["echo"] = cost.echoes(run)


def _accept(run: Run, found: Results) -> None:
    found["accept"] = cost.accepting(run)


def _chapter(run: Run, found: Results) -> None:
    found["models"] = _models(run)


PARTS: Final[dict[str, tuple[Callable[[Run, Results], None], Callable[[Plan, int], float]]]] = {
    "cost": (_cost, lambda plan, peers: cost.expected_s(peers + OURS, len(FORMS), plan.rounds, plan)),
    "preforked": (_preforked, lambda plan, peers: cost.expected_s(peers + 2, len(FORMS), plan.other_rounds, plan)),
    "memory": (_memory, lambda plan, peers: memory.expected_s(plan, peers + OURS + 1)),
    "growth": (_growth, lambda plan, _: growth.expected_s(plan)),
    "two": (_two, lambda plan, _: bursts.expected_s(plan)),
    "echo": (_echo, lambda plan, _: cost.expected_s(len(ECHOES), len(FORMS), plan.other_rounds, plan)),
    "accept": (_accept, lambda plan, _: cost.expected_s(1, len(cost.FORMS_ACCEPT), plan.rounds, plan)),
    "models": (_chapter, lambda plan, _: plan.modelled / 150),
}
"""Each part, and about how many seconds it takes with a plan and a number of peers."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the report, and return the exit code: 0, 1 if not all was done, 2 for usage, 130 interrupted."""
    options = _options(arguments)
    plan = QUICK if options.quick else FULL
    is_all = not options.quick and set(options.only) == set(PARTS)
    folder = options.output or (WHOLE if is_all else PART)
    try:
        needs.REDIS_BENCHMARK.version()
        with tempfile.TemporaryDirectory(prefix="bench-kit-") as kit:
            found, is_whole = _measure(plan, options.only, Path(kit))
    except MissingError as error:
        sys.stderr.write(f"bench: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("bench: interrupted; nothing was written\n")
        return INTERRUPTED
    report.write(found, folder)
    sys.stdout.write(f"{folder / 'README.md'}\n")
    return 0 if is_whole else FAILED


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a look at whether everything works, in about two minutes")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, with commas between: {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, help="folder of the report")
    options = parser.parse_args(arguments)
    options.only = [part.strip() for part in options.only.split(",")]
    for part in options.only:
        if part not in PARTS:
            parser.error(f"--only {part}: no such part; there are {', '.join(PARTS)}")
    return options


def _measure(plan: Plan, parts: list[str], kit: Path) -> tuple[Results, bool]:
    """Run the parts, and return what they found, and whether each came to its end."""
    begin = time.monotonic()
    versions, missing = find((*PEER_SERVERS, *ECHOES), kit)
    run = Run(plan, kit, [server for server in PEER_SERVERS if server.name in versions], missing)
    run.expected = sum(PARTS[part][1](plan, len(run.peers)) for part in parts)
    run.say(f"{', '.join(parts)}: about {max(1, round(run.expected / 60))} min")
    for name, reason in missing.items():
        run.say(f"not measured: {name}: {reason}")
    found: Results = {"versions": versions | _tools(), "missing": missing}
    measure.files_at_most()
    with measure.on(measure.sides()[1]):
        for part in parts:
            _one(part, run, found)
    found["facts"] = _facts(plan, time.monotonic() - begin)
    return found, not run.broken


def _one(part: str, run: Run, found: Results) -> None:
    """Run a part. One that does not come to its end is named in the report, and does not take the others with it."""
    try:
        PARTS[part][0](run, found)
    except (MissingError, LoadError, OSError, subprocess.SubprocessError) as error:
        run.missing[part] = f"was broken off: {error}"
        run.broken = True
        run.say(f"{part} was broken off: {error}")


def _tools() -> dict[str, str]:
    used = {"prefork": needs.PREFORK, "uvloop": needs.UVLOOP, "redis-benchmark": needs.REDIS_BENCHMARK}
    return {name: need.version() for name, need in used.items()}


def _facts(plan: Plan, seconds: float) -> dict[str, str]:
    mine, others = measure.sides()
    facts = machine.describe()
    return {
        **{name: facts[name] for name in ("processor", "processors", "memory", "system", "python")},
        "CPUs": f"{sorted(mine)} for the servers, {sorted(others)} for the load",
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "measures": f"{plan.rounds} rounds of costs, {plan.other_rounds} of the rest, about {plan.seconds:g} s each",
        "took": f"{seconds / 60:.1f} min",
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers end with it
    sys.exit(main())
