"""Whether an answer has the scores that the same rows had before the test.

Floating point numbers may differ as rounding does: a matrix product adds in another order for one row than for the many
that a server puts together. All else must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import value_pb2

_DOUBLE: Final = 1e-9
"""How far apart two doubles may be, relative to the greater."""
_FLOAT: Final = 1e-4
"""The same for floats, also for those that travel as doubles: in the dense form and in nested values."""
_ARROW_TOLERANCES: Final = {pa.float64(): _DOUBLE, pa.float32(): _FLOAT, pa.float16(): 1e-2}


def same_row_count(expected: pb.ScoreResponse, answer: pb.ScoreResponse) -> bool:
    """Return whether two answers have the same form and number of rows."""
    return _form_and_rows(expected) == _form_and_rows(answer)


def same_response(expected: pb.ScoreResponse, answer: pb.ScoreResponse) -> bool:
    """Return whether two answers have the same form, number of rows, columns and scores."""
    form = expected.WhichOneof("output")
    if form != answer.WhichOneof("output"):
        return False
    if form is None or getattr(expected, form) == getattr(answer, form):
        return True
    if form == "arrow_stream":
        one, other = _read_stream(expected.arrow_stream), _read_stream(answer.arrow_stream)
        return one is not None and other is not None and same_batch(one, other)
    if getattr(expected, form).num_rows != getattr(answer, form).num_rows:
        return False
    if form == "dense":
        values, got = expected.dense.values, answer.dense.values
        return len(values) == len(got) and _close(np.frombuffer(values, "<f8"), np.frombuffer(got, "<f8"), _FLOAT)
    columns, others = expected.columns.columns, answer.columns.columns
    return len(columns) == len(others) and all(map(_same_column, columns, others))


def same_batch(expected: pa.RecordBatch, answer: pa.RecordBatch) -> bool:
    """Return whether two batches have the same columns and scores."""
    if expected.num_rows != answer.num_rows or expected.schema.names != answer.schema.names:
        return False
    return all(map(_same_array, expected.columns, answer.columns))


def _form_and_rows(response: pb.ScoreResponse) -> tuple[str | None, int]:
    form = response.WhichOneof("output")
    if form == "arrow_stream":
        batch = _read_stream(response.arrow_stream)
        return form, -1 if batch is None else batch.num_rows
    return form, getattr(response, form).num_rows if form else 0


def _read_stream(stream: bytes) -> pa.RecordBatch | None:
    try:
        return pa.concat_batches(list(pa.ipc.open_stream(stream)))
    except (pa.ArrowException, OSError, ValueError):
        return None


def _same_column(expected: value_pb2.Column, answer: value_pb2.Column) -> bool:
    kind = expected.WhichOneof("values")
    if (expected.name, expected.validity, kind) != (answer.name, answer.validity, answer.WhichOneof("values")):
        return False
    if kind is None:
        return True
    values, others = getattr(expected, kind).values, getattr(answer, kind).values
    if kind in {"doubles", "floats"}:
        return _close(values, others, _DOUBLE if kind == "doubles" else _FLOAT)
    if kind == "nested":
        return _same_values(values, others)
    return bool(values == others)


def _same_values(expected: Sequence[value_pb2.Value], answer: Sequence[value_pb2.Value]) -> bool:
    return len(expected) == len(answer) and all(map(_same_value, expected, answer))


def _same_value(expected: value_pb2.Value, answer: value_pb2.Value) -> bool:
    kind = expected.WhichOneof("kind")
    if kind != answer.WhichOneof("kind"):
        return False
    match kind:
        case "double_value":
            return _close([expected.double_value], [answer.double_value], _FLOAT)
        case "list_value":
            return _same_values(expected.list_value.values, answer.list_value.values)
        case "record_value":
            fields, others = expected.record_value.fields, answer.record_value.fields
            return fields.keys() == others.keys() and all(_same_value(fields[key], others[key]) for key in fields)
    return expected == answer


def _same_array(expected: pa.Array, answer: pa.Array) -> bool:
    if expected.type != answer.type or expected.null_count != answer.null_count:
        return False
    tolerance = _ARROW_TOLERANCES.get(expected.type)
    if tolerance is not None:
        return _close(np.asarray(expected), np.asarray(answer), tolerance)
    is_list = pa.types.is_list(expected.type)
    if is_list or pa.types.is_fixed_size_list(expected.type):
        return (
            expected.is_null().equals(answer.is_null())
            and (not is_list or expected.value_lengths().equals(answer.value_lengths()))
            and _same_array(expected.flatten(), answer.flatten())
        )
    return bool(expected.equals(answer))


def _close(expected: Sequence[float] | Any, answer: Sequence[float] | Any, tolerance: float) -> bool:
    if len(expected) != len(answer):
        return False
    if len(expected) == 1:
        one, other = expected[0], answer[0]
        return math.isclose(one, other, rel_tol=tolerance) or (math.isnan(one) and math.isnan(other))
    a, b = np.asarray(expected, np.float64), np.asarray(answer, np.float64)
    with np.errstate(all="ignore"):
        bound = tolerance * np.maximum(np.abs(a), np.abs(b))
        # An infinite bound would hold for any number.
        close = (np.abs(a - b) <= bound) & np.isfinite(bound)
    return bool(np.all(close | (a == b) | (np.isnan(a) & np.isnan(b))))
