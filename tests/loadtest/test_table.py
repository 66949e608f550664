"""The table of a load test on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from prinz_enricher.loadtest.rendering import print_report
from prinz_enricher.loadtest.report import Arguments, Latency, Report, StepReport


def construct(kind: Any, **fields: object) -> Any:
    """Make a part of a report from the fields that are looked at."""
    return kind.model_construct(**fields)


def step(scale: float) -> Any:
    """Make a step whose figures have more digits with a larger scale."""
    latency = construct(Latency,
        min=0.1 * scale, mean=scale, p50=1.11 * scale, p90=2.22 * scale, p99=3.33 * scale, p99_9=4.44 * scale,
        max=5.55 * scale,
    )  # fmt: skip
    return construct(StepReport,
        loop="closed", load=64 * scale, calls_per_second=17.1 * scale, rows_per_second=1_234 * scale, latency=latency,
        errors={"OVERLOADED": int(12 * scale)}, processor_shares=[0.981], warnings=[],
    )  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 100.0, 10_000.0])
def test_the_table_is_whole_in_eighty_columns(scale: float) -> None:
    """No figure and no heading is cut, from a lone caller to a farm."""
    arguments = construct(Arguments, addresses=["localhost:1"], mode="unary", rows=1, processes=1)
    report = construct(Report, model="m/1", arguments=arguments, interrupted=False, steps=[step(scale)])
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    print_report(console, report, 1)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    words = shown.split()
    for heading in ("load", "calls/s", "rows/s", "p50", "ms", "p90", "p99", "p99.9", "max", "errors", "client", "CPU"):
        assert heading in words
    assert {f"{17.1 * scale:,.0f}", f"{1_234 * scale:,.0f}", f"{int(12 * scale):,}", "98%"} <= set(words)
    assert max(map(len, shown.splitlines())) <= 80
