"""The dense form of a batch: one row-major matrix of float64, for signatures of numbers and booleans only."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch import violation
from prinz_enricher.batch.layout import input_layout, record_batch
from prinz_enricher.batch.primitive_arrays import DTYPES, EXACT_BITS, coerce_number, filled, number_array
from prinz_enricher.batch.read_bounds import ReadBounds
from prinz_enricher.batch.violation import FieldPath, Violations, column_path, refusal
from prinz_enricher.batch.wire import DENSE_VALUES, MANY_ROWS, Part, prefix
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Field, Signature, input_schema

_EXACT: Final = 1 << EXACT_BITS[pa.float64()]
_DENSE: Final = frozenset(type.id for type in (*DTYPES, pa.bool_()))
# Bytes of rows that are turned into columns at a time: so many stay in a processor's cache.
_BLOCK: Final = 1 << 20
_BLOCK_ROWS: Final = 512
"""Rows that are turned at the least, however wide they are."""


@lru_cache(maxsize=256)
def dense_inputs(signature: Signature) -> bool:
    """Return whether a signature's inputs can be sent in the dense form: numbers and booleans, at least one."""
    return _is_dense(input_schema(signature))


def _is_dense(schema: pa.Schema) -> bool:
    return len(schema) > 0 and all(type.id in _DENSE for type in schema.types)


def decode_dense(
    message: value_pb2.DenseBatch,
    signature: Signature,
    view: memoryview | None = None,
    bounds: ReadBounds | None = None,
) -> pa.RecordBatch:
    """Check the dense form of a request and bring it to exactly the types of `input_schema`.

    It has `num_rows` rows of one float64 for each input, row-major: in the message, or in the view of `view_dense`.
    Raises InvalidInput with every violation; also where the signature has inputs that are not numbers, and as
    `bounds` do.
    """
    if not dense_inputs(signature):
        raise refusal("dense", "needs a signature of numbers and booleans only")
    layout = input_layout(signature)
    rows, width = message.num_rows, len(layout.fields)
    if rows < 0:
        raise refusal("dense.num_rows", "is negative")
    # protobuf copies its own at each access.
    values = message.values if view is None else view
    if len(values) != 8 * rows * width:
        raise refusal("dense.values", f"has {len(values)} bytes; wanted {8 * rows * width}")
    if rows == 1 and layout.one_row is not None and layout.all_doubles:
        return layout.one_row.of_doubles(values)
    violations = Violations(bounds)
    violations.bounds.take(len(values))
    matrix = np.frombuffer(values, "<f8").reshape(rows, width)
    # Turned block by block, which a processor's cache holds; each column is a view of the whole.
    columns = np.empty((width, rows))
    block = max(_BLOCK_ROWS, _BLOCK // (8 * width))
    for start in range(0, rows, block):
        columns[:, start : start + block] = matrix[start : start + block].T
    inputs = zip(columns, layout.fields, layout.schema.types, strict=True)
    arrays = [_decode(values, field, type, violations) for values, field, type in inputs]
    violations.raise_any()
    return record_batch(arrays, layout.schema, rows)


def _decode(values: npt.NDArray[np.float64], field: Field, target: pa.DataType, violations: Violations) -> pa.Array:
    if target == pa.float64():
        return number_array(values, target, None)
    path = FieldPath(column_path(field.name), violations)
    nulls = None if pa.types.is_floating(target) or not (missing := np.isnan(values)).any() else missing
    if pa.types.is_boolean(target):
        true = values == 1.0
        wrong = ~(true | (values == 0.0))
        if nulls is not None:
            wrong &= ~nulls
            if field.required:
                path.refuse_where(nulls, violation.NULL)
        path.refuse_where(wrong, "is neither 0 nor 1, as a boolean is")
        return pa.array(true, pa.bool_(), mask=nulls)
    if pa.types.is_integer(target):
        blurred = np.isfinite(values) & (np.abs(values) > _EXACT)
        if blurred.any():
            path.refuse_where(blurred, "is beyond 2^53, which the dense form can't tell exactly")
            values = np.where(blurred, 0.0, values)
    held = number_array(values, pa.float64(), nulls)
    return coerce_number(held, target, violation.type_name(field.type), field.required, path)


def encode_dense(batch: pa.RecordBatch) -> value_pb2.DenseBatch | None:
    """Write a batch of any columns in the dense form; None where that would not hold each value exactly.

    So where it has a column that is neither of numbers nor of booleans, or a whole number beyond 2^53, or no column.
    """
    matrix = _matrix(batch)
    return None if matrix is None else value_pb2.DenseBatch(num_rows=batch.num_rows, values=matrix.tobytes())


def dense_parts(batch: pa.RecordBatch) -> list[Part] | None:
    """Write a batch as `encode_dense` does, serialised in parts, of which the large one is a matrix's memory."""
    if batch.num_rows < MANY_ROWS:
        message = encode_dense(batch)
        return None if message is None else [message.SerializeToString()]
    matrix = _matrix(batch)
    if matrix is None:
        return None
    rows = value_pb2.DenseBatch(num_rows=batch.num_rows).SerializeToString()
    return [rows, prefix(DENSE_VALUES, matrix.nbytes), pa.py_buffer(matrix)]


def _matrix(batch: pa.RecordBatch) -> npt.NDArray[np.float64] | None:
    """Return the values of shape (rows, columns), row-major and little-endian; of a single column its very memory."""
    if not _is_dense(batch.schema):
        return None
    columns: list[npt.NDArray[np.float64]] = []
    for array in batch.columns:
        values, nulls = filled(array)
        is_long = values.dtype.kind in "iu" and values.dtype.itemsize == 8 and len(values) > 0
        if is_long and (values.max() > _EXACT or values.min() < -_EXACT):
            return None
        with np.errstate(invalid="ignore"):
            # Of floats a signalling NaN becomes a quiet one.
            values = values.astype(np.float64, copy=False)
        columns.append(values if nulls is None else np.where(nulls, np.nan, values))
    matrix = columns[0].reshape(-1, 1) if len(columns) == 1 else np.stack(columns, axis=1)
    return matrix.astype("<f8", copy=False)
