"""Several jobs in one model call: put together, and each given its own rows of the answer."""

from __future__ import annotations

from collections.abc import Hashable

import pyarrow as pa

from prinz_enricher.scoring.ports import Job, Scores
from prinz_enricher.scoring.queue.pending import Pending
from prinz_enricher.signature import AnyValue, ListOf, MapOf, Origin, Record, Signature, Tensor, Type


def can_share(signature: Signature) -> bool:
    """Tell whether rows of several callers can be put together without a change of what the model sees of each.

    What an `any` becomes, or a tensor whose rows have any size, depends on all the rows of a call.
    """
    return signature.origin is not Origin.MISSING and all(_is_settled(field.type) for field in signature.inputs)


_PLAIN = (None, (), "")
"""The lane of jobs with all columns, no nulls and no parameters."""


def lane_of(job: Job) -> Hashable:
    """Tell apart jobs that can't share a call: other parameters, other columns, or other columns with nulls.

    A column of whole numbers is another one to a model as soon as one of them is missing. The text of the parameters
    tells 1 from 1.0 and True, which are equal to Python.
    """
    if not job.nulls and not job.params:
        return _PLAIN
    batch = job.batch
    columns = None if batch.num_columns == len(job.target.signature.inputs) else tuple(batch.schema.names)
    nulls = tuple(i for i, column in enumerate(batch.columns) if column.null_count)
    return (columns, nulls, repr(sorted(job.params.items())) if job.params else "")


def _is_settled(type: Type) -> bool:
    if isinstance(type, ListOf):
        return _is_settled(type.items)
    if isinstance(type, MapOf):
        return _is_settled(type.values)
    if isinstance(type, Record):
        return all(_is_settled(field.type) for field in type.fields)
    if isinstance(type, Tensor):
        return all(size >= 0 for size in type.shape[1:])
    return not isinstance(type, AnyValue)


def together(jobs: list[Pending]) -> pa.RecordBatch:
    """Put the rows of jobs of one lane into one batch, in their order."""
    return jobs[0].job.batch if len(jobs) == 1 else pa.concat_batches([pending.job.batch for pending in jobs])


def apart(jobs: list[Pending], batch: pa.RecordBatch, began: float, compute: float) -> list[Scores]:
    """Give each job its rows of the answer.

    Args:
        jobs: As they were put together.
        batch: The answer, with as many rows as they have.
        began: When the model call began, by `time.monotonic()`.
        compute: Seconds that it took.
    """
    if len(jobs) == 1:
        return [Scores(batch, began - jobs[0].taken, compute, batch.num_rows)]
    shares, start = [], 0
    for pending in jobs:
        shares.append(Scores(batch.slice(start, pending.rows), began - pending.taken, compute, batch.num_rows))
        start += pending.rows
    return shares


def singles(jobs: list[Pending]) -> list[Pending]:
    """Give each call of some jobs as a job of its own, but for jobs that have their answer."""
    return [
        part
        for pending in jobs
        for part in (pending.apart() if pending.job.calls > 1 and not pending.answered else (pending,))
    ]


def halves(jobs: list[Pending]) -> tuple[list[Pending], list[Pending]]:
    """Cut jobs that failed together in two, to find the one that is at fault."""
    middle = len(jobs) // 2
    return jobs[:middle], jobs[middle:]
