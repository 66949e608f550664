"""Plots as SVG files that need nothing else: horizontal bars, as readers compare lengths best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.peers.loads import BATCH_100K, SINGLE_1, SINGLE_64, Load
from benchmarks.peers.results import Results

WIDTH, BAR, GAP, LEFT, RIGHT, TOP, BOTTOM = 860, 20, 8, 330, 120, 54, 46
COLOURS = {"ours": "#1f6f8b", "peer": "#b0b7bf", "way": "#d3b88c", "limit": "#e3e6e9"}


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        title: What stands before it.
        value: Its length; at least 0.
        text: What stands after it.
        kind: What it is of, which gives its colour.
    """

    title: str
    value: float
    text: str
    kind: str


def bars(title: str, axis: str, values: Sequence[Bar], *, logarithmic: bool = False) -> str:
    """Return a plot of bars as SVG.

    Args:
        title: Its headline.
        axis: What the lengths are.
        values: The bars, the topmost first; those of 0 have no length.
        logarithmic: Whether lengths are logarithms, for values that differ by powers of ten.
    """
    height = TOP + len(values) * (BAR + GAP) + BOTTOM
    place = _scale([bar.value for bar in values], logarithmic=logarithmic)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"',
        'font-family="system-ui, sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="28" font-size="17" font-weight="600" fill="#1c2733">{escape(title)}</text>',
    ]
    foot = TOP + len(values) * (BAR + GAP)
    for at, label in place.ticks:
        drawn += [
            f'<line x1="{at:.1f}" y1="{TOP - 6}" x2="{at:.1f}" y2="{foot}" stroke="#e8ebee"/>',
            f'<text x="{at:.1f}" y="{foot + 16}" text-anchor="middle" font-size="11" fill="#5b6770">{label}</text>',
        ]
    for number, bar in enumerate(values):
        top = TOP + number * (BAR + GAP)
        end = place.end(bar.value)
        weight = ' font-weight="600"' if bar.kind == "ours" else ""
        drawn += [
            f'<text x="{LEFT - 10}" y="{top + 15}" text-anchor="end" fill="#1c2733"{weight}>{escape(bar.title)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{max(end - LEFT, 0):.1f}" height="{BAR}" fill="{COLOURS[bar.kind]}"/>',
            f'<text x="{max(end, LEFT) + 6:.1f}" y="{top + 15}" fill="#1c2733"{weight}>{escape(bar.text)}</text>',
        ]
    scale = ", logarithmic" if logarithmic else ""
    drawn.append(
        f'<text x="{LEFT}" y="{foot + 36}" font-size="12" fill="#5b6770">{escape(axis)}{scale}</text>\n</svg>\n'
    )
    return "\n".join(drawn)


@dataclass(frozen=True)
class _Scale:
    least: float
    most: float
    logarithmic: bool
    ticks: Sequence[tuple[float, str]] = ()

    def end(self, value: float) -> float:
        """Return where a bar ends."""
        if value <= 0:
            return LEFT
        if self.logarithmic:
            share = math.log10(value / self.least) / math.log10(self.most / self.least)
        else:
            share = value / self.most
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def _scale(values: Sequence[float], *, logarithmic: bool) -> _Scale:
    there = [value for value in values if value > 0] or [1.0]
    if logarithmic:
        # The shortest bar has a length too.
        least = 10.0 ** math.floor(math.log10(min(there)) - 0.1)
        most = max(there)
        scale = _Scale(least, max(most, least * 10), logarithmic=True)
        marks = [10.0**power for power in range(round(math.log10(least)), math.floor(math.log10(scale.most)) + 1)]
    else:
        scale = _Scale(0.0, max(there), logarithmic=False)
        step = 10.0 ** math.floor(math.log10(scale.most))
        step = next(step * part for part in (0.2, 0.5, 1, 2) if scale.most / (step * part) <= 6)
        marks = [step * number for number in range(int(scale.most / step) + 1)]
    ticks = [(scale.end(mark), _short(mark)) for mark in marks]
    return _Scale(scale.least, scale.most, logarithmic, ticks)


def _short(value: float) -> str:
    for least, unit in ((1e6, "M"), (1e3, "k")):
        if value >= least:
            return f"{value / least:g} {unit}"
    return f"{value:g}"


def plots(results: Results) -> dict[str, str]:
    """Return the plots of a run: SVG by the name of its file."""
    return {
        "single_rows.svg": bars(
            "Single-row calls a second, 64 callers, one core", "calls/s", _rates(results, SINGLE_64)
        ),
        "latency.svg": bars(
            "Latency of a single-row call, 1 caller (p50)", "ms", _latencies(results, SINGLE_1), logarithmic=True
        ),
        "large_requests.svg": bars(
            "Rows a second in requests of 100,000 rows, one core",
            "rows/s",
            _rates(results, BATCH_100K),
            logarithmic=True,
        ),
    }


def _rates(results: Results, load: Load) -> list[Bar]:
    found = [(row, figure) for row in results.rows.values() if (figure := row.figure(load.name))]
    found.sort(key=lambda one: -one[1].calls_per_second)
    return [Bar(row.title, one.rows_per_second, f"{one.rows_per_second:,.0f}", row.kind) for row, one in found]


def _latencies(results: Results, load: Load) -> list[Bar]:
    found = [(row, figure) for row in results.rows.values() if (figure := row.figure(load.name))]
    found.sort(key=lambda one: one[1].p50_ms)
    return [Bar(row.title, one.p50_ms, f"{one.p50_ms:.2f} ms", row.kind) for row, one in found]
