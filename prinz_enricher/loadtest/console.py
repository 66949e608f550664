"""What a person sees of a load test: how far it is, and a table of what it found out."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from prinz_enricher.loadtest.charts import number_text
from prinz_enricher.loadtest.ladder import Closed, Step
from prinz_enricher.loadtest.report import Report, StepReport


class Watcher:
    """Shows how far a test is, on a terminal only.

    Args:
        steps: How many there will be.
        warm_up: Seconds before the measured time of each.
        seconds: The measured time of each.

    Attributes:
        measuring: Whether the first step has begun.
    """

    def __init__(self, steps: int, warm_up: float, seconds: float) -> None:
        self.measuring = False
        self._steps = steps
        self._warm_up, self._seconds = warm_up, seconds
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("scoring each call once", total=None, state="")

    def __enter__(self) -> Self:
        """Begin to show."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave nothing behind."""
        self._progress.stop()

    def begins(self, number: int, step: Step) -> None:
        """Show that a step begins."""
        self.measuring = True
        load = f"{step.concurrency:,} callers" if isinstance(step, Closed) else f"{step.rate:,.6g} calls/s"
        self._progress.reset(
            self._task,
            description=f"{load}, {number + 1} of {self._steps}",
            total=self._warm_up + self._seconds,
            state="warming up",
        )

    def goes_on(self, state: dict[str, float]) -> None:
        """Show how far it is."""
        seconds = state["seconds"]
        if seconds <= 0:
            told = "warming up"
        elif seconds > self._seconds:
            told = "waiting for the last answers"
        else:
            told = f"{state['answered'] / seconds:,.0f} calls/s"
        errors = f", {state['errors']:,.0f} errors" if state["errors"] else ""
        self._progress.update(self._task, completed=self._warm_up + seconds, state=told + errors)

    def ended(self, report: StepReport) -> None:
        """Do nothing: the table comes at the end."""


def print_report(console: Console, report: Report, steps: int) -> None:
    """Print a line for each step, then errors and warnings.

    Args:
        console: Where to.
        report: On the test.
        steps: How many there were to be.
    """
    console.print(
        f"{report.model} at {', '.join(report.arguments.addresses)}: mode {report.arguments.mode}, "
        f"{report.arguments.rows:,} row{'s' * (report.arguments.rows != 1)} a call, "
        f"{report.arguments.processes} client process{'es' * (report.arguments.processes != 1)}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    # Without lines, so that it is whole in 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("load", overflow="fold")
    for name in ("calls/s", "rows/s", "p50 ms", "p90", "p99", "p99.9", "max", "errors", "client CPU"):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for step in report.steps:
        table.add_row(*map(Text, _cells(step)))
    console.print(table)
    for step in report.steps:
        for reason, count in step.errors.items():
            console.print(Text(f"{step.title}: {count:,} x {reason}", "red"), soft_wrap=True)
        for warning in step.warnings:
            console.print(Text(f"WARNING, {step.title}: {warning}", "yellow"), soft_wrap=True)
    if len(report.steps) < steps:
        why = "the test was ended" if report.interrupted else "the closed loops had no answer to take a share of"
        console.print(f"{len(report.steps)} of {steps} steps were measured: {why}", highlight=False, soft_wrap=True)
    elif report.interrupted:
        console.print("the test was ended before its time", highlight=False)


def _cells(step: StepReport) -> list[str]:
    latency = step.latency
    shown = (
        ["-"] * 5
        if latency is None
        else [number_text(value) for value in (latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max)]
    )
    return [
        step.title,
        f"{step.calls_per_second:,.0f}",
        f"{step.rows_per_second:,.0f}",
        *shown,
        f"{sum(step.errors.values()):,}",
        f"{max(step.processor_shares, default=0.0):.0%}",
    ]
