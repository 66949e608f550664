"""The tables of a run, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.peers.figure import Figure
from benchmarks.peers.loads import BATCHES, FRAUD_64, LOADS, SINGLE, Load
from benchmarks.peers.results import Results, Row
from benchmarks.peers.targets import decide

ENOUGH = 3.0
"""How many times what was measured a generator must be able to do."""

QUIET = 0.5
"""Load average of a machine that has nothing else to do."""

OURS = {
    "stream_columns": "100-row messages on two streams, `columns`",
    "stream_dense": "100-row messages on two streams, `dense`",
    "coalesced_256": "256 callers of one `AsyncClient`, coalesced",
    "arrow_1000000": "1,000,000 rows in one Arrow request",
    "open_loop": "open loop, Poisson arrivals at 70 % of the maximum",
    "heavy_1": "100 trees, 1,000-row requests, one worker on two cores",
    "heavy_2": "100 trees, 1,000-row requests, two workers on two cores",
}


def report(results: Results) -> str:
    """Return all tables of a run as one page."""
    sections = [
        ("Single rows: calls/s (p50 / p99 ms)", single_rows(results)),
        ("One request of many rows: rows/s", batches(results)),
        ("Ours ÷ the best peer", ratios(results)),
        ("Ours alone", ours(results)),
        ("Targets", targets(results)),
        ("The generators beside what they measured", generators(results)),
        ("Versions", versions(results)),
    ]
    parts = [head(results), *(f"## {title}\n\n{content}" for title, content in sections if content)]
    return "\n\n".join(parts) + "\n"


def head(results: Results) -> str:
    """Return what the figures were taken on."""
    machine, arguments = results.machine, results.arguments
    load = machine["load_average"][0]
    busy = " (**others were at work: do not trust these figures**)" if load > QUIET else ""
    where = "All share the cores" if arguments["unpinned"] else "Servers on one core, load generators on another"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; Linux {machine['kernel']}, "
        f"Python {machine['python']}; {machine['began']}, commit {machine['commit']}, load average {load} at the start"
        f"{busy}. {where}; median of {arguments['runs']} runs of {arguments['seconds']:g} s after "
        f"{arguments['warm']:g} s."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; its first column is text, the others are figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def single_rows(results: Results) -> str:
    """Return the table of single-row loads, with the memory of each server."""
    loads = (*SINGLE, FRAUD_64)
    rows = [
        [row.title, *(_cell(row, load) for load in loads), f"{row.memory_mb:,.0f}" if row.memory_mb else "-"]
        if not row.why_not
        else [row.title, f"not run: {_escaped(row.why_not)}", *[""] * len(loads)]
        for row in results.rows.values()
    ]
    return table(["server", *(load.title for load in loads), "memory MB"], rows)


def batches(results: Results) -> str:
    """Return the table of large requests."""
    rows = [
        [row.title, *(_cell(row, load) for load in BATCHES)]
        for row in results.rows.values()
        if not row.why_not and any(load.name in row.loads for load in BATCHES)
    ]
    return table(["server", *(load.title for load in BATCHES)], rows)


def ratios(results: Results) -> str:
    """Return how many times the best peer's figure ours is, by calls a second, and by the p50 of one caller."""
    lines = []
    for load in LOADS:
        best, own = results.best(load.name), results.figure("ours", load.name)
        if best and own:
            ratio = own.calls_per_second / best[1].calls_per_second
            lines.append([load.title, best[0], _rate(best[1]), _rate(own), f"{ratio:.1f} x"])
    first = SINGLE[0]
    best, own = results.best(first.name, by_latency=True), results.figure("ours", first.name)
    if best and own:
        ratio = own.p50_ms / best[1].p50_ms
        lines.append(
            [f"{first.title}, p50", best[0], f"{best[1].p50_ms:.2f} ms", f"{own.p50_ms:.2f} ms", f"{ratio:.2f} x"]
        )
    return table(["load", "best peer", "its figure", "ours", "ours ÷ it"], lines) if lines else ""


def ours(results: Results) -> str:
    """Return what only ours was asked for."""
    lines = []
    for name, title in OURS.items():
        figure = results.ours.get(name)
        if figure and figure.sound:
            lines.append(
                [title, f"{figure.rows_per_second:,.0f} rows/s", f"{figure.p50_ms:.2f}", f"{figure.p99_ms:.2f}"]
            )
        elif why := results.why_not.get(name):
            lines.append([title, f"none: {_escaped(why)}", "", ""])
    if (echo := results.numbers.get("open_loop_echo_p99_ms")) is not None:
        lines.append(["the same open loop against the C++ echo", "", "", f"{echo:.2f}"])
    for form in ("columns", "dense"):
        front, workers = (results.numbers.get(f"{who}_us_{form}") for who in ("front", "workers"))
        if front is not None and workers is not None:
            lines.append(
                [f"CPU of a one-row call, `{form}`", f"front {front:.1f} µs, workers {workers:.1f} µs", "", ""]
            )
    if (share := results.numbers.get("idle_share")) is not None:
        lines.append([f"idle, over {results.arguments['idle']:g} s", f"{share:.2%} of a core", "", ""])
    return table(["load", "figure", "p50 ms", "p99 ms"], lines) if lines else ""


def targets(results: Results) -> str:
    """Return the targets with what became of them."""
    lines = [[target.wanted, target.ours, target.against, target.verdict] for target in decide(results)]
    return table(["target", "ours", "against", ""], lines)


def generators(results: Results) -> str:
    """Return what the generators can do, the most that they measured, and whether that is enough.

    Beside a figure of a generator in Python no limit is known; it stands in the table of the figures itself.
    """
    lines = []
    for name, limit in results.limits.items():
        most = _most(results, name)
        if most is None or not limit.sound:
            lines.append([name, _rate(limit) if limit.sound else f"none: {_escaped(limit.error)}", "-", "-", "-"])
            continue
        title, figure = most
        ratio = limit.calls_per_second / figure.calls_per_second
        verdict = "enough" if ratio >= ENOUGH else "**the generator was near its limit**"
        lines.append([name, _rate(limit), f"{title}: {_rate(figure)}", f"{ratio:.1f} x", verdict])
    return (
        table(["load", "the generator's limit", "the most measured", "limit ÷ it", "at least 3 x"], lines)
        if lines
        else ""
    )


def versions(results: Results) -> str:
    """Return the versions of all that was measured."""
    told = {"ours": results.machine["versions"]}
    told |= {row.title: row.versions for row in results.rows.values() if row.versions}
    lines = [[title, ", ".join(f"{name} {number}" for name, number in found.items())] for title, found in told.items()]
    return "\n".join(f"- {title}: {found}" for title, found in lines)


def _most(results: Results, limit: str) -> tuple[str, Figure] | None:
    """Return the highest figure that a generator measured under a load, limits apart."""
    load, http = limit.removesuffix("_http"), limit.endswith("_http")
    found = [
        (row.title, figure)
        for row in results.rows.values()
        if row.kind != "limit" and (figure := row.figure(load)) and (figure.generator == "wrk") is http
    ]
    if not http and (own := results.ours.get(load)) and own.sound:
        found.append((OURS.get(load, "ours, Rust front"), own))
    return max(found, key=lambda one: one[1].calls_per_second, default=None)


def _cell(row: Row, load: Load) -> str:
    figure = row.loads.get(load.name)
    if figure is None:
        return "-"
    if figure.calls_per_second <= 0:
        return f"none: {_escaped(figure.error)}"
    if load.rows > 1:
        text = _number(figure.rows_per_second)
    else:
        text = f"{figure.calls_per_second:,.0f} ({_milliseconds(figure.p50_ms)} / {_milliseconds(figure.p99_ms)})"
    if figure.errors:
        text += f" with {figure.errors} errors: {_escaped(figure.error)}"
    return f"{text} (generator: Python, the limit)" if figure.generator.endswith("the limit") else text


def _rate(figure: Figure) -> str:
    return f"{_number(figure.rows_per_second)} rows/s" if figure.rows > 1 else f"{figure.calls_per_second:,.0f}/s"


def _number(value: float) -> str:
    for least, unit in ((1e6, "M"), (1e3, "k")):
        if value >= least:
            return f"{value / least:.3g} {unit}"
    return f"{value:.0f}"


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _escaped(text: str) -> str:
    """Return text as it may stand in a cell: without what Markdown reads as its own, and its middle where it is long.

    What went wrong stands at its beginning, and why, in a server's last words, at its end.
    """
    plain = " ".join(text.split()).replace("|", "/")
    return plain if len(plain) <= 200 else f"{plain[:60]} ... {plain[-135:]}"
