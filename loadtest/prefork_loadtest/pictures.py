"""The pictures of a run: throughput and latency over time with the faults marked, and the percentile curve.

Each takes a record's figures and returns SVG; a run without samples gives a line of text instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from prefork_loadtest.chart import Chart, linear_ticks, log_ticks, microseconds
from prefork_loadtest.faultplan import SUMMARIES, Kind
from prefork_loadtest.ledger import DRAIN, FAULT_PHASES, RAMP

if TYPE_CHECKING:
    from prefork_loadtest.histogram import Histogram
    from prefork_loadtest.ledger import Ledger
    from prefork_loadtest.record import Record

WIDTH = 1040.0
NOTHING = '<p class="quiet">Nothing was measured.</p>'
LEAST_PART = 0.25
"""A second that the run covers for less than this part is not drawn: its rate would be a guess."""

SEEN_PART = 0.03
MOST_FLAGS = 24
"""More marks than this stand without numbers: the lanes under the plot and the list say what they were."""
LANE = 20.0

_QUANTILES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


@dataclass(frozen=True, slots=True)
class Moment:
    """One second of the run as it is drawn: begin and end in seconds into the run, and its figures."""

    start: float
    end: float
    rate: float
    failed_rate: float
    text: str
    service: Histogram

    @property
    def middle(self) -> float:
        """Where its points are drawn."""
        return (self.start + self.end) / 2


def moments(record: Record, books: Ledger) -> list[Moment]:
    """The seconds of a run, those at its edges only as far as the run covers them."""
    last = max((span.end_s for span in record.spans), default=0.0)
    found = []
    for second, figures in sorted(books.seconds.items()):
        start, end = max(second - record.started_at, 0.0), min(second + 1 - record.started_at, last)
        part = end - start
        if part < LEAST_PART:
            continue
        service = figures.service
        text = (
            f"{start:.0f} to {end:.0f} s: {figures.requests:,} requests, {figures.failures.total():,} failed"
            f"\np50 {microseconds(service.percentile(50))}, p99 {microseconds(service.percentile(99))}, "
            f"max {microseconds(service.max_us)}"
        )
        failed = figures.failures.total() / part
        found.append(Moment(start, end, figures.requests / part, failed, text, service))
    return found


def throughput(record: Record, seen: list[Moment]) -> str:
    """Requests per second, the failed ones in their own colour."""
    if not seen:
        return NOTHING
    high = max(moment.rate for moment in seen) * 1.08
    chart = Chart(WIDTH, 190, (0.0, seen[-1].end), (0.0, high), "requests per second over time")
    _phases(chart, record)
    chart.y_axis(linear_ticks(high, 4), lambda value: f"{value:,.0f}")
    for moment in seen:
        chart.bar(moment.start, moment.end, moment.rate, "bar")
        if moment.failed_rate:
            # One failure in thousands is what the picture is looked at for: it is tall enough to be seen.
            chart.bar(moment.start, moment.end, max(moment.failed_rate, high * SEEN_PART), "bar failed")
    _marks(chart, record)
    _time_axis(chart)
    for moment in seen:
        chart.hover(moment.start, moment.end, moment.text)
    return chart.draw()


def latency(record: Record, seen: list[Moment]) -> str:
    """p50, p99 and the largest time of each second, on a logarithmic scale."""
    measured = [moment for moment in seen if moment.service.count]
    if not measured:
        return NOTHING
    low = min(moment.service.percentile(50) for moment in measured) / 1.6
    high = max(moment.service.max_us for moment in measured) * 1.4
    chart = Chart(WIDTH, 280, (0.0, seen[-1].end), (max(low, 0.5), high), "latency over time", log=True)
    _phases(chart, record)
    chart.y_axis(log_ticks(*chart.y_range), microseconds)
    lines = {
        style: [(moment.middle, float(moment.service.percentile(percent))) for moment in measured]
        for style, percent in (("p50", 50.0), ("p99", 99.0), ("max", 100.0))
    }
    chart.area(lines["p50"], lines["p99"], "spread")
    for style, points in lines.items():
        chart.line(points, style)
    _marks(chart, record)
    _time_axis(chart)
    for moment in measured:
        chart.hover(moment.start, moment.end, moment.text)
    return chart.draw()


def _phases(chart: Chart, record: Record) -> None:
    for span in record.spans:
        if span.phase in FAULT_PHASES:
            chart.band(span.start_s, span.end_s, "band fault")
        elif span.phase in {RAMP, DRAIN}:
            chart.band(span.start_s, span.end_s, "band edge")


def _marks(chart: Chart, record: Record) -> None:
    """Numbered marks: the list under the latency plot says what each of them was."""
    near = 0.0
    for number, mark in enumerate(record.marks, 1):
        chart.mark(mark.at_s, "mark")
        if len(record.marks) > MOST_FLAGS:
            continue
        # Marks of the same moment stand side by side instead of on top of each other.
        place = max(chart.x(mark.at_s), near)
        near = place + 17
        chart.add(f'<circle class="flag" cx="{place:.1f}" cy="{chart.top:.1f}" r="8"/>')
        chart.text(place, chart.top + 4, str(number), "flag-text")


def faults(record: Record) -> str:
    """A lane for each kind of fault, on the time axis of the plots above: from the strike until the server settled."""
    kinds = [kind for kind in Kind if any(span.phase == kind.phase for span in record.spans)]
    if not kinds:
        return ""
    last = max(span.end_s for span in record.spans)
    chart = Chart(WIDTH, LANE * len(kinds) + 8, (0.0, last), (0.0, 1.0), "faults over time", top=4.0, bottom=4.0)
    for number, kind in enumerate(kinds):
        top = chart.top + LANE * number
        chart.text(chart.left - 6, top + LANE * 0.7, kind.value, "tick", "end")
        for span in (span for span in record.spans if span.phase == kind.phase):
            wide = max(chart.x(span.end_s) - chart.x(span.start_s), 3.0)
            text = f"{SUMMARIES[kind]}, {span.start_s:.1f} to {span.end_s:.1f} s"
            chart.add(
                f'<rect class="lane" x="{chart.x(span.start_s):.1f}" y="{top + 3:.1f}" width="{wide:.1f}" '
                f'height="{LANE - 6:.1f}" rx="3"><title>{escape(text)}</title></rect>'
            )
    return chart.draw()


def _time_axis(chart: Chart) -> None:
    chart.x_axis((tick, f"{tick:g} s") for tick in linear_ticks(chart.x_range[1], 10))


def percentiles(books: Ledger) -> str:
    """Time against percentile for each row; dashed from the intended start. The right end is one request in many."""
    rows = [(name, row) for name, row in books.by_name().items() if row.service.count]
    if not rows:
        return NOTHING
    most = max(row.service.count for _, row in rows)
    nines = max(1.0, math.log10(most))
    histograms = [row.service for _, row in rows] + [row.intended for _, row in rows if row.intended.count]
    low = min(histogram.min_us for histogram in histograms) / 1.3
    high = max(histogram.max_us for histogram in histograms) * 1.3
    chart = Chart(WIDTH, 300, (0.0, nines), (max(low, 0.5), high), "time by percentile", log=True)
    chart.y_axis(log_ticks(*chart.y_range), microseconds)
    ticks = [(quantile, -math.log10(1 - quantile)) for quantile in _QUANTILES]
    for _, place in ticks:
        if 0 < place <= nines:
            chart.mark(place, "rule")
    chart.x_axis((place, f"{quantile * 100:g} %") for quantile, place in ticks if place <= nines)
    for number, (_, row) in enumerate(rows):
        chart.line(_curve(row.service), f"series{number % 6}")
        if row.intended.count:
            chart.line(_curve(row.intended), f"series{number % 6} dashed")
    return chart.draw()


def _curve(histogram: Histogram) -> list[tuple[float, float]]:
    """Points up to the last percentile that this many samples can tell."""
    last = math.log10(histogram.count)
    places = [last * step / 80 for step in range(81)]
    return [(place, float(histogram.percentile(100 * (1 - 10**-place)) or 1)) for place in places]
