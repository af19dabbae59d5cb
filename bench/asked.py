"""What is asked of prefork, line by line, against what was measured. Pure: results in, lines out.

A line whose figures were not measured in this run neither holds nor fails, and says so.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.load import EACH, KEEP_ALIVE, PIPELINED
from bench.servers import CONVERSATION, GO, PEER_SERVERS, REPLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.results import Results, Table

LEVEL: Final = 1.03
"""Two figures that differ by less are level: so much do two runs of one server differ."""

AGAINST_C: Final = {
    REPLY.name: {KEEP_ALIVE: 1.25, PIPELINED: 1.35, EACH: 1.40},
    CONVERSATION.name: {KEEP_ALIVE: 1.45, PIPELINED: 2.0, EACH: 1.7},
}
CONNECTION_KIB: Final = {REPLY.name: 2.0, CONVERSATION.name: 3.5}
WORKER_MIB: Final = 6.0
GROWTH: Final = 1.15
GROWS: Final = (100, 15_000)
"""Open connections: the cost at the second is compared with that at the first."""
TWO_WORKERS: Final = 1.7
BLOCKED_P99_MS: Final = 5.0
VERSION_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what is asked, its limit, the figure, and whether it holds; None if it was not measured."""

    text: str
    limit: str
    figure: str
    holds: bool | None


def lines(results: Results) -> list[Line]:
    """Return every line that a benchmark can tell."""
    found: list[Line] = []
    for part in (_against_c, _against_go, _against_peers, _memory, _growth, _scaling, _blocking, _version):
        found += part(results)
    return found


def _most(text: str, limit: float, figure: float | None, show: Callable[[float], str], more: str = "") -> Line:
    if figure is None:
        return Line(text, f"≤ {show(limit)}", "not measured", None)
    return Line(text, f"≤ {show(limit)}", show(figure) + more, figure <= limit)


def _times(value: float) -> str:
    return f"{value:.2f}×"


def _against_c(results: Results) -> Iterator[Line]:
    table = results.get("cost", {})
    for name, forms in AGAINST_C.items():
        for form, limit in forms.items():
            figure, more = None, ""
            if name in table:
                ratio = table[name]["forms"][form]["ratio"]
                figure, more = ratio["median"], f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
            yield _most(f"`{name}` against C, {form}", limit, figure, _times, more)


def ratio(table: Table, name: str, other: str, form: str) -> float:
    """Return the median of a server's ratios to another one's, each of which was taken against the same baseline."""
    pairs = zip(
        table[name]["forms"][form]["ratio"]["rounds"], table[other]["forms"][form]["ratio"]["rounds"], strict=False
    )
    return statistics.median(mine / theirs for mine, theirs in pairs)


def _against_go(results: Results) -> Iterator[Line]:
    table = results.get("cost", {})
    asked = [(name, PIPELINED, 1.0) for name in AGAINST_C] + [(REPLY.name, form, LEVEL) for form in (KEEP_ALIVE, EACH)]
    for name, form, limit in asked:
        is_there = name in table and GO.name in table
        figure = ratio(table, name, GO.name, form) if is_there else None
        word = "below" if limit == 1.0 else "below or level with"
        yield _most(f"`{name}` {word} Go, {form}", limit, figure, _times)


def _against_peers(results: Results) -> Iterator[Line]:
    table = results.get("cost", {})
    peers = [peer.name for peer in PEER_SERVERS if peer is not GO and peer.name in table]
    for name in AGAINST_C:
        text = f"`{name}` below every Python, Perl and Ruby peer, in every form"
        if name not in table or not peers:
            yield Line(text, "< 1.00×", "not measured", None)
            continue
        every = {(peer, form): ratio(table, name, peer, form) for peer in peers for form in AGAINST_C[name]}
        (peer, form), highest = max(every.items(), key=lambda item: item[1])
        yield Line(text, "< 1.00×", f"{_times(highest)} at most ({peer}, {form})", highest < 1)


def _memory(results: Results) -> Iterator[Line]:
    memory = results.get("memory", {})
    for name, limit in CONNECTION_KIB.items():
        figure = memory[name]["connection_kib"] if name in memory else None
        yield _most(f"`{name}`, an idle connection", limit, figure, lambda value: f"{value:.1f} kB")
    for name in CONNECTION_KIB:
        kib = memory[name]["worker_kib"] if name in memory else None
        yield _most(
            f"`{name}`, each worker beyond the first", WORKER_MIB, None if kib is None else kib / 1024,
            lambda value: f"{value:.1f} MB",
        )  # fmt: skip


def _growth(results: Results) -> Iterator[Line]:
    curve = results.get("growth", {}).get("connections", {})
    few, many = GROWS
    for name in AGAINST_C:
        rounds = {point["x"]: point["us"]["rounds"] for point in curve.get(name, [])}
        figure = None
        if few in rounds and many in rounds:
            pairs = zip(rounds[many], rounds[few], strict=True)
            figure = statistics.median(late / early for late, early in pairs)
        yield _most(f"`{name}`, cost at {many:,} open connections against {few}", GROWTH, figure, _times)


def _scaling(results: Results) -> Iterator[Line]:
    scaling = results.get("scaling", {})
    for name in AGAINST_C:
        text, limit = f"`{name}`, two workers on two CPUs against one, in every form", f"≥ {_times(TWO_WORKERS)}"
        if name not in scaling:
            yield Line(text, limit, "not measured", None)
            continue
        form, least = min(scaling[name].items(), key=lambda item: item[1]["median"])
        yield Line(text, limit, f"{_times(least['median'])} at least ({form})", least["median"] >= TWO_WORKERS)


def _blocking(results: Results) -> Iterator[Line]:
    blocking = results.get("blocking")
    figure, text, more = None, "p99 of the others in a threads worker, one handler of which blocks", ""
    if blocking is not None:
        figure, text = blocking["p99_ms"]["median"], f"{text} {blocking['blocked_ms']:.0f} ms at a time"
        more = f" ({blocking['p99_alone_ms']['median']:.2f} ms without)"
    yield _most(text, BLOCKED_P99_MS, figure, lambda value: f"{value:.2f} ms", more)


def _version(results: Results) -> Iterator[Line]:
    start = results.get("startup", {}).get("prefork --version")
    figure = None if start is None else start["median"]
    yield _most("`prefork --version`", VERSION_S, figure, lambda value: f"{value:.2f} s")
