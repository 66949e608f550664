"""Rows of a request that are calls of their own: scored together where the version allows it, else each alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring import Job, Scores

Rows = npt.NDArray[np.int64]
"""Rows by their places in the whole job."""


def split_rows(job: Job) -> list[Job]:
    """Return the jobs that together are a job whose rows are calls of their own.

    Rows are apart from the start where they would change what the model sees of each other. Where a row fails, the
    whole job does, as it would have if its rows had been scored together.
    """
    outcomes = _Outcomes(job)
    return [_job_of(job, rows, outcomes) for rows in _same_nulls(job.batch)]


def _job_of(job: Job, rows: Rows, outcomes: _Outcomes) -> Job:
    batch = job.batch if len(rows) == job.batch.num_rows else job.batch.take(pa.array(rows))
    part = replace(job, batch=batch, done=outcomes.of(rows), cancelled=outcomes.unwanted)

    def apart() -> list[Job]:
        return [
            replace(part, batch=batch.slice(place, 1), done=outcomes.of(rows[place : place + 1]))
            for place in range(len(rows))
        ]

    return replace(part, calls=len(rows), split_calls=apart) if len(rows) > 1 else part


def _same_nulls(batch: pa.RecordBatch) -> Sequence[Rows]:
    """Return groups of rows that have their nulls in the same columns.

    A column of whole numbers or booleans is another one to a model as soon as one of them is missing; a float that is
    missing is NaN.
    """
    missing = [
        column.is_null().to_numpy(zero_copy_only=False)
        for column in batch.columns
        if 0 < column.null_count < batch.num_rows
        and (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type))
    ]
    if not missing:
        return [np.arange(batch.num_rows)]
    _, pattern = np.unique(np.stack(missing, axis=1), axis=0, return_inverse=True)
    return [np.flatnonzero(pattern.ravel() == one) for one in range(int(pattern.max()) + 1)]


class _Outcomes:
    """Collects the outcome of each row, and answers the job: with all scores, or at once with the first error."""

    def __init__(self, job: Job) -> None:
        self._lock = threading.Lock()
        self._cancelled = job.cancelled
        self._done = job.done
        self._scores: list[tuple[Rows, Scores]] = []
        self._left = job.batch.num_rows
        self._answered = False

    def unwanted(self) -> bool:
        return self._answered or self._cancelled()

    def of(self, rows: Rows) -> Callable[[Scores | EnricherError], None]:
        def done(outcome: Scores | EnricherError) -> None:
            with self._lock:
                if self._answered:
                    return
                if isinstance(outcome, EnricherError):
                    self._answered = True
                    self._scores = []
                else:
                    self._scores.append((rows, outcome))
                    self._left -= len(rows)
                    self._answered = not self._left
                answered = self._answered
            if answered:
                self._done(outcome if isinstance(outcome, EnricherError) else self._all())

        return done

    def _all(self) -> Scores:
        scores = [one for _, one in self._scores]
        if len(scores) == 1:
            return scores[0]
        order = np.argsort(np.concatenate([rows for rows, _ in self._scores]))
        return Scores(
            pa.concat_batches([one.batch for one in scores]).take(pa.array(order)),
            queue=max(one.queue for one in scores),
            # Their share of a model call that had rows of others in it as well.
            compute=sum(one.compute * one.batch.num_rows / max(1, one.batch_rows) for one in scores),
            batch_rows=max(one.batch_rows for one in scores),
        )
