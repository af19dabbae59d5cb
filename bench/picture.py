"""The pictures of a report: bars for costs, curves for growth. Each is an SVG file, for light pages and dark ones.

Scales and shapes are those of the load kit's charts; what is here is the frame around them, colours, titles and names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from prefork_loadtest.chart import Chart, linear_ticks, log_ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WIDTH: Final = 760.0
TOP: Final = 58.0
ROW: Final = 22.0
STYLE: Final = """
svg { --paper: #ffffff; --ink: #1d2125; --quiet: #6a7178; --line: #e4e1da; --bar: #b9bec4;
  --c0: #6a7178; --c1: #2f6bd8; --c2: #d9770f; font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #15171a; --ink: #e7e9ec; --quiet: #98a0a8; --line: #33383e;
  --bar: #4a5058; --c0: #98a0a8; --c1: #7aa5f5; --c2: #f0a04b; } }
.paper { fill: var(--paper); } text { fill: var(--ink); } .tick, .note { fill: var(--quiet); font-size: 11px; }
.title { font-size: 15px; font-weight: 600; } .rule { stroke: var(--line); }
.one { stroke: var(--quiet); stroke-dasharray: 3 3; }
.bar { fill: var(--bar); } .bar.series0 { fill: var(--c0); } .bar.series1 { fill: var(--c1); }
.bar.series2 { fill: var(--c2); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .reach { stroke-width: 1.2; }
.series0 { stroke: var(--c0); } .series1 { stroke: var(--c1); } .series2 { stroke: var(--c2); }
.bar { stroke: none; } .dot.series0 { fill: var(--c0); } .dot.series1 { fill: var(--c1); }
.dot.series2 { fill: var(--c2); }
text.series0 { fill: var(--c0); stroke: none; } text.series1 { fill: var(--c1); stroke: none; }
text.series2 { fill: var(--c2); stroke: none; }
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A point of a curve, with the lowest and the highest of its rounds."""

    x: float
    y: float
    low: float
    high: float


def bars(title: str, note: str, rows: Sequence[tuple[str, float, int | None]], show: Callable[[float], str]) -> str:
    """Horizontal bars from 1, on a logarithmic scale: how many times something costs what the first one costs.

    Args:
        title: above the picture.
        note: below the title.
        rows: name, value (at least about 1), and which series it belongs to, or None.
        show: a value as text.
    """
    low, high = min(0.8, *(value for _, value, _ in rows)), max(value for _, value, _ in rows) * 1.6
    chart = Chart(
        WIDTH, TOP + ROW * len(rows) + 28, (math.log10(low), math.log10(high)), (0, 1), title, left=190, top=TOP
    )
    ticks = log_ticks(low, high)
    for tick in ticks:
        chart.mark(math.log10(tick), "one" if tick == 1 else "rule")
    chart.x_axis((math.log10(tick), show(tick)) for tick in ticks)
    for number, (name, value, series) in enumerate(rows):
        top = TOP + ROW * number
        start, end = chart.x(0), chart.x(math.log10(value))
        style = "" if series is None else f" series{series}"
        chart.text(chart.left - 8, top + ROW * 0.7, name, "name", "end")
        chart.add(
            f'<rect class="bar{style}" x="{min(start, end):.1f}" y="{top + 3:.1f}" '
            f'width="{max(abs(end - start), 1):.1f}" height="{ROW - 6:.1f}" rx="2"/>'
        )
        chart.text(max(start, end) + 6, top + ROW * 0.7, show(value), "value", "start")
    return _framed(chart, note)


def curves(title: str, note: str, series: Mapping[str, Sequence[Place]], show_x: Callable[[float], str]) -> str:
    """Curves over a logarithmic x axis; y is logarithmic too where the values span more than a decade.

    Args:
        title: above the picture.
        note: below the title: what y is, and its unit.
        series: points by name, at most three.
        show_x: a value of x as text; each x that has a point is shown.
    """
    places = [place for points in series.values() for place in points]
    xs = sorted({place.x for place in places})
    top, bottom = max(place.high for place in places), min(place.low for place in places)
    is_log = top > 10 * bottom
    y_range = (bottom / 1.4, top * 1.4) if is_log else (0.0, top * 1.12)
    x_range = (math.log10(xs[0]), math.log10(xs[-1]))
    chart = Chart(WIDTH, 330, x_range, y_range, title, log=is_log, top=TOP, right=130)
    chart.y_axis(log_ticks(*y_range) if is_log else linear_ticks(y_range[1], 5), lambda value: f"{value:,.6g}")
    chart.x_axis((math.log10(x), show_x(x)) for x in xs)
    for number, points in enumerate(series.values()):
        style = f"series{number}"
        chart.line([(math.log10(place.x), place.y) for place in points], style)
        for place in points:
            x = chart.x(math.log10(place.x))
            chart.add(
                f'<line class="reach {style}" x1="{x:.1f}" x2="{x:.1f}" y1="{chart.y(place.low):.1f}" '
                f'y2="{chart.y(place.high):.1f}"/>'
                f'<circle class="dot {style}" cx="{x:.1f}" cy="{chart.y(place.y):.1f}" r="3"/>'
            )
    _name_the_ends(chart, series)
    return _framed(chart, note)


def _name_the_ends(chart: Chart, series: Mapping[str, Sequence[Place]]) -> None:
    """Write each curve's name at its right end, kept apart from the others."""
    ends = sorted(
        (chart.y(points[-1].y), number, name) for number, (name, points) in enumerate(series.items()) if points
    )
    floor = 0.0
    for y, number, name in ends:
        floor = max(y, floor)
        chart.text(chart.width - chart.right + 10, floor + 4, name, f"series{number}", "start")
        floor += 15


def _framed(chart: Chart, note: str) -> str:
    """Return a whole SVG file: paper, title, note, and what the chart has."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {chart.width:g} {chart.height:g}" '
        f'width="{chart.width:g}" role="img" aria-label="{escape(chart.title)}">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="100%" height="100%" rx="6"/>\n'
        f'<text class="title" x="16" y="25">{escape(chart.title)}</text>\n'
        f'<text class="note" x="16" y="43">{escape(note)}</text>\n' + "\n".join(chart.parts) + "\n</svg>\n"
    )
