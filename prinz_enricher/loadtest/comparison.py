"""Whether an answer is the one that the same rows had before.

The same means: equal, save floating point numbers, which may differ as rounding does: a matrix product adds in another
order for one row than for the many that a server puts together. Far below any difference of two rows' scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2

TOLERANCE: Final = {"doubles": 1e-9, "floats": 1e-4}
"""How far apart two numbers may be, relative to the greater."""

_ARROW_TOLERANCE: Final = {pa.float64(): 1e-9, pa.float32(): 1e-4, pa.float16(): 1e-2}


def same_response(expected: pb.ScoreResponse, answer: pb.ScoreResponse) -> bool:
    """Tell whether two answers hold the same scores: as many rows, the same columns, the same values."""
    form = expected.WhichOneof("output")
    if form != answer.WhichOneof("output"):
        return False
    match form:
        case "columns":
            return _same_columns(expected.columns, answer.columns)
        case "dense":
            return _same_dense(expected.dense, answer.dense)
        case "arrow_stream":
            return _same_streams(expected.arrow_stream, answer.arrow_stream)
    return True


def same_rows(expected: pb.ScoreResponse, answer: pb.ScoreResponse) -> bool:
    """Tell whether two answers have the same form and as many rows, whatever their scores are."""
    form = expected.WhichOneof("output")
    if form != answer.WhichOneof("output"):
        return False
    match form:
        case "columns":
            return expected.columns.num_rows == answer.columns.num_rows
        case "dense":
            return expected.dense.num_rows == answer.dense.num_rows
        case "arrow_stream":
            return _stream_rows(expected.arrow_stream) == _stream_rows(answer.arrow_stream)
    return True


def same_batch(expected: pa.RecordBatch | pa.Table, answer: pa.RecordBatch | pa.Table) -> bool:
    """Tell whether two batches hold the same rows."""
    if expected.num_rows != answer.num_rows or expected.schema.names != answer.schema.names:
        return False
    return all(_same_array(one, other) for one, other in zip(expected.columns, answer.columns, strict=True))


def _same_columns(expected: value_pb2.ColumnBatch, answer: value_pb2.ColumnBatch) -> bool:
    if expected == answer:
        return True
    if expected.num_rows != answer.num_rows or len(expected.columns) != len(answer.columns):
        return False
    return all(_same_column(one, other) for one, other in zip(expected.columns, answer.columns, strict=True))


def _same_column(expected: value_pb2.Column, answer: value_pb2.Column) -> bool:
    kind = expected.WhichOneof("values")
    if (expected.name, expected.validity, kind) != (answer.name, answer.validity, answer.WhichOneof("values")):
        return False
    if kind is None:
        return True
    one, other = getattr(expected, kind).values, getattr(answer, kind).values
    if kind in TOLERANCE:
        return _close(one, other, TOLERANCE[kind])
    if kind == "nested":
        return len(one) == len(other) and all(map(_same_value, one, other))
    return bool(one == other)


def _same_value(expected: value_pb2.Value, answer: value_pb2.Value) -> bool:
    kind = expected.WhichOneof("kind")
    if kind != answer.WhichOneof("kind"):
        return False
    match kind:
        case "double_value":
            # Also for MLflow's float, whose values travel so.
            return _close([expected.double_value], [answer.double_value], TOLERANCE["floats"])
        case "list_value":
            ones, others = expected.list_value.values, answer.list_value.values
            return len(ones) == len(others) and all(map(_same_value, ones, others))
        case "record_value":
            fields, got = expected.record_value.fields, answer.record_value.fields
            return fields.keys() == got.keys() and all(_same_value(fields[key], got[key]) for key in fields)
    return expected == answer


def _same_dense(expected: value_pb2.DenseBatch, answer: value_pb2.DenseBatch) -> bool:
    if expected.num_rows != answer.num_rows or len(expected.values) != len(answer.values):
        return False
    # A float32 of an output travels as a float64 too.
    one, other = np.frombuffer(expected.values, "<f8"), np.frombuffer(answer.values, "<f8")
    return expected.values == answer.values or _close(one, other, TOLERANCE["floats"])


def _same_streams(expected: bytes, answer: bytes) -> bool:
    if expected == answer:
        return True
    try:
        return same_batch(pa.ipc.open_stream(expected).read_all(), pa.ipc.open_stream(answer).read_all())
    except (pa.ArrowException, OSError, ValueError):
        return False


def _stream_rows(stream: bytes) -> int | None:
    try:
        return sum(int(batch.num_rows) for batch in pa.ipc.open_stream(stream))
    except (pa.ArrowException, OSError, ValueError):
        return None


def _same_array(expected: pa.Array, answer: pa.Array) -> bool:
    if expected.type != answer.type or expected.null_count != answer.null_count:
        return False
    tolerance = _ARROW_TOLERANCE.get(expected.type)
    if tolerance is not None:
        return _close(np.asarray(expected), np.asarray(answer), tolerance)
    if pa.types.is_list(expected.type) or pa.types.is_fixed_size_list(expected.type):
        return _same_lists(expected, answer)
    return bool(expected.equals(answer))


def _same_lists(expected: pa.Array, answer: pa.Array) -> bool:
    if isinstance(expected, pa.ChunkedArray):
        expected, answer = (pa.concat_arrays([pa.nulls(0, one.type), *one.chunks]) for one in (expected, answer))
    if not expected.is_null().equals(answer.is_null()):
        return False
    sizes = not pa.types.is_list(expected.type) or expected.value_lengths().equals(answer.value_lengths())
    return sizes and _same_array(expected.flatten(), answer.flatten())


def _close(
    expected: Sequence[float] | npt.NDArray[np.float64], answer: Sequence[float] | npt.NDArray[np.float64], near: float
) -> bool:
    if len(expected) != len(answer):
        return False
    if len(expected) == 1:
        one, other = expected[0], answer[0]
        return math.isclose(one, other, rel_tol=near) or (math.isnan(one) and math.isnan(other))
    a, b = np.asarray(expected, np.float64), np.asarray(answer, np.float64)
    with np.errstate(all="ignore"):
        # An infinite bound would hold for any number.
        bound = near * np.maximum(np.abs(a), np.abs(b))
        right = (np.abs(a - b) <= bound) & np.isfinite(bound)
    return bool(np.all(right | (a == b) | (np.isnan(a) & np.isnan(b))))
