"""The page of a run: one HTML file that needs nothing else, the verdict first.

It only arranges: numbers come from the record, pictures from `pictures`, colours from `page.css`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from prefork_loadtest import __version__, pictures
from prefork_loadtest.chart import microseconds
from prefork_loadtest.example import facts
from prefork_loadtest.failure import EXPLANATIONS, Failure
from prefork_loadtest.verdict import Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prefork_loadtest.histogram import Histogram
    from prefork_loadtest.ledger import Ledger
    from prefork_loadtest.record import Record
    from prefork_loadtest.verdict import Verdict

TONES = {Code.PASSED: "pass", Code.GATE_FAILED: "fail", Code.WRONG_ANSWERS: "fail"}
SERIES = ("--blue", "--orange", "--violet", "--teal", "--pink", "--olive")


def draw(record: Record, verdict: Verdict) -> str:
    """The whole page."""
    books = record.books()
    seen = pictures.moments(record, books)
    body = [
        _banner(record, verdict),
        _tiles(record, books),
        _section("Throughput, requests per second", pictures.throughput(record, seen)),
        _section("Latency of right answers", _latency_plot(record, seen) + _timeline(record)),
        _section("Latency by percentile", _curve_legend(books) + pictures.percentiles(books)),
        _section("Server workers", _balance(record)),
        _pair(_section("Gates", _gates(verdict)), _section("Failures", _failures(books))),
        _section("Requests by phase", _phases(record, books)),
        _pair(_section("Settings", _facts(record.settings | record.load)), _section("Machine", _facts(record.machine))),
    ]
    body.append(
        "<footer>Times are microseconds of one write and the whole reply, from HdrHistogram; the same figures are in "
        "report.json, requests.csv and junit.xml beside this page.</footer>"
    )
    return whole_page(f"{verdict.headline} · {record.scenario}", "".join(body))


def whole_page(title: str, body: str) -> str:
    """A page around its body, with all that it needs in itself."""
    style = (resources.files("prefork_loadtest") / "page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n<style>\n{style}</style>\n'
        f"</head>\n<body>\n<main>\n{body}\n<footer>prefork-loadtest {__version__}</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"\n<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _pair(left: str, right: str) -> str:
    return f'<div class="two">{left}{right}</div>'


def _banner(record: Record, verdict: Verdict) -> str:
    when = datetime.fromtimestamp(record.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    tone = TONES.get(verdict.code, "invalid")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    headline = verdict.headline[:1].upper() + verdict.headline[1:]
    return (
        f'<header class="verdict {tone}">\n<h1>{escape(headline)}</h1>\n'
        f"<p>{escape(record.scenario)} against <code>{escape(record.target)}</code>, {when}, "
        f"exit code {verdict.code.value}</p>\n{f'<ul>{reasons}</ul>' if reasons else ''}</header>"
    )


def _tiles(record: Record, books: Ledger) -> str:
    total = books.total()
    seconds = sum(record.durations.values())
    tiles = [
        ("requests", f"{total.requests:,}", False),
        ("requests per second", f"{total.requests / seconds:,.0f}" if seconds else "0", False),
        ("failed", f"{total.failed:,}", total.failed > 0),
        ("p50", _time(total.service, 50), False),
        ("p99", _time(total.service, 99), False),
        ("slowest", _time(total.service, 100), False),
    ]
    cells = "".join(
        f'<div class="tile{" bad" if bad else ""}"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value, bad in tiles
    )
    return f'\n<div class="tiles">{cells}</div>'


def _time(histogram: Histogram, percent: float) -> str:
    return microseconds(histogram.percentile(percent)) if histogram.count else "-"


def _latency_plot(record: Record, seen: list[pictures.Moment]) -> str:
    return _latency_legend() + pictures.latency(record, seen) + pictures.faults(record)


def _latency_legend() -> str:
    kinds = (("--blue", "p50"), ("--orange", "p99"), ("--quiet", "slowest"))
    items = "".join(f'<span><i style="border-color: var({colour})"></i>{name}</span>' for colour, name in kinds)
    return f'<div class="legend">{items}</div>'


def _curve_legend(books: Ledger) -> str:
    items = []
    rows = [(name, row) for name, row in books.by_name().items() if row.service.count]
    for number, (name, row) in enumerate(rows):
        colour = f"border-color: var({SERIES[number % len(SERIES)]})"
        items.append(f'<span><i style="{colour}"></i>{escape(name)}</span>')
        if row.intended.count:
            items.append(f'<span><i class="dash" style="{colour}"></i>{escape(name)}, from the intended start</span>')
    return f'<div class="legend">{"".join(items)}</div>'


def _timeline(record: Record) -> str:
    items = "".join(
        f"<li><b>{number}</b><time>{mark.at_s:.1f} s</time>{escape(mark.text)}</li>"
        for number, mark in enumerate(record.marks, 1)
    )
    many = " many" if len(record.marks) > pictures.MOST_FLAGS else ""
    return f'<ol class="timeline{many}">{items}</ol>' if items else ""


def _balance(record: Record) -> str:
    if not record.shares:
        return '<p class="quiet">The server was not asked: give --control to see the share of each worker.</p>'
    total = sum(share.requests for share in record.shares) or 1
    rows = "".join(
        f'<tr class="{"" if share.alive else "gone"}"><td>worker {share.slot}, generation {share.generation}</td>'
        f'<td class="number">{share.pid}</td><td class="number">{share.requests / total:.1%}</td>'
        f'<td><div class="track"><div style="width: {share.requests / total:.1%}"></div></div></td>'
        f'<td class="number">{share.requests:,}</td><td class="number">{share.accepted:,}</td>'
        f'<td class="number">{share.errors:,}</td><td>{"serving" if share.alive else "gone"}</td></tr>'
        for share in record.shares
    )
    return table(("worker", "#pid", "#share", "", "#requests", "#accepted", "#errors", ""), rows)


def table(heads: Iterable[str], rows: str) -> str:
    """A table; a head that begins with # stands over numbers."""
    cells = "".join(
        f'<th class="number">{escape(head[1:])}</th>' if head.startswith("#") else f"<th>{escape(head)}</th>"
        for head in heads
    )
    return f'<div class="scroll"><table>\n<tr>{cells}</tr>\n{rows}\n</table></div>'


def _gates(verdict: Verdict) -> str:
    rows = "".join(
        f'<tr><td class="{"ok" if result.passed else "bad"}">{"✓ held" if result.passed else "✗ failed"}</td>'
        f'<td><code>{escape(result.gate)}</code></td><td class="quiet wide">{escape(result.detail)}</td></tr>'
        for result in verdict.results
    )
    return table(("", "gate", ""), rows)


def _failures(books: Ledger) -> str:
    failures = books.total().failures
    if not failures:
        return '<p class="ok">None: every request got its right answer.</p>'
    rows = "".join(
        f'<tr><td class="bad">{escape(name)}</td><td class="number">{count:,}</td>'
        f'<td class="quiet wide">{escape(EXPLANATIONS[Failure(name)])}</td></tr>'
        for name, count in failures.most_common()
    )
    return table(("class", "#requests", ""), rows) + _example(books)


def _example(books: Ledger) -> str:
    if books.example is None:
        return ""
    return f'<div class="example"><p>One of the wrong answers:</p>{_facts(facts(books.example))}</div>'


def _phases(record: Record, books: Ledger) -> str:
    rows = []
    for phase in record.durations:
        for name, row in books.by_name(phase).items():
            failed = "bad" if row.failed else ""
            times = "".join(f'<td class="number">{_time(row.service, percent)}</td>' for percent in (50, 90, 99, 100))
            rows.append(
                f'<tr><td>{escape(phase)}</td><td>{escape(name)}</td><td class="number">{row.requests:,}</td>'
                f'<td class="number {failed}">{row.failed:,}</td><td class="number">{row.reopened:,}</td>{times}'
                f'<td class="number">{_time(row.intended, 99)}</td></tr>'
            )
    heads = ("phase", "name", "#requests", "#failed", "#reopened", "#p50", "#p90", "#p99", "#slowest", "#p99 intended")
    return table(heads, "".join(rows)) if rows else pictures.NOTHING


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><td class="quiet">{escape(name)}</td><td class="wide">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table>{rows}</table>"
