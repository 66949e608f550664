"""Columns of the wire into a checked Arrow record batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch import wanted
from prinz_enricher.batch.any_json import write_json
from prinz_enricher.batch.coerce import coerce
from prinz_enricher.batch.faults import Faults, column_path, refusal
from prinz_enricher.batch.layout import Layout, input_layout, record_batch
from prinz_enricher.batch.nested import nested_array
from prinz_enricher.batch.one_row import OneRow
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import AnyValue, Field, Signature, Type

_NUMBERS: Final[dict[str, tuple[Any, pa.DataType]]] = {
    "doubles": (np.float64, pa.float64()),
    "floats": (np.float32, pa.float32()),
    "int64s": (np.int64, pa.int64()),
    "int32s": (np.int32, pa.int32()),
    "timestamps": (np.int64, pa.timestamp("us")),
}
_DTYPES: Final = {kind: dtype for kind, (dtype, _) in _NUMBERS.items()} | {"bools": np.bool_}
_TEXTS: Final[dict[str, pa.DataType]] = {"strings": pa.utf8(), "binaries": pa.binary()}
_FLOATS: Final = frozenset({"doubles", "floats"})
"""In which a null is NaN."""

_NONE_YET: Final = object()


def decode_columns(
    message: value_pb2.ColumnBatch, signature: Signature, views: Mapping[int, memoryview] | None = None
) -> pa.RecordBatch:
    """Check the columns of a request and bring them to the types of a signature's inputs.

    Args:
        message: Columns in any order.
        signature: Of the model. Where it declares no inputs, columns of any name are taken, as values of any type.
        views: By its place in `message.columns`: the packed values of a column that is without them in the message, as
            `view_columns` gives them.

    Returns:
        The columns in the signature's order and with exactly the types of `input_schema`; an optional column that was
        left out is left out here too. It has `message.num_rows` rows, also where it has no columns. Viewed values of
        just the wanted type are not copied, so they may lie at any byte.

    Raises:
        InvalidInput: With every fault of the batch.
    """
    layout = input_layout(signature)
    if message.num_rows == 1 and layout.one_row is not None:
        batch = layout.one_row.read(message)
        if batch is None:
            batch = _decode_one_row(message, layout.one_row)
        if batch is not None:
            return batch
    rows = message.num_rows
    if rows < 0:
        raise refusal("num_rows", "is negative")
    faults = Faults()
    columns = _by_name(message, faults)
    viewed = _views_by_name(message, views) if views else {}
    if layout.fields:
        batch = _decode_declared(columns, viewed, rows, layout, faults)
    else:
        batch = _decode_any(columns, viewed, rows, faults)
    faults.raise_any()
    return batch


def _decode_one_row(message: value_pb2.ColumnBatch, one_row: OneRow) -> pa.RecordBatch | None:
    """Decode one row of columns in any order, each of just its type; None where anything is otherwise."""
    values = one_row_values(message, one_row)
    return None if values is None else one_row.batch(values)


def one_row_values(message: value_pb2.ColumnBatch, one_row: OneRow) -> list[object] | None:
    """Read one row of columns in any order, each of just its type.

    Args:
        message: Of one row.
        one_row: Of the signature's layout.

    Returns:
        The values in the signature's order, None for nulls; None where anything is otherwise, which is
        `decode_columns`' to judge.
    """
    places = one_row.places
    columns = message.columns
    if len(columns) != len(places):
        return None
    values: list[object] = [_NONE_YET] * len(places)
    for column in columns:
        found = places.get(column.name)
        if found is None:
            return None
        place, kind = found
        # Of another kind than is set, a column reads as empty.
        held = getattr(column, kind).values
        if len(held) != 1 or values[place] is not _NONE_YET:
            return None
        validity = column.validity
        if not validity or (len(validity) == 1 and validity[0] & 1):
            values[place] = held[0]
        elif len(validity) == 1 and one_row.takes_null[place]:
            values[place] = math.nan if kind in _FLOATS else None
        else:
            return None
    return values


def _by_name(message: value_pb2.ColumnBatch, faults: Faults) -> dict[str, value_pb2.Column]:
    columns: dict[str, value_pb2.Column] = {}
    for column in message.columns:
        if column.name in columns:
            faults.add(column_path(column.name), "is there twice")
        columns[column.name] = column
    return columns


def _views_by_name(message: value_pb2.ColumnBatch, views: Mapping[int, memoryview]) -> dict[str, memoryview | None]:
    # Of a name that is there twice the last one counts, as in `_by_name`.
    return {column.name: views.get(place) for place, column in enumerate(message.columns)}


def _decode_declared(
    columns: Mapping[str, value_pb2.Column],
    views: Mapping[str, memoryview | None],
    rows: int,
    layout: Layout,
    faults: Faults,
) -> pa.RecordBatch:
    arrays, present = [], []
    for place, field in enumerate(layout.fields):
        column = columns.get(field.name)
        if column is not None:
            present.append(place)
            kind = layout.kinds[place]
            view = views.get(field.name)
            whole = not column.validity or (len(column.validity) == (rows + 7) // 8 and layout.takes_null[place])
            if kind is not None and rows and whole:
                held = _held(column, kind, view)
                if len(held) == rows:
                    arrays.append(_wire_array(kind, held, column.validity, rows, nan=kind in _FLOATS))
                    continue
            arrays.append(_decode_column(column, view, field.type, field.required, rows, faults))
        elif field.required:
            faults.add(column_path(field.name), "is missing, but the column is required")
    if len(columns) > len(present):
        for name in columns:
            if name not in layout.by_name:
                faults.add(column_path(name), "is no column of this model")
    if faults:
        return None
    return record_batch(arrays, layout.schema_of(present), rows)


def _decode_any(
    columns: Mapping[str, value_pb2.Column], views: Mapping[str, memoryview | None], rows: int, faults: Faults
) -> pa.RecordBatch:
    arrays = [
        _decode_column(column, views.get(name), AnyValue(), False, rows, faults) for name, column in columns.items()
    ]
    if faults:
        return None
    return record_batch(arrays, Layout(any_fields(columns)).schema, rows)


def any_fields(names: Iterable[str]) -> tuple[Field, ...]:
    """Give optional fields of any type: the columns of a model without a signature."""
    return tuple(Field(name, AnyValue(), required=False) for name in names)


def _held(column: value_pb2.Column, kind: str, view: memoryview | None) -> Any:
    """Give the values of a column; of another kind than is set, it reads as empty."""
    if view is None or not column.HasField(kind):
        return getattr(column, kind).values
    return np.frombuffer(view, _DTYPES[kind])


def _decode_column(
    column: value_pb2.Column, view: memoryview | None, type: Type, required: bool, rows: int, faults: Faults
) -> pa.Array:
    path = column_path(column.name)
    kind = column.WhichOneof("values")
    if kind is None:
        if rows == 0:
            return coerce(pa.nulls(0), type, required, path, faults)
        faults.add(path, "has no values")
        return None
    values = _held(column, kind, view)
    if len(values) != rows:
        faults.add(path, f"has {len(values)} values, but num_rows is {rows}")
        return None
    validity = column.validity
    if validity and len(validity) != (rows + 7) // 8:
        faults.add(path, f"has a validity of {len(validity)} bytes; wanted {(rows + 7) // 8}")
        return None
    if kind == "nested":
        return nested_array(values, validity, type, required, path, faults)
    if view is not None:
        # Arrow computes on what is to be changed, and values are aligned for that.
        values = values.copy()
    array = _wire_array(kind, values, validity, rows)
    if isinstance(type, AnyValue):
        return _any_array(array, kind, path, faults)
    return coerce(array, type, required, path, faults)


def _wire_array(kind: str, values: Any, validity: bytes, rows: int, *, nan: bool = False) -> pa.Array:
    """Make an array of a column's values; with `nan`, NaN stands for its nulls."""
    if kind in _NUMBERS:
        dtype, arrow_type = _NUMBERS[kind]
        if isinstance(values, np.ndarray):
            held = values
        else:
            # Of a container of protobuf's, np.array copies the memory at once; a list or an iterator goes value by
            # value.
            held = np.array(values, dtype) if rows != 1 else np.array((values[0],), dtype)
        if validity and nan:
            held = np.where(_null_mask(validity, rows), dtype(np.nan), held)
            validity = b""
        buffer = pa.py_buffer(validity) if validity else None
        return pa.Array.from_buffers(arrow_type, rows, [buffer, pa.py_buffer(held)])
    if kind == "bools":
        bits = np.packbits(np.array(values, np.bool_), bitorder="little")
        return pa.Array.from_buffers(
            pa.bool_(), rows, [pa.py_buffer(validity) if validity else None, pa.py_buffer(bits)]
        )
    return pa.array(list(values), _TEXTS[kind], mask=_null_mask(validity, rows) if validity else None)


def _null_mask(validity: bytes, rows: int) -> npt.NDArray[np.bool_]:
    nulls: npt.NDArray[np.bool_] = np.unpackbits(np.frombuffer(validity, np.uint8), count=rows, bitorder="little") == 0
    return nulls


def _any_array(array: pa.Array, kind: str, path: str, faults: Faults) -> pa.Array:
    """Write the values of a column as JSON. Text is a string here, not JSON as in an Arrow column."""
    if kind == "binaries":
        faults.add(path, wanted.BINARY_IN_ANY)
    elif kind == "timestamps":
        faults.add(path, wanted.INSTANT_IN_ANY)
    elif kind == "strings":
        return pa.array([None if text is None else write_json(text) for text in array.to_pylist()], pa.utf8())
    else:
        return coerce(array, AnyValue(), False, path, faults)
    return None
