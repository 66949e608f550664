"""The report as one HTML page that loads nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final

from prinz_enricher.loadtest.charts import Axis, Line, bar_chart, count_chart, line_chart, number_text
from prinz_enricher.loadtest.report import Latency, Report, StepReport

_PERCENTILES: Final[tuple[tuple[str, Callable[[Latency], float]], ...]] = (
    ("p50", lambda latency: latency.p50),
    ("p90", lambda latency: latency.p90),
    ("p99", lambda latency: latency.p99),
    ("p99.9", lambda latency: latency.p99_9),
    ("max", lambda latency: latency.max),
)

_BARS: Final = 8
"""Bars of a histogram for each doubling of the latency."""

_STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d2733; --muted: #66727f; --grid: #dfe4ea; --error: #c8372d;
  --series-0: #2a6fdb; --series-1: #c2571a; --series-2: #12806a; --series-3: #a3318f; --series-4: #6b6f76; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e4e9ee; --muted: #98a4b0; --grid: #2d353e;
  --error: #ff7a6e; --series-0: #6fa8ff; --series-1: #f0954f; --series-2: #3fc7a6; --series-3: #e07ccb;
  --series-4: #aab1b9; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 84rem; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.lead { color: var(--muted); margin: .2rem 0 1.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--grid); padding: .3rem .8rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--muted); font-weight: 600; }
.bad { color: var(--error); font-weight: 600; }
.warnings { border-left: 3px solid var(--error); margin: 1rem 0; padding: .1rem 1rem; }
.charts { display: grid; gap: 1rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { display: block; height: auto; max-width: 100%; width: 100%; } svg text { fill: var(--ink); font-size: 12px; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .2rem 0; color: var(--muted); }
.legend i { border-radius: 2px; display: inline-block; height: .7rem; margin-right: .35rem; width: .7rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; } dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def html_page(report: Report) -> str:
    """Write a report as a page: one file, without a script, that loads nothing, readable in light and in dark."""
    title = f"Load test of {report.model}"
    ended = " It was ended before its time." if report.interrupted else ""
    arguments = report.arguments
    lead = (
        f"{', '.join(arguments.addresses)}; {report.started:%Y-%m-%d %H:%M %Z}; mode {arguments.mode}, "
        f"{arguments.rows:,} row{'s' * (arguments.rows != 1)} a call.{ended}"
    )
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n",
            f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>\n',
            _table(report.steps),
            _warnings(report.steps),
            *_over_load(report.steps),
            _errors(report),
            _histograms(report.steps),
            _details(report),
            "</body>\n</html>\n",
        )
    )


def _table(steps: Sequence[StepReport]) -> str:
    heads = ("load", "calls/s", "rows/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "errors", "client CPU")
    rows = []
    for step in steps:
        errors = sum(step.errors.values())
        cells = [step.title, number_text(step.calls_per_second), number_text(step.rows_per_second)]
        cells += [number_text(of(step.latency)) if step.latency else "-" for _, of in _PERCENTILES]
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        bad = ' class="bad"' if errors else ""
        rows.append(f"<tr>{shown}<td{bad}>{errors:,}</td><td>{max(step.processor_shares, default=0):.0%}</td></tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>\n'


def _warnings(steps: Sequence[StepReport]) -> str:
    told = [f"<p><b>{escape(step.title)}:</b> {escape(text)}.</p>" for step in steps for text in step.warnings]
    return f'<div class="warnings">{"".join(told)}</div>\n' if told else ""


def _over_load(steps: Sequence[StepReport]) -> Iterable[str]:
    """Draw latency and throughput, for closed and for open loops."""
    for loop, name, label in (
        ("closed", "Closed loops", "callers"),
        ("open", "Open loops", "calls a second, planned"),
    ):
        chosen = sorted((step for step in steps if step.loop == loop), key=lambda step: step.load)
        if not chosen:
            continue
        loads = [step.load for step in chosen]
        x = Axis.over(loads, logarithmic=True)
        charts = [_latencies(chosen, label, x), _throughput(chosen, label, x, with_plan=loop == "open")]
        yield f'<h2>{name}</h2><div class="charts">{"".join(charts)}</div>\n'


def _latencies(steps: Sequence[StepReport], label: str, x: Axis) -> str:
    lines = [Line(name, [(step.load, of(step.latency)) for step in steps if step.latency]) for name, of in _PERCENTILES]
    y = Axis.over([value for line in lines for _, value in line.points], logarithmic=True)
    return line_chart("Latency over load", label, "ms", lines, x, y)


def _throughput(steps: Sequence[StepReport], label: str, x: Axis, *, with_plan: bool) -> str:
    lines = [Line("right answers", [(step.load, step.calls_per_second) for step in steps])]
    if with_plan:
        lines.append(Line("planned", [(step.load, step.load) for step in steps], dashed=True))
    y = Axis.over([value for line in lines for _, value in line.points], logarithmic=False)
    return line_chart("Throughput over load", label, "calls a second", lines, x, y)


def _errors(report: Report) -> str:
    whole = report.errors
    if not whole:
        return "<h2>Errors</h2><p>None: every answer was right.</p>\n"
    charts = [count_chart("All steps", whole.most_common())]
    if len(report.steps) > 1:
        charts += [count_chart(step.title, Counter(step.errors).most_common()) for step in report.steps if step.errors]
    return f'<h2>Errors by reason</h2><div class="charts">{"".join(charts)}</div>\n'


def _histograms(steps: Sequence[StepReport]) -> str:
    charts = [
        bar_chart(
            step.title,
            "ms",
            "calls",
            _bars(step),
            [("p50", step.latency.p50), ("p99", step.latency.p99), ("p99.9", step.latency.p99_9)],
        )
        for step in steps
        if step.latency
    ]
    return f'<h2>Latencies of each step</h2><div class="charts">{"".join(charts)}</div>\n' if charts else ""


def _bars(step: StepReport) -> list[tuple[float, float, float]]:
    """Gather the buckets of a histogram into as many bars as can be seen."""
    counts: Counter[int] = Counter()
    for bucket in step.histogram:
        middle = max((bucket.from_ns + bucket.to_ns) / 2, 1.0)
        counts[math.floor(math.log2(middle) * _BARS)] += bucket.calls
    return [
        (2 ** (place / _BARS) / 1e6, 2 ** ((place + 1) / _BARS) / 1e6, float(counts[place])) for place in sorted(counts)
    ]


def _details(report: Report) -> str:
    machine = report.machine
    told = {
        "model": f"{report.model}, signature {report.signature_digest}",
        "generator": f"{machine.processor}, {machine.usable_cores} of {machine.cores} cores, {machine.system}, "
        f"load {machine.load_average:.2f} before the test",
        **{name.replace("_", " "): _argument(value) for name, value in report.arguments.model_dump().items()},
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in told.items())
    return f"<h2>How it was measured</h2><dl>{rows}</dl>\n"


def _argument(value: object) -> str:
    match value:
        case list():
            return ", ".join(map(str, value))
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
    return str(value)
