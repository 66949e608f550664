"""What a load gave: figures, their median, and how they are kept."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """What one load gave, the median of its runs.

    Attributes:
        calls_per_second: Answers a second that were right.
        p50_ms: Half of the answers came within.
        p99_ms: All but one in a hundred came within.
        rows: Rows of one call.
        errors: Calls of all runs that ended with an error, or gave a wrong answer.
        error: The first error.
        generator: What made the load.
        generator_share: The part of its core that the generator needed; None where it can't tell.
        runs: Calls a second of each run.
    """

    calls_per_second: float
    p50_ms: float
    p99_ms: float
    rows: int = 1
    errors: int = 0
    error: str = ""
    generator: str = ""
    generator_share: float | None = None
    runs: Sequence[float] = field(default_factory=tuple)

    @property
    def rows_per_second(self) -> float:
        """Rows a second that were scored."""
        return self.calls_per_second * self.rows

    @property
    def sound(self) -> bool:
        """Whether it may be compared: there were answers, and each was right."""
        return self.calls_per_second > 0 and not self.errors

    def to_json(self) -> dict[str, Any]:
        """Return it as it is kept."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Figure:
        """Return it from what was kept."""
        return cls(**kept)


def parse_run(told: Mapping[str, Any], generator: str, rows: int) -> Figure:
    """Return the figure of one run from what a generator printed.

    Args:
        told: Its JSON: `rate`, `p50_ms`, `p99_ms`, `errors`, `error`, `unexpected`, and `cpu_share` where it knows.
        generator: What it is called in the table.
        rows: Rows of one call.
    """
    unexpected = int(told.get("unexpected", 0))
    error = str(told.get("error", "")) or ("an answer without the score" if unexpected else "")
    if not float(told["rate"]) and not error:
        error = "no answer within the time of a run"
    return Figure(
        calls_per_second=float(told["rate"]),
        p50_ms=float(told["p50_ms"]),
        p99_ms=float(told["p99_ms"]),
        rows=rows,
        errors=int(told.get("errors", 0)) + unexpected,
        error=error,
        generator=generator,
        generator_share=told.get("cpu_share"),
        runs=(float(told["rate"]),),
    )


def median(runs: Sequence[Figure]) -> Figure:
    """Return the run in the middle by calls a second, with the errors of all of them.

    With an even number of runs it is the slower of the two in the middle: no figure is made up between them.

    Raises:
        statistics.StatisticsError: There is no run.
    """
    middle = statistics.median_low([run.calls_per_second for run in runs])
    chosen = next(run for run in runs if run.calls_per_second == middle)
    return Figure(
        **{
            **asdict(chosen),
            "errors": sum(run.errors for run in runs),
            "error": next((run.error for run in runs if run.error), ""),
            "runs": tuple(run.calls_per_second for run in runs),
        }
    )
