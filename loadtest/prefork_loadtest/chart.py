"""Inline SVG, drawn by hand: scales, axes, lines and bars. Nothing here knows what a run is.

Colours come from the page's classes, so that light and dark are decided there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Point = tuple[float, float]

_LABEL_GAP = 6.0


def log_ticks(low: float, high: float) -> list[float]:
    """Round values (1, 2, 5 and their decades) from `low` to `high`; decades only where there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)  # noqa: PLR2004 - more would be a thicket
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]


def linear_ticks(high: float, most: int = 6) -> list[float]:
    """Round values from 0 to `high`, at most about `most` of them."""
    if high <= 0:
        return [0.0]
    raw = high / most
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    return [number * step for number in range(int(high / step) + 1)]


def microseconds(value: float) -> str:
    """A time with the unit that reads best."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} µs"


@dataclass
class Chart:
    """A drawing area with two scales. `x` and `y` turn values into places.

    Attributes:
        width: of the whole picture, in its own units.
        height: the same.
        x_range: least and largest value on the x axis.
        y_range: the same for y; above 0 if `log`.
        log: whether y is logarithmic.
        title: what a reader who cannot see it is told.
    """

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    title: str
    log: bool = False
    left: float = 64.0
    right: float = 16.0
    top: float = 14.0
    bottom: float = 28.0
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """The place of a value on the x axis."""
        low, high = self.x_range
        part = (value - low) / (high - low) if high > low else 0.0
        return self.left + part * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """The place of a value on the y axis; what lies outside is drawn at the edge."""
        low, high = self.y_range
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        part = (value - low) / (high - low) if high > low else 0.0
        return self.height - self.bottom - part * (self.height - self.top - self.bottom)

    def add(self, part: str) -> None:
        """Put a piece of SVG on top of what is there."""
        self.parts.append(part)

    def text(self, x: float, y: float, text: str, style: str, anchor: str = "middle") -> None:
        """Write at a place."""
        self.add(f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def y_axis(self, ticks: Iterable[float], label: Callable[[float], str]) -> None:
        """Horizontal rules with their values at the left."""
        for tick in ticks:
            place = self.y(tick)
            right = self.width - self.right
            self.add(f'<line class="rule" x1="{self.left}" x2="{right}" y1="{place:.1f}" y2="{place:.1f}"/>')
            self.text(self.left - _LABEL_GAP, place + 4, label(tick), "tick", "end")

    def x_axis(self, ticks: Iterable[tuple[float, str]]) -> None:
        """Values along the bottom."""
        for value, label in ticks:
            self.text(self.x(value), self.height - self.bottom + 18, label, "tick")

    def band(self, start: float, end: float, style: str) -> None:
        """A stretch of the x axis, shaded."""
        wide = max(self.x(end) - self.x(start), 1.0)
        tall = self.height - self.top - self.bottom
        self.add(
            f'<rect class="{style}" x="{self.x(start):.1f}" y="{self.top}" width="{wide:.1f}" height="{tall:.1f}"/>'
        )

    def bar(self, start: float, end: float, value: float, style: str) -> None:
        """A bar from the bottom of the y axis."""
        top, bottom = self.y(value), self.y(self.y_range[0])
        wide = max(self.x(end) - self.x(start) - 1.0, 0.5)
        tall = max(bottom - top, 0.0)
        self.add(
            f'<rect class="{style}" x="{self.x(start):.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'
        )

    def line(self, points: Iterable[Point], style: str) -> None:
        """A line through values."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        if places:
            self.add(f'<polyline class="line {style}" points="{places}"/>')

    def area(self, lower: list[Point], upper: list[Point], style: str) -> None:
        """The surface between two lines."""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in [*lower, *reversed(upper)])
        if lower and upper:
            self.add(f'<polygon class="{style}" points="{places}"/>')

    def mark(self, value: float, style: str) -> None:
        """A vertical rule at a value."""
        place = self.x(value)
        bottom = self.height - self.bottom
        self.add(f'<line class="{style}" x1="{place:.1f}" x2="{place:.1f}" y1="{self.top}" y2="{bottom}"/>')

    def hover(self, start: float, end: float, text: str) -> None:
        """An invisible column that says something under the pointer."""
        wide = max(self.x(end) - self.x(start), 1.0)
        tall = self.height - self.top - self.bottom
        self.add(
            f'<rect class="hover" x="{self.x(start):.1f}" y="{self.top}" width="{wide:.1f}" height="{tall:.1f}">'
            f"<title>{escape(text)}</title></rect>"
        )

    def draw(self) -> str:
        """The picture."""
        body = "\n".join(self.parts)
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(self.title)}">\n'
            f"{body}\n</svg>"
        )
