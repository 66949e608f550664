"""Serialised batches in parts, of which the large ones are the memory of the columns themselves.

Joined, they are what protobuf writes, save that each large value is copied once instead of four times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch.dense import dense_matrix, encode_dense
from prinz_enricher.batch.encode import encode_columns, packed_floats
from prinz_enricher.batch.wire import prefix
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import AnyValue, Field
from prinz_enricher.signature.arrow import is_any

Part: TypeAlias = bytes | pa.Buffer
"""What has a length and gives its memory."""

_LARGE: Final = 4096
"""Rows from which a batch is written in parts; a smaller one is quicker written by protobuf."""

_COLUMNS: Final = value_pb2.ColumnBatch.DESCRIPTOR.fields_by_name["columns"].number
_DENSE_VALUES: Final = value_pb2.DenseBatch.DESCRIPTOR.fields_by_name["values"].number
_FLOATS: Final = {
    type: value_pb2.Column.DESCRIPTOR.fields_by_name[kind].number
    for type, kind in ((pa.float64(), "doubles"), (pa.float32(), "floats"), (pa.float16(), "floats"))
}
_PACKED: Final = value_pb2.DoubleValues.DESCRIPTOR.fields_by_name["values"].number


def column_parts(batch: pa.RecordBatch, fields: Sequence[Field] | None = None) -> list[Part]:
    """Write a batch as a serialised `ColumnBatch`.

    Args:
        batch: As `encode_columns` takes it.
        fields: Likewise.

    Returns:
        Parts that together are the message.

    Raises:
        InvalidInput: As `encode_columns` does.
    """
    if batch.num_rows < _LARGE:
        return [encode_columns(batch, fields).SerializeToString()]
    types = batch.schema.types
    declared = {field.name: isinstance(field.type, AnyValue) for field in fields or ()}
    floats = [
        place
        for place, field in enumerate(batch.schema)
        if types[place] in _FLOATS and not declared.get(field.name, is_any(field))
    ]
    others = encode_columns(batch.select([place for place in range(len(types)) if place not in floats]), fields)
    left = iter(others.columns)
    parts: list[Part] = [value_pb2.ColumnBatch(num_rows=batch.num_rows).SerializeToString()]
    for place, name in enumerate(batch.schema.names):
        if place in floats:
            parts += _floats(name, _FLOATS[types[place]], packed_floats(batch.column(place)))
        else:
            column = next(left).SerializeToString()
            parts += (prefix(_COLUMNS, len(column)), column)
    return parts


def _floats(name: str, kind: int, values: npt.NDArray[Any]) -> list[Part]:
    packed = prefix(_PACKED, values.nbytes)
    head = value_pb2.Column(name=name).SerializeToString() + prefix(kind, len(packed) + values.nbytes) + packed
    return [prefix(_COLUMNS, len(head) + values.nbytes) + head, pa.py_buffer(values)]


def dense_parts(batch: pa.RecordBatch) -> list[Part] | None:
    """Write a batch as a serialised `DenseBatch`.

    Args:
        batch: As `encode_dense` takes it.

    Returns:
        Parts that together are the message; None where `encode_dense` gives none.
    """
    if batch.num_rows < _LARGE:
        message = encode_dense(batch)
        return None if message is None else [message.SerializeToString()]
    matrix = dense_matrix(batch)
    if matrix is None:
        return None
    rows = value_pb2.DenseBatch(num_rows=batch.num_rows).SerializeToString()
    return [rows, prefix(_DENSE_VALUES, matrix.nbytes), pa.py_buffer(matrix)]
