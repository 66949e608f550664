"""The rows of a request that are calls of their own: each scored alone where they can't be scored together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring import Job, Scores


def independent(job: Job) -> list[Job]:
    """Have a job stand for a call for each of its rows.

    Args:
        job: Of one or more rows. Where a row fails, the job does, as it would have if they had been scored together.

    Returns:
        The jobs that together are it: rows are apart from the start where they would change what the model sees of
        each other.
    """
    outcomes = _Outcomes(job)
    return [_job_of(job, rows, outcomes) for rows in _alike(job.batch)]


def _job_of(job: Job, rows: npt.NDArray[np.int64], outcomes: _Outcomes) -> Job:
    """Make the job of some rows, by their places in the whole."""
    batch = job.batch if len(rows) == job.batch.num_rows else job.batch.take(pa.array(rows))
    part = replace(job, batch=batch, done=outcomes.of(rows), cancelled=outcomes.unwanted)

    def apart() -> list[Job]:
        return [
            replace(part, batch=batch.slice(place, 1), done=outcomes.of(rows[place : place + 1]))
            for place in range(len(rows))
        ]

    return replace(part, calls=len(rows), apart=apart) if len(rows) > 1 else part


def _alike(batch: pa.RecordBatch) -> Sequence[npt.NDArray[np.int64]]:
    """Give the places of rows that have their nulls in the same columns.

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
    """Waits for what each row came to, and then tells what all of them did; the first failure is told at once."""

    def __init__(self, job: Job) -> None:
        self._lock = threading.Lock()
        self._cancelled = job.cancelled
        self._done = job.done
        self._scores: list[tuple[npt.NDArray[np.int64], Scores]] = []
        self._left = job.batch.num_rows
        self._told = False

    def unwanted(self) -> bool:
        """Tell whether no row is of use any more."""
        return self._told or self._cancelled()

    def of(self, rows: npt.NDArray[np.int64]) -> Callable[[Scores | EnricherError], None]:
        """Give what takes the outcome of some rows, by their places in the whole."""

        def take(outcome: Scores | EnricherError) -> None:
            with self._lock:
                if self._told:
                    return
                if isinstance(outcome, EnricherError):
                    self._told = True
                    self._scores = []
                else:
                    self._scores.append((rows, outcome))
                    self._left -= len(rows)
                    self._told = not self._left
                told = self._told
            if told:
                self._done(outcome if isinstance(outcome, EnricherError) else self._all())

        return take

    def _all(self) -> Scores:
        scores = [one for _, one in self._scores]
        if len(scores) == 1:
            return scores[0]
        order = np.argsort(np.concatenate([rows for rows, _ in self._scores]))
        return Scores(
            pa.concat_batches([one.batch for one in scores]).take(pa.array(order)),
            queue=max(one.queue for one in scores),
            # Of a call that rows of others were in as well, their share.
            compute=sum(one.compute * one.batch.num_rows / max(1, one.batch_rows) for one in scores),
            batch_rows=max(one.batch_rows for one in scores),
        )
