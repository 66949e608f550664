"""Which jobs may share a model call."""

from __future__ import annotations

import itertools

import pyarrow as pa

from prinz_enricher.scoring.ports import Job, Target
from prinz_enricher.scoring.queue import Pending, concat_jobs, lane_of
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature

OPTIONAL = Signature(
    (Field("a", Scalar(ScalarKind.DOUBLE), required=False), Field("b", Scalar(ScalarKind.LONG), required=False)),
    (Field("y", Scalar(ScalarKind.DOUBLE)),),
)


def job(batch: pa.RecordBatch, **params: object) -> Job:
    """Make a job of a model all of whose inputs are optional."""
    return Job(Target("optional", "1", "http://registry", OPTIONAL), batch, params, None, lambda _: None)


def batch_of(*names: str, null: bool = False) -> pa.RecordBatch:
    """Make two rows that have some of the columns."""
    columns = {"a": pa.array([1.0, None if null else 2.0]), "b": pa.array([1, None if null else 2], pa.int64())}
    rows = pa.StructArray.from_arrays([columns[name] for name in names], names=list(names))
    if not names:
        rows = pa.array([{}, {}], pa.struct([]))
    return pa.RecordBatch.from_struct_array(rows)


def test_jobs_of_one_lane_can_be_put_together() -> None:
    """Whichever optional columns are left out, all of them too: those with the same lane have the same columns."""
    shapes = [(), ("a",), ("b",), ("a", "b")]
    jobs = [job(batch_of(*names, null=null)) for names in shapes for null in (False, True)]
    for one, other in itertools.product(jobs, jobs):
        if lane_of(one) == lane_of(other):
            joined = concat_jobs([Pending(one, "1"), Pending(other, "2")])
            assert joined.num_rows == 4
            assert joined.schema.equals(one.batch.schema)
    assert len({lane_of(one) for one in jobs}) == 7


def test_other_parameters_are_another_lane() -> None:
    """1, 1.0 and True are equal to Python and not to a model."""
    lanes = {lane_of(job(batch_of("a"), p=value)) for value in (1, 1.0, True, "1", None)}
    assert len(lanes) == 5
