"""Arrow record batches into columns of the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch import wanted
from prinz_enricher.batch.any_json import NotJson
from prinz_enricher.batch.faults import Faults, column_path
from prinz_enricher.batch.instant import coerce_instant
from prinz_enricher.batch.number import null_mask, numbers
from prinz_enricher.batch.place import ColumnPlace
from prinz_enricher.batch.python_values import NotPlain, python_values
from prinz_enricher.batch.wire import prefix
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Field, arrow_field
from prinz_enricher.signature.arrow import is_any
from prinz_enricher.signature.value import fill_value

_FEW: Final = 64
"""Up to how many rows values are appended one by one; beyond it their memory is copied."""

Writer = Callable[[value_pb2.Column, pa.Array, Faults], None]


def encode_columns(batch: pa.RecordBatch, fields: Sequence[Field] | None = None) -> value_pb2.ColumnBatch:
    """Write a batch as columns of the wire: a client's inputs, or a model's outputs.

    Args:
        batch: Of the types that `arrow_type` gives, and with the metadata that `arrow_field` gives.
        fields: What its columns are, by name, where it lacks the metadata.

    Returns:
        The columns, in the batch's order.

    Raises:
        InvalidInput: A value has no form on the wire: a timestamp finer than microseconds, a whole number beyond 64
            bits with sign, or a column of an Arrow type that `arrow_type` never gives.
    """
    message = value_pb2.ColumnBatch(num_rows=batch.num_rows)
    faults = Faults()
    declared = {field.name: field for field in fields or ()}
    add = message.columns.add
    for field, array in zip(batch.schema, batch.columns, strict=True):
        name = field.name
        column = add(name=name)
        told = arrow_field(declared[name]) if name in declared else field
        if is_any(told) or pa.types.is_nested(array.type):
            _write_nested(column, array, told, faults)
            continue
        writer = _WRITERS.get(array.type) or _writer(array.type)
        if writer is None:
            faults.add(column_path(name), wanted.OTHER_TYPE)
        else:
            writer(column, array, faults)
    faults.raise_any()
    return message


def _writer(type: pa.DataType) -> Writer | None:
    types = pa.types
    if types.is_timestamp(type):
        return _write_instants
    if types.is_string(type) or types.is_large_string(type):
        return _write_strings
    if types.is_binary(type) or types.is_large_binary(type) or types.is_fixed_size_binary(type):
        return _write_binaries
    if types.is_null(type):
        return _write_nulls
    return None


def _validity(column: value_pb2.Column, array: pa.Array) -> None:
    nulls = null_mask(array)
    if nulls is not None:
        column.validity = np.packbits(~nulls, bitorder="little").tobytes()


def _floats(kind: str) -> Writer:
    def write(column: value_pb2.Column, array: pa.Array, _faults: Faults) -> None:
        held = getattr(column, kind)
        if len(array) == 1 and array.null_count == 0:
            held.values.append(array[0].as_py())
            return
        held.SetInParent()
        merge_packed(held, packed_floats(array))

    return write


def packed_floats(array: pa.Array) -> npt.NDArray[Any]:
    """Give the values of a floating point column, whose memory is their packed form: float32, or float64 as they are.

    Args:
        array: Of a floating point type.
    """
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    values = numbers(array)
    nulls = null_mask(array)
    # A null is told as NaN, which is what decoding makes of it.
    return values if nulls is None else np.where(nulls, np.array(np.nan, values.dtype), values)


def merge_packed(held: Any, values: np.ndarray[Any, Any]) -> None:
    """Fill a repeated field number 1 whose packed form is just the memory of the values.

    Filling it from a list or an array goes value by value.
    """
    if len(values):
        held.MergeFromString(prefix(1, values.nbytes) + np.ascontiguousarray(values).tobytes())


def _wholes(kind: str) -> Writer:
    limit = np.iinfo(np.int64).max

    def write(column: value_pb2.Column, array: pa.Array, faults: Faults) -> None:
        held = getattr(column, kind)
        held.SetInParent()
        _validity(column, array)
        values = numbers(array)
        nulls = null_mask(array)
        if nulls is not None:
            values = np.where(nulls, np.zeros((), values.dtype), values)
        if values.dtype == np.uint64 and len(values) and values.max() > limit:
            ColumnPlace(column_path(column.name)).refuse(faults, values > limit, wanted.out_of_range("long"))
            return
        held.values.extend(values.tolist())

    return write


def _write_bools(column: value_pb2.Column, array: pa.Array, _faults: Faults) -> None:
    _validity(column, array)
    column.bools.SetInParent()
    values = (array.fill_null(False) if array.null_count else array).to_numpy(zero_copy_only=False)
    # A boolean is one byte of 0 or 1 in memory and in the packed form.
    merge_packed(column.bools, values.astype(np.uint8))


def _write_instants(column: value_pb2.Column, array: pa.Array, faults: Faults) -> None:
    micros = coerce_instant(array, pa.timestamp("us"), False, ColumnPlace(column_path(column.name)), faults)
    _validity(column, micros)
    column.timestamps.SetInParent()
    counts = micros.cast(pa.int64())
    column.timestamps.values.extend((counts.fill_null(0) if counts.null_count else counts).to_pylist())


def _write_strings(column: value_pb2.Column, array: pa.Array, _faults: Faults) -> None:
    _validity(column, array)
    column.strings.SetInParent()
    column.strings.values.extend((array.fill_null("") if array.null_count else array).to_pylist())


def _write_binaries(column: value_pb2.Column, array: pa.Array, _faults: Faults) -> None:
    _validity(column, array)
    column.binaries.SetInParent()
    column.binaries.values.extend([b"" if value is None else value for value in array.to_pylist()])


def _write_nulls(column: value_pb2.Column, array: pa.Array, _faults: Faults) -> None:
    column.nested.SetInParent()
    for _ in range(len(array)):
        column.nested.values.add().null_value = 0  # type: ignore[assignment]  # google.protobuf.NULL_VALUE


def _write_nested(column: value_pb2.Column, array: pa.Array, field: pa.Field, faults: Faults) -> None:
    path = column_path(column.name)
    column.nested.SetInParent()
    add = column.nested.values.add
    try:
        values = python_values(array, field)
    except (NotPlain, NotJson) as exc:
        faults.add(path, str(exc))
        return
    for row, value in enumerate(values):
        try:
            fill_value(add(), value)
        except ValueError as exc:
            faults.add(f"{path}[{row}]", str(exc))


_WRITERS: Final[dict[pa.DataType, Writer]] = {
    pa.float64(): _floats("doubles"),
    pa.float32(): _floats("floats"),
    pa.float16(): _floats("floats"),
    pa.bool_(): _write_bools,
    pa.utf8(): _write_strings,
    **{type: _wholes("int32s") for type in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16())},
    **{type: _wholes("int64s") for type in (pa.int64(), pa.uint32(), pa.uint64())},
}
