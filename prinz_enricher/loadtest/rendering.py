"""How a load test is shown: its progress and its table on a terminal, and its report as one HTML page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from prinz_enricher.loadtest.generator import Progress, Step
from prinz_enricher.loadtest.report import Report, StepReport, load_text

_PERCENTILES: Final = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p99_9", "max": "max"}
"""The fields of a `Latency` that are shown, by their headings."""
_BARS: Final = 8
"""Bars of a histogram for each doubling of the latency."""


class ProgressDisplay(ProgressBar):
    """Shows how far a test of `steps` steps is, on a terminal only; `measuring` is set once the first one has begun."""

    def __init__(self, steps: int, warm_up: float, seconds: float) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.measuring = False
        self._steps = steps
        self._warm_up, self._seconds = warm_up, seconds
        self._task = self.add_task("scoring each call once", total=None, state="")

    def on_step(self, number: int, step: Step) -> None:
        """Show that a step begins."""
        self.measuring = True
        title = f"{load_text(step.loop, step.load)}, {number + 1} of {self._steps}"
        self.reset(self._task, description=title, total=self._warm_up + self._seconds, state="warming up")

    def on_progress(self, progress: Progress) -> None:
        """Show how far the step is."""
        if progress.seconds <= 0:
            state = "warming up"
        elif progress.seconds > self._seconds:
            state = "waiting for the last answers"
        else:
            state = f"{progress.answered / progress.seconds:,.0f} calls/s"
        errors = f", {progress.errors:,} errors" if progress.errors else ""
        self.update(self._task, completed=self._warm_up + progress.seconds, state=state + errors)


def print_report(console: Console, report: Report, steps: int) -> None:
    """Print a line for each step that was measured, of `steps` in all; then errors and warnings."""
    arguments = report.arguments
    rows, processes = arguments.rows, arguments.processes
    title = (
        f"{report.model} at {', '.join(arguments.addresses)}: mode {arguments.mode}, {rows:,} row{'s' * (rows != 1)}"
    )
    console.print(Text(f"{title} a call, {processes} client process{'es' * (processes != 1)}"), soft_wrap=True)
    # Without lines, so that it is whole in 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("load", overflow="fold")
    for name in ("calls/s", "rows/s", "p50\nms", "p90", "p99", "p99.9", "max", "errors", "client\nCPU"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in report.steps:
        fields = _PERCENTILES.values()
        latencies = [number_text(getattr(step.latency, field)) if step.latency else "-" for field in fields]
        speeds = [f"{step.calls_per_second:,.0f}", f"{step.rows_per_second:,.0f}"]
        counts = [f"{sum(step.errors.values()):,}", f"{step.busiest:.0%}"]
        table.add_row(*map(Text, [step.title, *speeds, *latencies, *counts]))
    console.print(table)
    for step in report.steps:
        for reason, count in step.errors.items():
            console.print(Text(f"{step.title}: {count:,} x {reason}", "red"), soft_wrap=True)
        for warning in step.warnings:
            console.print(Text(f"WARNING, {step.title}: {warning}", "yellow"), soft_wrap=True)
    if len(report.steps) < steps:
        why = "the test was stopped" if report.interrupted else "the closed loops had no answer to take a share of"
        console.print(f"{len(report.steps)} of {steps} steps were measured: {why}", highlight=False, soft_wrap=True)
    elif report.interrupted:
        console.print("the test was stopped early", highlight=False)


def number_text(value: float) -> str:
    """Write a number with three digits, and thousands apart."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a chart from `low` to `high`; on a logarithmic one equal distances are equal ratios."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], *, logarithmic: bool) -> Axis:
        """Make an axis on which all values have a place; a logarithmic one only if all are above 0."""
        low, high = min(values, default=1.0), max(values, default=1.0)
        if logarithmic and low > 0:
            return cls(low / 1.15, high * 1.15, logarithmic=True)
        return cls(min(0.0, low), high * 1.05 if high > 0 else 1.0, logarithmic=False)

    def place(self, value: float) -> float:
        """Return where a value is, from 0 to 1."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return some three to ten round values."""
        if self.logarithmic:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
                found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) >= 3:
                    return found
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        return [number * step for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def html_page(report: Report) -> str:
    """Write a report as a page: one file, without a script, that loads nothing, readable in light and in dark."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("report.html").render(
        report=report,
        number=number_text,
        percentiles=_PERCENTILES,
        load_charts=list(_load_charts(report.steps)),
        histograms=[_histogram(step) for step in report.steps if step.latency],
        details=_details(report),
    )


def _load_charts(steps: Sequence[StepReport]) -> Iterator[dict[str, Any]]:
    """Yield latency and throughput over load, for closed and for open loops."""
    loops = (("closed", "Closed loops", "callers"), ("open", "Open loops", "calls a second, planned"))
    for loop, heading, label in loops:
        chosen = sorted((step for step in steps if step.loop == loop), key=lambda step: step.load)
        latencies = {
            name: [(step.load, getattr(step.latency, field)) for step in chosen if step.latency]
            for name, field in _PERCENTILES.items()
        }
        throughput = {"right answers": [(step.load, step.calls_per_second) for step in chosen]}
        if loop == "open":
            throughput["planned"] = [(step.load, step.load) for step in chosen]
        if chosen:
            charts = [
                _line_chart("Latency over load", "ms", latencies, log=True),
                _line_chart("Throughput over load", "calls a second", throughput, log=False),
            ]
            x = Axis.over([step.load for step in chosen], logarithmic=True)
            yield {"heading": heading, "label": label, "x": x, "charts": charts}


def _line_chart(title: str, label: str, lines: dict[str, list[tuple[float, float]]], log: bool) -> dict[str, Any]:
    y = Axis.over([value for points in lines.values() for _, value in points], logarithmic=log)
    return {"title": title, "label": label, "lines": lines, "y": y}


def _histogram(step: StepReport) -> tuple[StepReport, list[tuple[float, float, int]], Axis, Axis]:
    """Gather the buckets of a step into as many bars as can be seen, each from and to milliseconds."""
    counts: Counter[int] = Counter()
    for bucket in step.histogram:
        middle = max((bucket.from_ns + bucket.to_ns) / 2, 1.0)
        counts[math.floor(math.log2(middle) * _BARS)] += bucket.calls
    bars = [(2 ** (place / _BARS) / 1e6, 2 ** ((place + 1) / _BARS) / 1e6, n) for place, n in sorted(counts.items())]
    x = Axis.over([bars[0][0], bars[-1][1]], logarithmic=True)
    return step, bars, x, Axis.over(list(counts.values()), logarithmic=False)


def _details(report: Report) -> dict[str, str]:
    machine = report.machine
    return {
        "model": f"{report.model}, signature {report.signature_digest}",
        "generator": f"{machine.processor}, {machine.usable_cores} of {machine.cores} cores, {machine.system}, "
        f"load {machine.load_average:.2f} before the test",
        **{name.replace("_", " "): _argument(value) for name, value in report.arguments},
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
    }


def _argument(value: object) -> str:
    if isinstance(value, bool | None):
        return {True: "yes", False: "no", None: "none"}[value]
    return ", ".join(value) if isinstance(value, list) else str(value)
