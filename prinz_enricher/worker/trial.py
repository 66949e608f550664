"""What a model does with sample rows decides how it is served, and whether it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows, OutputDiffers, ValueMissing

from .batching import with_variations

Score = Callable[[pa.RecordBatch], pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to try a model with.

    Attributes:
        rows: One or more.
        example: Whether they are the model's own input example; else they were made from its signature.
    """

    rows: pa.RecordBatch
    example: bool

    @property
    def name(self) -> str:
        """What they are, for people."""
        return "its input example" if self.example else "rows made from its signature"


class UnfitModel(Exception):
    """The model can't be served as it is registered; the message says why, and what its author can do."""


class OutputsDiffer(UnfitModel):
    """Its answer is not what its signature declares.

    Attributes:
        sample: The rows that show it.
    """

    def __init__(self, sample: Sample, why: str) -> None:
        super().__init__(
            f"its answer to {sample.name} is not what its signature declares: {why}; log it with the signature that it"
            " has, or set its tag prinz.outputs to observed (where scoring.allow_observed_outputs is set)"
        )
        self.sample = sample


def check_answers(score: Score, samples: Iterable[Sample]) -> None:
    """See that a model answers sample rows as its signature declares.

    The first sample that shows something decides. A model may raise on made-up rows, or miss values there; on its own
    example it must not. One that takes a single row only is asked with a single one.

    Args:
        score: Gives the outputs of rows.
        samples: The model's example first.

    Raises:
        UnfitModel: It does not.
    """
    for sample in samples:
        failed = _first_failure(score, sample)
        if failed is None:
            return
        rows, failure = failed
        if isinstance(failure, OutputDiffers) and (sample.example or not isinstance(failure, ValueMissing)):
            raise OutputsDiffer(Sample(rows, sample.example), str(failure)) from failure
        if sample.example and not isinstance(failure, InvalidRows):
            raise UnfitModel(f"it fails on its input example: {sentence(failure)}") from failure


def _first_failure(score: Score, sample: Sample) -> tuple[pa.RecordBatch, Exception] | None:
    """Return the first row that fails alone, and with what; None where all of them together, or each alone, do well."""
    together = sample.rows if sample.example else with_variations(sample.rows)
    rows = [together.slice(place, 1) for place in range(together.num_rows)]
    if _failure(score, together) is None:
        return None
    for row in rows:
        if (failure := _failure(score, row)) is not None:
            return row, failure
    return None


def _failure(score: Score, rows: pa.RecordBatch) -> Exception | None:
    try:
        score(rows)
    except Exception as exc:  # noqa: BLE001 - a model raises what it likes
        return exc
    return None


def sentence(exc: BaseException) -> str:
    """Return an exception as one sentence: its type, and the first line of what it says."""
    try:
        first = next((line.strip() for line in str(exc).splitlines() if line.strip()), "")
    except Exception:  # noqa: BLE001 - a model raises what it likes
        first = ""
    return f"{type(exc).__name__}: {first}" if first else type(exc).__name__
