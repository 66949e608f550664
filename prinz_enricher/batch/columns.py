"""Columns of the wire: checked and decoded into an Arrow record batch, and encoded from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch import violation
from prinz_enricher.batch.coerce_arrays import coerce
from prinz_enricher.batch.coerce_values import NotJson, coerce_values
from prinz_enricher.batch.json_texts import json_texts
from prinz_enricher.batch.layout import (
    FIXED_KINDS,
    MAX_COLUMNS,
    TEXT_KINDS,
    TOO_MANY_COLUMNS,
    Layout,
    any_fields,
    input_layout,
    record_batch,
)
from prinz_enricher.batch.primitive_arrays import coerce_instant, filled, null_mask, numbers
from prinz_enricher.batch.python_values import NotOnWire, python_values
from prinz_enricher.batch.read_bounds import NESTED, ReadBounds
from prinz_enricher.batch.violation import FieldPath, Violations, column_path, refusal
from prinz_enricher.batch.wire import COLUMNS, MANY_ROWS, Part, prefix
from prinz_enricher.contract import value_pb2
from prinz_enricher.ipc.fields import is_any
from prinz_enricher.signature import AnyValue, Field, Signature, Type, arrow_field, from_value
from prinz_enricher.signature.value import TooDeep, fill_value

# In which a null is NaN.
_FLOAT_KINDS: Final = frozenset({"doubles", "floats"})
_FIELD_NUMBERS: Final = {name: field.number for name, field in value_pb2.Column.DESCRIPTOR.fields_by_name.items()}
_VALUES: Final = value_pb2.DoubleValues.DESCRIPTOR.fields_by_name["values"].number

_WIRE_KINDS: Final[dict[int, str]] = {
    **{type.id: kind for kind, (_, type) in FIXED_KINDS.items()},
    **{type.id: "int64s" for type in (pa.uint32(), pa.uint64())},
    **{type.id: "int32s" for type in (pa.int16(), pa.int8(), pa.uint16(), pa.uint8())},
    **{type.id: "strings" for type in (pa.utf8(), pa.large_utf8())},
    **{type.id: "binaries" for type in (pa.binary(), pa.large_binary(), pa.binary(1))},
    pa.float16().id: "floats",
}
# Bytes that a column counts as beside its values: what it costs to read even an empty one.
_COLUMN: Final = 64
# Bytes of each text or binary value, on average, from which they are not copied one by one.
_LONG: Final = 4096
_BLANKS: Final[dict[str, object]] = {"strings": "", "binaries": b""}
_MAX_INT64: Final = np.iinfo(np.int64).max


def decode_columns(
    message: value_pb2.ColumnBatch,
    signature: Signature,
    views: Mapping[int, memoryview] | None = None,
    bounds: ReadBounds | None = None,
) -> pa.RecordBatch:
    """Check the columns of a request, in any order, and bring them to the types of a signature's inputs.

    Where it declares no inputs, columns of any name are accepted, as values of any type. `views` has, by place in the
    message, the packed values of columns that lack them, as `view_columns` returns them.

    The batch has the columns in the signature's order and with exactly the types of `input_schema`, without optional
    ones that were left out; it has `message.num_rows` rows also where it has no columns. Viewed values of just the
    wanted type are not copied, so they may lie at any byte. Raises InvalidInput with every violation, and as `bounds`
    do.
    """
    layout = input_layout(signature)
    rows = message.num_rows
    if rows == 1 and layout.one_row is not None and (batch := layout.one_row.decode(message)) is not None:
        return batch
    if rows < 0:
        raise refusal("num_rows", "is negative")
    if len(message.columns) > max(MAX_COLUMNS, len(layout.fields)):
        raise refusal("columns", TOO_MANY_COLUMNS)
    violations = Violations(bounds)
    violations.bounds.take(_COLUMN * len(message.columns))
    columns: dict[str, tuple[value_pb2.Column, memoryview | None]] = {}
    for place, column in enumerate(message.columns):
        if column.name in columns:
            violations.add(column_path(column.name), violation.DUPLICATE)
        columns[column.name] = column, views.get(place) if views else None
    if layout.fields:
        batch = _decode_declared(columns, rows, layout, violations)
    else:
        arrays = [
            _decode_column(column, view, AnyValue(), False, rows, violations) for column, view in columns.values()
        ]
        batch = None if violations else record_batch(arrays, Layout(any_fields(columns)).schema, rows)
    violations.raise_any()
    return batch


def _decode_declared(
    columns: Mapping[str, tuple[value_pb2.Column, memoryview | None]], rows: int, layout: Layout, violations: Violations
) -> pa.RecordBatch:
    arrays, present = [], []
    for place, field in enumerate(layout.fields):
        if field.name in columns:
            column, view = columns[field.name]
            present.append(place)
            kind = layout.kinds[place]
            whole = not column.validity or (len(column.validity) == (rows + 7) // 8 and layout.takes_null[place])
            if kind is not None and rows and whole:
                held = _held(column, kind, view)
                if len(held) == rows:
                    arrays.append(_wire_array(kind, held, column.validity, rows, nan=kind in _FLOAT_KINDS))
                    continue
            arrays.append(_decode_column(column, view, field.type, field.required, rows, violations))
        elif field.required:
            violations.add(column_path(field.name), violation.MISSING_COLUMN)
    if len(columns) > len(present):
        for name in columns:
            if name not in layout.by_name:
                violations.add(column_path(name), violation.UNKNOWN_COLUMN)
    return None if violations else record_batch(arrays, layout.schema_of(present), rows)


def _held(column: value_pb2.Column, kind: str, view: memoryview | None) -> Any:
    """Return the values of a column; of another kind than is set, it reads as empty."""
    if view is None or not column.HasField(kind):
        return getattr(column, kind).values
    return np.frombuffer(view, FIXED_KINDS[kind][0])


def _decode_column(
    column: value_pb2.Column, view: memoryview | None, type: Type, required: bool, rows: int, violations: Violations
) -> pa.Array:
    path = column_path(column.name)
    kind = column.WhichOneof("values")
    if kind is None:
        if rows == 0:
            return coerce(pa.nulls(0), type, required, path, violations)
        violations.add(path, "has no values")
        return None
    values = _held(column, kind, view)
    if len(values) != rows:
        violations.add(path, f"has {len(values)} values, but num_rows is {rows}")
        return None
    validity = column.validity
    if validity and len(validity) != (rows + 7) // 8:
        violations.add(path, f"has a validity of {len(validity)} bytes; wanted {(rows + 7) // 8}")
        return None
    if kind == "nested":
        violations.bounds.take(NESTED * column.ByteSize())
        held = [_read_nested(value) for value in violations.bounds.watched(values)]
        if validity:
            nulls = _null_mask(validity, rows).tolist()
            held = [None if null else value for value, null in zip(held, nulls, strict=True)]
        return coerce_values(held, type, required, path, violations)
    if view is not None:
        # Arrow computes on what is to be changed, and values are aligned for that.
        values = values.copy()
    array = _wire_array(kind, values, validity, rows)
    if isinstance(type, AnyValue):
        return _any_array(array, kind, path, violations)
    return coerce(array, type, required, path, violations)


def _read_nested(value: value_pb2.Value) -> object:
    try:
        return from_value(value)
    except TooDeep as exc:
        return exc


def _wire_array(kind: str, values: Any, validity: bytes, rows: int, *, nan: bool = False) -> pa.Array:
    """Return an array of a column's values; with `nan`, NaN stands for its nulls."""
    if kind in TEXT_KINDS:
        return pa.array(list(values), TEXT_KINDS[kind], mask=_null_mask(validity, rows) if validity else None)
    dtype, arrow_type = FIXED_KINDS[kind]
    # np.array copies the memory of a container of protobuf's at once; a list or an iterator goes value by value.
    held = values if isinstance(values, np.ndarray) else np.array(values if rows != 1 else (values[0],), dtype)
    if kind == "bools":
        held = np.packbits(held, bitorder="little")
    elif validity and nan:
        held = np.where(_null_mask(validity, rows), dtype(np.nan), held)
        validity = b""
    return pa.Array.from_buffers(arrow_type, rows, [pa.py_buffer(validity) if validity else None, pa.py_buffer(held)])


def _null_mask(validity: bytes, rows: int) -> npt.NDArray[np.bool_]:
    nulls: npt.NDArray[np.bool_] = np.unpackbits(np.frombuffer(validity, np.uint8), count=rows, bitorder="little") == 0
    return nulls


def _any_array(array: pa.Array, kind: str, path: str, violations: Violations) -> pa.Array:
    """Write the values of a column as JSON. Text is a string here, not JSON as in an Arrow column."""
    if kind == "strings":
        return json_texts(array, FieldPath(path, violations))
    if kind not in {"binaries", "timestamps"}:
        return coerce(array, AnyValue(), False, path, violations)
    violations.add(path, violation.BINARY_IN_ANY if kind == "binaries" else violation.INSTANT_IN_ANY)
    return None


def encode_columns(batch: pa.RecordBatch, fields: Sequence[Field] | None = None) -> value_pb2.ColumnBatch:
    """Write a batch as columns of the wire, in its order: a client's inputs, or a model's outputs.

    It is of the types that `arrow_type` returns, and has the metadata that `arrow_field` returns, save for columns that
    are among the fields.

    Raises InvalidInput where a value has no form on the wire: a timestamp finer than microseconds, a whole number
    beyond 64 bits with sign, or a column of an Arrow type that `arrow_type` never returns.
    """
    message = value_pb2.ColumnBatch(num_rows=batch.num_rows)
    violations = Violations()
    declared = {field.name: field for field in fields or ()}
    add = message.columns.add
    for held, array in zip(batch.schema, batch.columns, strict=True):
        column = add(name=held.name)
        field = arrow_field(declared[held.name]) if held.name in declared else held
        if is_any(field) or pa.types.is_nested(array.type) or pa.types.is_null(array.type):
            _write_nested(column, array, field, violations)
        else:
            _write_column(column, array, violations)
    violations.raise_any()
    return message


def column_parts(batch: pa.RecordBatch, fields: Sequence[Field] | None = None) -> list[Part]:
    """Write a batch as `encode_columns` does, serialised in parts, of which the large ones are the columns' own memory.

    Joined, they are what protobuf writes, save that each large value is copied once instead of four times.
    """
    if batch.num_rows < MANY_ROWS and not has_long_values(batch):
        return [encode_columns(batch, fields).SerializeToString()]
    schema = batch.schema
    declared = {field.name: isinstance(field.type, AnyValue) for field in fields or ()}
    viewed: dict[int, bytes] = {}
    values: dict[int, list[Part]] = {}
    for place, (field, array) in enumerate(zip(schema, batch.columns, strict=True)):
        kind = _WIRE_KINDS.get(array.type.id, "")
        parts = None if declared.get(field.name, is_any(field)) else _value_parts(kind, array)
        if parts is not None:
            column = value_pb2.Column(name=field.name, validity=b"" if kind in _FLOAT_KINDS else _validity(array))
            viewed[place] = column.SerializeToString() + prefix(_FIELD_NUMBERS[kind], sum(map(len, parts)))
            values[place] = parts
    others = encode_columns(batch.select([place for place in range(len(schema)) if place not in viewed]), fields)
    left = iter(others.columns)
    written: list[Part] = [value_pb2.ColumnBatch(num_rows=batch.num_rows).SerializeToString()]
    for place in range(len(schema)):
        head = viewed[place] if place in viewed else next(left).SerializeToString()
        more = values.get(place, [])
        written += (prefix(COLUMNS, len(head) + sum(map(len, more))), head, *more)
    return written


def has_long_values(batch: pa.RecordBatch) -> bool:
    """Return whether any column may have values so long that each copy of them takes time."""
    return bool(batch.nbytes > batch.num_rows * _LONG)


def _value_parts(kind: str, array: pa.Array) -> list[Part] | None:
    """Write the values of a column in parts; None where protobuf is as quick."""
    if kind in _FLOAT_KINDS and len(array) >= MANY_ROWS:
        floats = _packed_floats(array)
        return [prefix(_VALUES, floats.nbytes), pa.py_buffer(floats)]
    if kind not in _BLANKS or pa.types.is_fixed_size_binary(array.type) or array.nbytes <= len(array) * _LONG:
        return None
    try:
        # protobuf refuses text that is not UTF-8.
        array.validate(full=True)
    except pa.ArrowInvalid:
        return None
    nulls = null_mask(array)
    width = np.int64 if array.type in {pa.large_utf8(), pa.large_binary()} else np.int32
    _, offsets, memory = array.buffers()
    ends = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].tolist()
    parts: list[Part] = []
    for place, (start, end) in enumerate(pairwise(ends)):
        size = 0 if nulls is not None and nulls[place] else end - start
        parts += (prefix(_VALUES, size), memory.slice(start, size))
    return parts


def _validity(array: pa.Array) -> bytes:
    nulls = null_mask(array)
    return b"" if nulls is None else np.packbits(~nulls, bitorder="little").tobytes()


def _packed_floats(array: pa.Array) -> npt.NDArray[Any]:
    """Return float32, or float64 as they are: their memory is their packed form."""
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    values = numbers(array)
    nulls = null_mask(array)
    # A null is written as NaN, which decoding makes of it anyway.
    return values if nulls is None else np.where(nulls, np.array(np.nan, values.dtype), values)


def _write_column(column: value_pb2.Column, array: pa.Array, violations: Violations) -> None:
    kind = _WIRE_KINDS.get(array.type.id)
    if kind is None:
        violations.add(column_path(column.name), violation.OTHER_TYPE)
        return
    held = getattr(column, kind)
    if kind in _FLOAT_KINDS and len(array) == 1 and array.null_count == 0:
        held.values.append(array[0].as_py())
        return
    if kind in _FLOAT_KINDS:
        _fill_packed(held, _packed_floats(array))
        return
    held.SetInParent()
    if kind == "timestamps":
        array = coerce_instant(array, pa.timestamp("us"), False, FieldPath(column_path(column.name), violations))
    if kind in _BLANKS:
        nulls, listed = null_mask(array), array.to_pylist()
        held.values.extend(listed if nulls is None else [_BLANKS[kind] if one is None else one for one in listed])
    else:
        values, nulls = filled(array)
        if values.dtype == np.uint64 and len(values) and values.max() > _MAX_INT64:
            path = FieldPath(column_path(column.name), violations)
            path.refuse_where(values > _MAX_INT64, violation.OUT_OF_RANGE.format("long"))
        elif kind == "bools":
            # A boolean is one byte of 0 or 1 in memory and in the packed form.
            _fill_packed(held, values)
        else:
            held.values.extend(values.tolist())
    if nulls is not None:
        column.validity = np.packbits(~nulls, bitorder="little").tobytes()


def _fill_packed(held: Any, values: npt.NDArray[Any]) -> None:
    held.SetInParent()
    # The packed form is just the memory of the values; filling the field from a list or an array goes value by value.
    if len(values):
        held.MergeFromString(prefix(_VALUES, values.nbytes) + np.ascontiguousarray(values).tobytes())


def _write_nested(column: value_pb2.Column, array: pa.Array, field: pa.Field, violations: Violations) -> None:
    path = column_path(column.name)
    column.nested.SetInParent()
    add = column.nested.values.add
    try:
        values = python_values(array, field)
    except (NotOnWire, NotJson) as exc:
        violations.add(path, str(exc))
        return
    for row, value in enumerate(values):
        try:
            fill_value(add(), value)
        except ValueError as exc:
            violations.add(f"{path}[{row}]", str(exc))
