"""The verdict in lines of text: what a terminal shows at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefork_loadtest.example import facts
from prefork_loadtest.verdict import Code

if TYPE_CHECKING:
    from prefork_loadtest.balance import Share
    from prefork_loadtest.histogram import Histogram
    from prefork_loadtest.record import Record
    from prefork_loadtest.verdict import Verdict


def times(histogram: Histogram) -> str:
    """Percentiles in microseconds, or that there are none."""
    if not histogram.count:
        return "no right answer"
    p50, p90, p99 = (histogram.percentile(percent) for percent in (50, 90, 99))
    return f"p50 {p50:,} us   p90 {p90:,} us   p99 {p99:,} us   max {histogram.max_us:,} us"


def lines(record: Record, verdict: Verdict) -> list[str]:
    """The whole verdict, line by line, the judgement first."""
    books = record.books()
    total = books.total()
    seconds = sum(record.durations.values())
    text = [
        f"VERDICT  {verdict.headline} (exit {verdict.code.value})",
        *(f"  because  {reason}" for reason in verdict.reasons),
        *(f"  {name:<9}{part}" for name, part in (facts(books.example) if books.example else {}).items()),
        f"requests  {total.requests:,} in {seconds:.1f} s: {_rate(total.requests, seconds)}/s, {total.failed:,} failed",
        *(f"  failed   {count:,} {name}" for name, count in sorted(total.failures.items())),
        *(f"  reopened {total.reopened:,} kept connections found closed" for _ in range(bool(total.reopened))),
    ]
    for name, row in books.by_name().items():
        text.append(f"  {name:<18} {row.requests:>9,}   {times(row.service)}")
        if row.intended.count:
            text.append(f"  {'':<18} {'':>9}   {times(row.intended)} from the intended start")
    text += _shares(record.shares)
    text += [f"{name}   {value}" for name, value in record.load.items()]
    if verdict.code in {Code.PASSED, Code.GATE_FAILED, Code.BROKEN_OFF}:
        text += [f"  {'ok  ' if each.passed else 'FAIL'}  {each.gate}   ({each.detail})" for each in verdict.results]
    return text


def _rate(requests: int, seconds: float) -> str:
    return f"{requests / seconds:,.0f}" if seconds else "0"


def _shares(shares: list[Share]) -> list[str]:
    """Each server worker's part of all requests, those killed included."""
    total = sum(share.requests for share in shares)
    text = ["server workers"] if shares else []
    for share in shares:
        part = f"{share.requests / total:6.1%}" if total else "     -"
        gone = "" if share.alive else "   gone"
        text.append(
            f"  worker {share.slot} gen {share.generation} pid {share.pid}   {part}   {share.requests:,} requests"
            f"   {share.accepted:,} accepted   {share.errors:,} errors{gone}"
        )
    return text
