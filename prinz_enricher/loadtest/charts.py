"""Charts as inline SVG: lines over a load, and bars. Their colours are variables of the page, for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 48


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: In the legend.
        points: By x.
        dashed: Whether it is drawn dashed, as what is not measured is.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """How values become places along an axis.

    Attributes:
        low: The value at its beginning.
        high: The value at its end; more than `low`.
        logarithmic: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], *, logarithmic: bool) -> Axis:
        """Make an axis on which all values have a place; a logarithmic one only where all are above 0."""
        known = [value for value in values if math.isfinite(value)] or [1.0]
        low, high = min(known), max(known)
        if logarithmic and low > 0:
            low, high = low / 1.15, high * 1.15
            return cls(low, high, logarithmic=True)
        return cls(min(0.0, low), high * 1.05 if high > 0 else 1.0, logarithmic=False)

    def place(self, value: float) -> float:
        """Tell where a value is, from 0 to 1."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Give round values along it, some three to ten."""
        return self._powers() if self.logarithmic else self._multiples()

    def _powers(self) -> list[float]:
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) >= 3:
                return found
        return self._multiples()

    def _multiples(self) -> list[float]:
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)]


def line_chart(title: str, x_label: str, y_label: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Draw lines, with a legend, and the values at each point for who rests on it."""
    drawn = [_frame(x, y, x_label, y_label)]
    for number, line in enumerate(lines):
        points = [(_x(x.place(a)), _y(y.place(b)), a, b) for a, b in line.points if math.isfinite(b)]
        colour = "var(--muted)" if line.dashed else f"var(--series-{number % 5})"
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in points)
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2"{dash} points="{path}"/>')
        filled = "var(--page)" if line.dashed else colour
        drawn += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{filled}" stroke="{colour}">'
            f"<title>{escape(line.name)} at {number_text(at)}: {number_text(value)}</title></circle>"
            for a, b, at, value in points
        ]
    return _figure(title, _svg(title, drawn), [(line.name, line.dashed) for line in lines])


def bar_chart(
    title: str,
    x_label: str,
    y_label: str,
    bars: Sequence[tuple[float, float, float]],
    marks: Sequence[tuple[str, float]],
) -> str:
    """Draw a histogram over a logarithmic axis.

    Args:
        title: Of the chart.
        x_label: What is counted.
        y_label: What is told of it.
        bars: From, to, and how much.
        marks: Values to be pointed out, with their names.
    """
    x = Axis.over([edge for low, high, _ in bars for edge in (low, high)], logarithmic=True)
    y = Axis.over([count for _, _, count in bars], logarithmic=False)
    drawn = [_frame(x, y, x_label, y_label)]
    for low, high, count in bars:
        left, right, top = _x(x.place(low)), _x(x.place(high)), _y(y.place(count))
        drawn.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 1, 1):.1f}" height="{_y(0) - top:.1f}" '
            f'fill="var(--series-0)"><title>{number_text(low)} to {number_text(high)}: {count:,.0f}</title></rect>'
        )
    for place, (name, value) in enumerate(marks):
        at = _x(x.place(value))
        height = _TOP + 10 + 13 * place
        # Near the right end there is no room on the right of the mark.
        aside, anchor = (-4, "end") if x.place(value) > 0.9 else (4, "start")
        drawn.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_y(0):.1f}" stroke="var(--muted)" '
            'stroke-dasharray="3 3"/>'
            f'<text x="{at + aside:.1f}" y="{height}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    return _figure(title, _svg(title, drawn), [])


def count_chart(title: str, counts: Sequence[tuple[str, int]]) -> str:
    """Draw counts as bars that lie, each with its name and number."""
    row = 26
    most = max(count for _, count in counts)
    drawn = []
    for place, (name, count) in enumerate(counts):
        top = _TOP + place * row
        width = max(2.0, (WIDTH - 330) * count / most)
        drawn.append(
            f'<text x="232" y="{top + 13}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="240" y="{top}" width="{width:.1f}" height="18" fill="var(--error)"/>'
            f'<text x="{246 + width:.1f}" y="{top + 13}">{count:,}</text>'
        )
    return _figure(title, _svg(title, drawn, height=2 * _TOP + row * len(counts)), [])


def number_text(value: float) -> str:
    """Write a number as a person reads it: three digits, and thousands apart."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _x(share: float) -> float:
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    parts = []
    for value in y.ticks():
        at = _y(y.place(value))
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--grid)"/>'
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number_text(value)}</text>'
        )
    for value in x.ticks():
        at = _x(x.place(value))
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_y(0):.1f}" y2="{_y(0) + 4:.1f}" stroke="var(--muted)"/>'
            f'<text x="{at:.1f}" y="{_y(0) + 18:.1f}" text-anchor="middle">{number_text(value)}</text>'
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _svg(title: str, drawn: Sequence[str], height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg>'


def _figure(title: str, svg: str, names: Sequence[tuple[str, bool]]) -> str:
    keys = "".join(
        f'<span><i style="background:{"var(--muted)" if dashed else f"var(--series-{number % 5})"}"></i>'
        f"{escape(name)}</span>"
        for number, (name, dashed) in enumerate(names)
    )
    legend = f'<p class="legend">{keys}</p>' if len(names) > 1 else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{legend}{svg}</figure>"
