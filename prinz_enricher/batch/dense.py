"""The dense form of a batch: one row-major matrix of float64, for signatures of numbers and booleans only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch import wanted
from prinz_enricher.batch.faults import Faults, column_path, refusal
from prinz_enricher.batch.layout import input_layout, record_batch
from prinz_enricher.batch.number import coerce_number, null_mask, number_array, numbers
from prinz_enricher.batch.place import ColumnPlace
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Field, Signature, arrow_field

EXACT: Final = 2**53
"""Up to here in magnitude a float64 tells every whole number; beyond it, it may be another one rounded."""

_BLOCK: Final = 1 << 20
"""Bytes of rows that are turned into columns at a time: so many stay in a processor's cache."""

_BLOCK_ROWS: Final = 512
"""Rows that are so at the least, however wide they are: a column is written that far in one go."""


def dense_inputs(signature: Signature) -> bool:
    """Tell whether a signature's inputs can be sent in the dense form: they are numbers and booleans, at least one."""
    return _dense_inputs(signature)


def dense_outputs(fields: Sequence[Field]) -> bool:
    """Tell whether some outputs can be answered in the dense form: they are numbers and booleans, at least one."""
    return _dense(fields)


@lru_cache(maxsize=256)
def _dense_inputs(signature: Signature) -> bool:
    return _dense(signature.inputs)


def _dense(fields: Iterable[Field]) -> bool:
    types = [arrow_field(field).type for field in fields]
    return bool(types) and all(_is_dense(type) for type in types)


def _is_dense(type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_boolean(type))


def decode_dense(message: value_pb2.DenseBatch, signature: Signature, view: memoryview | None = None) -> pa.RecordBatch:
    """Check the dense form of a request and bring it to the types of a signature's inputs.

    Args:
        message: `num_rows` rows of one float64 for each input, row-major.
        signature: Of the model.
        view: The values where the message is without them, as `view_dense` gives them.

    Returns:
        All inputs, with exactly the types of `input_schema`.

    Raises:
        InvalidInput: With every fault of the batch; also where the signature has inputs that are no numbers.
    """
    if not dense_inputs(signature):
        raise refusal("dense", "needs a signature of numbers and booleans only")
    layout = input_layout(signature)
    rows, width = message.num_rows, len(layout.fields)
    if rows < 0:
        raise refusal("dense.num_rows", "is negative")
    # protobuf copies its own each time that it is asked.
    values = message.values if view is None else view
    if len(values) != 8 * rows * width:
        raise refusal("dense.values", f"has {len(values)} bytes; wanted {8 * rows * width}")
    if rows == 1 and layout.one_row is not None and layout.all_doubles:
        return layout.one_row.of_doubles(values)
    matrix = np.frombuffer(values, "<f8").reshape(rows, width)
    # Turned block by block, which a processor's cache holds; each column is a view of the whole.
    columns = np.empty((width, rows))
    block = max(_BLOCK_ROWS, _BLOCK // (8 * width))
    for start in range(0, rows, block):
        columns[:, start : start + block] = matrix[start : start + block].T
    faults = Faults()
    arrays = [
        _decode(columns[place], field, layout.schema.field(place).type, faults)
        for place, field in enumerate(layout.fields)
    ]
    faults.raise_any()
    return record_batch(arrays, layout.schema, rows)


def _decode(values: npt.NDArray[np.float64], field: Field, target: pa.DataType, faults: Faults) -> pa.Array:
    if target == pa.float64():
        return number_array(values, target, None)
    place = ColumnPlace(column_path(field.name))
    name = wanted.type_name(field.type)
    nulls = None
    if not pa.types.is_floating(target):
        missing = np.isnan(values)
        nulls = missing if missing.any() else None
    if pa.types.is_boolean(target):
        return _booleans(values, nulls, field.required, place, faults)
    if pa.types.is_integer(target):
        blurred = np.isfinite(values) & (np.abs(values) > EXACT)
        if blurred.any():
            place.refuse(faults, blurred, "is beyond 2^53, which the dense form can't tell exactly")
            values = np.where(blurred, 0.0, values)
    return coerce_number(number_array(values, pa.float64(), nulls), target, name, field.required, place, faults)


def _booleans(
    values: npt.NDArray[np.float64],
    nulls: npt.NDArray[np.bool_] | None,
    required: bool,
    place: ColumnPlace,
    faults: Faults,
) -> pa.Array:
    true = values == 1.0
    wrong = ~(true | (values == 0.0))
    if nulls is not None:
        wrong &= ~nulls
        if required:
            place.refuse(faults, nulls, wanted.NULL)
    if wrong.any():
        place.refuse(faults, wrong, "is neither 0 nor 1, as a boolean is")
    return pa.array(true, pa.bool_(), mask=nulls)


def encode_dense(batch: pa.RecordBatch) -> value_pb2.DenseBatch | None:
    """Write a batch in the dense form.

    Args:
        batch: Of any columns.

    Returns:
        The dense form; None where it would not tell each value exactly, so that columns are to be sent: it has a column
        that is neither of numbers nor of booleans, or a whole number beyond 2^53, or no column at all.
    """
    matrix = dense_matrix(batch)
    if matrix is None:
        return None
    return value_pb2.DenseBatch(num_rows=batch.num_rows, values=matrix.tobytes())


def dense_matrix(batch: pa.RecordBatch) -> npt.NDArray[np.float64] | None:
    """Give the values of the dense form.

    Args:
        batch: Of any columns.

    Returns:
        Shape (rows, columns), row-major and little-endian; the very memory of a single column where that is what it
        holds. None where `encode_dense` gives none.
    """
    if batch.num_columns == 0 or not all(_is_dense(type) for type in batch.schema.types):
        return None
    columns = []
    for array in batch.columns:
        values = _encode(array)
        if values is None:
            return None
        columns.append(values)
    if len(columns) == 1:
        return columns[0].reshape(-1, 1).astype("<f8", copy=False)
    return np.stack(columns, axis=1).astype("<f8", copy=False)


def _encode(array: pa.Array) -> npt.NDArray[Any] | None:
    nulls = null_mask(array)
    if pa.types.is_boolean(array.type):
        values: npt.NDArray[Any] = (array.fill_null(False) if nulls is not None else array).to_numpy(
            zero_copy_only=False
        )
    else:
        values = numbers(array)
        if nulls is not None:
            values = np.where(nulls, np.zeros((), values.dtype), values)
        whole = values.dtype.kind in "iu" and values.dtype.itemsize == 8 and len(values) > 0
        if whole and (values.max() > EXACT or values.min() < -EXACT):
            return None
    values = values.astype(np.float64, copy=False)
    return values if nulls is None else np.where(nulls, np.nan, values)
