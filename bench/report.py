"""The report: results in, a folder out with README.md, its pictures and results.json. It measures nothing.

Every figure in it comes from the results; the words around them say how they were taken.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from bench import asked, bursts, picture, results
from bench.cost import CONNECTIONS, PREFORKED
from bench.load import FORMS
from bench.picture import Place
from bench.servers import CONVERSATION, LIMIT, PEER_SERVERS, REPLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from bench.results import Memory, Results, Row, Spread, Table

SERIES: Final = {LIMIT.name: 0, REPLY.name: 1, CONVERSATION.name: 2}
KIB: Final = 1024
ABSENT: Final = "–"

CURVES: Final = {
    "connections": (
        "Cost by open connections",
        "CPU µs of the server per request; 50 connections are busy (all, where there are fewer), the others are idle",
    ),
    "workers": ("Cost by workers", "CPU µs of the server per request; 50 connections, keep-alive"),
    "frames": (
        "Cost by size of the frame",
        "CPU µs of the server per request; a frame comes and goes back, 8 connections",
    ),
    "pipelining": (
        "Cost by pipelining",
        "CPU µs of the server per request; 50 connections, so many requests on the way on each",
    ),
}
"""Title and note of each curve."""


def write(found: Results, folder: Path) -> None:
    """Write README.md, the pictures and results.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    results.write(found, folder / "results.json")
    for name, svg in pictures(found).items():
        (folder / name).write_text(svg, "utf-8")
    (folder / "README.md").write_text(text(found), "utf-8")


def text(found: Results) -> str:
    """Return the whole of README.md."""
    parts = (
        _head, _asked, _costs, _preforked, _memory, _start, _growth, _two, _echo, _accept, _models, _missing,
        _method,
    )  # fmt: skip
    return "\n".join(line for part in parts for line in part(found)).rstrip() + "\n"


def pictures(found: Results) -> dict[str, str]:
    """Return every picture as SVG, by the name of its file."""
    drawn = {}
    table = found.get("cost", {})
    for form in FORMS if table else ():
        rows = [(name, row["forms"][form]["ratio"]["median"], SERIES.get(name)) for name, row in table.items()]
        rows.sort(key=lambda row: row[1])
        title = f"CPU of the server per request, {form}"
        drawn[_bars_file(form)] = picture.bars(title, "how many times what the server in C takes", rows, _short)
    for name, curve in found.get("growth", {}).items():
        series = {who: [Place(point["x"], **_reach(point["us"])) for point in points] for who, points in curve.items()}
        drawn[f"growth-{name}.svg"] = picture.curves(*CURVES[name], series, _size if name == "frames" else _count)
    return drawn


def _reach(us: Spread) -> dict[str, float]:
    return {"y": us["median"], "low": us["low"], "high": us["high"]}


def _bars_file(form: str) -> str:
    return f"cost-{form.replace(' ', '-')}.svg"


def _short(value: float) -> str:
    return f"{value:.2f}×" if value < 10 else f"{value:.0f}×"  # noqa: PLR2004 - enough digits for each


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _size(value: float) -> str:
    for unit, size in (("MiB", KIB**2), ("KiB", KIB)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"


def _prose(text: str) -> Iterator[str]:
    """A paragraph, in lines of a length that reads well as it is."""
    yield from textwrap.wrap(text, 110)
    yield ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table; what is not the first column stands to the right."""
    head = list(head)
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


# The parts, in the order of the page. ---------------------------------------------------------------------------------


def _head(found: Results) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield from _prose(
        "What prefork costs, beside a server in C that does nothing else and beside its peers, in one run. Made "
        "by `make bench`; results.json has every round. Ratios hold; figures move with the machine."
    )
    yield from (f"- {name}: {value}" for name, value in found["facts"].items())
    yield ""


def _asked(found: Results) -> Iterator[str]:
    lines = asked.lines(found)
    held = [line for line in lines if line.holds]
    yield "## What is asked"
    yield ""
    yield from _prose(f"{len(held)} of {len(lines)} hold.")
    words = {True: "holds", False: "**does not hold**", None: ABSENT}
    yield "| asked | limit | measured | |"
    yield "|---|---:|---|---|"
    for line in lines:
        yield f"| {line.text} | {line.limit} | {line.figure} | {words[line.holds]} |"
    yield ""


def _costs(found: Results) -> Iterator[str]:
    if "cost" not in found:
        return
    yield "## Cost of a request"
    yield ""
    yield from _prose(
        f"CPU microseconds of the server, user and system, all its processes together; {CONNECTIONS} connections. "
        "In brackets: times C, as the median of the rounds, and the lowest and highest of them. A server has one "
        "process, or one for each connection where a process serves one at a time. All answer each line by "
        "`+PONG`."
    )
    yield from _cost_table(found["cost"])
    for form in FORMS:
        yield f"![{form}: times the cost of C]({_bars_file(form)})"
    yield ""
    yield "### Throughput and latency"
    yield ""
    yield from _prose(
        "From the same runs: requests per second, and milliseconds until the answer, as redis-benchmark counts "
        "them. It asks again as soon as it is answered, so that the times are those of a server at its limit."
    )
    yield from _seen_table(found["cost"])


def _seen_table(table: Table) -> Iterator[str]:
    head = ["server"]
    for form in next(iter(table.values()))["forms"]:
        head += [f"{form}: per second", "p50", "p99", "p99.9"]
    yield from _table(head, ([name, *_seen(row)] for name, row in table.items()))


def _cost_table(table: Table) -> Iterator[str]:
    forms = list(next(iter(table.values()))["forms"])
    yield from _table(
        ["server", "processes", *forms],
        ([name, _processes(row), *(_cost(row, form) for form in forms)] for name, row in table.items()),
    )


def _processes(row: Row) -> str:
    shares = row.get("shares")
    return f"{row['processes']} ({' '.join(map(str, shares))})" if shares else str(row["processes"])


def _cost(row: Row, form: str) -> str:
    us, ratio = row["forms"][form]["us"]["median"], row["forms"][form]["ratio"]
    return f"{us:.3g} ({ratio['median']:.2f}×, {ratio['low']:.2f}–{ratio['high']:.2f})"


def _seen(row: Row) -> Iterator[str]:
    for cost in row["forms"].values():
        yield f"{cost['per_second']:,.0f}"
        yield from (f"{ms:.2f}" for ms in (cost["p50_ms"], cost["p99_ms"], cost["p999_ms"]))


def _preforked(found: Results) -> Iterator[str]:
    if "preforked" not in found:
        return
    yield f"## Preforked: {PREFORKED} processes each"
    yield ""
    yield from _prose(
        f"The same {CONNECTIONS} connections, with {PREFORKED} processes that accept on one socket, each by the "
        "server's own means where it has any. Who has most of the connections in one process has that one's figure: "
        "each of the others finds less to do when it wakes up, and pays more for it. What the processes had of the "
        "connections of the keep-alive load is in brackets behind their number."
    )
    yield from _cost_table(found["preforked"])
    yield from _seen_table(found["preforked"])
    yield from _prose(
        f"Those whose processes serve one connection at a time, with {PREFORKED} connections where they stay open. "
        "Here every request wakes a process of its own, unless one process has got more than one of the "
        "connections, as the limit in C may have."
    )
    yield from _cost_table(found["one_each"])
    yield from _seen_table(found["one_each"])
    left = [f"{server.name} ({server.not_preforked})" for server in PEER_SERVERS if server.not_preforked]
    yield from _prose(f"Not preforked, and so not here: {', '.join(left)}.")


def _memory(found: Results) -> Iterator[str]:
    if "memory" not in found:
        return
    yield "## Memory"
    yield ""
    yield from _prose(
        "Proportional set size of all processes of the server. Alone: one process that has worked and is idle. An "
        "idle connection has been answered once. Where a process serves one connection, that is what the "
        "connection takes."
    )
    yield from _table(
        ["server", "alone, MB", "an idle connection, kB", "of so many", "each further process, MB"],
        ([name, *_taken(memory)] for name, memory in found["memory"].items()),
    )


def _taken(memory: Memory) -> list[str]:
    connection, worker = memory["connection_kib"], memory["worker_kib"]
    return [
        f"{memory['alone_kib'] / KIB:.1f}",
        ABSENT if connection is None else f"{connection:,.1f}",
        f"{memory['connections']:,}",
        ABSENT if worker is None else f"{worker / KIB:.1f}",
    ]


def _start(found: Results) -> Iterator[str]:
    if "startup" not in found:
        return
    yield "## Start"
    yield ""
    yield from _prose(
        "Milliseconds from the start of the program to its first answer, with one process; and to the end of "
        "programs that end."
    )
    rows = (
        (name, f"{took['median'] * 1000:.0f}", f"{took['low'] * 1000:.0f}–{took['high'] * 1000:.0f}")
        for name, took in found["startup"].items()
    )
    yield from _table(["program", "median", "spread"], rows)


def _growth(found: Results) -> Iterator[str]:
    if "growth" not in found:
        return
    yield "## How cost grows"
    yield ""
    shows: dict[str, Callable[[float], str]] = {"frames": _size}
    for name, curve in found["growth"].items():
        title, note = CURVES[name]
        yield f"### {title}"
        yield ""
        yield f"{note}."
        yield ""
        yield f"![{title}](growth-{name}.svg)"
        yield ""
        xs = sorted({point["x"] for points in curve.values() for point in points})
        show = shows.get(name, _count)
        yield from _table(
            ["µs (requests per second)", *(show(x) for x in xs)],
            (
                [who, *(f"{point['us']['median']:.3g} ({point['per_second']:,.0f})" for point in points)]
                for who, points in curve.items()
            ),
        )


def _two(found: Results) -> Iterator[str]:
    if not found.get("scaling"):
        return
    yield "## Two workers against one"
    yield ""
    yield from _prose(
        "How many times as much two processes carry, each with a CPU of its own, with the load apart: it asks while "
        "the server is stopped, and sleeps while it answers. In brackets the lowest and highest of the rounds. "
        f"{bursts.CONNECTIONS[True]:,} connections that stay open, {bursts.CONNECTIONS[False]:,} of a request each. "
        "Two carry twice as much only if they get evenly what there is to do: of those that accept whatever they get, "
        "the second may have nothing."
    )
    forms = list(next(iter(found["scaling"].values())))
    yield from _table(
        ["server", *forms],
        ([name, *(_ratio(row[form]) for form in forms)] for name, row in found["scaling"].items()),
    )


def _ratio(ratio: Spread) -> str:
    return f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _echo(found: Results) -> Iterator[str]:
    if "echo" not in found:
        return
    yield "## Echo, against Apache's"
    yield ""
    yield from _prose(
        "On a protocol of its own: the server gives back what it was sent, a request in a form that is a valid "
        "answer. It has three lines, and Apache's mod_echo reads and writes line by line."
    )
    yield from _cost_table(found["echo"])


def _accept(found: Results) -> Iterator[str]:
    if "accept" not in found:
        return
    yield "## Accepting"
    yield ""
    yield from _prose(
        "What it costs that a worker accepts by itself, for its fair share: a `@reply` against the same link "
        "behind the event loop's own `create_server`. A connection with one request each."
    )
    yield from _cost_table(found["accept"])


def _models(found: Results) -> Iterator[str]:
    if "models" not in found:
        return
    yield "## The models for many connections"
    yield ""
    yield from _prose(
        "The chapter's own question, in plain Python (`python bench/models.py`): the CPU time of a connection "
        "(connect, a line each way, close), and the memory of one more that stays open."
    )
    yield from _table(
        ["model", "CPU, µs per connection", "memory per open connection, kB"],
        (
            (
                name,
                f"{model['processor_us']:.0f}",
                "no second one is served" if model["memory_kib"] is None else f"{model['memory_kib']:,.0f}",
            )
            for name, model in found["models"].items()
        ),
    )


def _missing(found: Results) -> Iterator[str]:
    missing = found.get("missing", {})
    yield "## Not measured"
    yield ""
    yield from (f"- {name}: {reason}" for name, reason in missing.items())
    if not missing:
        yield "Nothing was left out."
    yield ""


METHOD: Final = """
Servers and load have CPUs of their own. The load is redis-benchmark, a compiled client that is not ours.

Each server is measured next to the baseline, before it in one round and after it in the next; a ratio is that of two
neighbours.

A connection takes a port, and the kernel has some 14,000 for a load in a second: one with a connection each is shorter
than that, so that it never waits for them.

CPU time comes from the CPU-time clock of each process of the server, in nanoseconds; that of children which have ended,
in ticks of 10 ms. The master of a server counts, and so does opening the connections of the load.

Every server listens with a backlog of 2,048, and sends at once (TCP_NODELAY) where that can be told it. The
peers are in bench/peers, each a small file.
"""


def _method(found: Results) -> Iterator[str]:
    yield "## How it was measured"
    yield ""
    for paragraph in METHOD.strip().split("\n\n"):
        yield from _prose(" ".join(paragraph.splitlines()))
    yield "Versions:"
    yield ""
    yield from (f"- {name}: {version}" for name, version in found.get("versions", {}).items())
