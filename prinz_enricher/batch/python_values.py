"""Arrow arrays as Python values, one to one with the wire: instants keep their whole range."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import wanted
from prinz_enricher.batch.any_json import from_json
from prinz_enricher.batch.encoding import amplifies, sound
from prinz_enricher.signature import Micros
from prinz_enricher.signature.arrow import is_any, is_optional

_ABSENT: Final = object()
"""The value of a property that a record lacks."""

_PER_MICROSECOND: Final = {"s": 10**6, "ms": 10**3, "us": 1}


class NotPlain(ValueError):
    """An array of a type that the wire does not have; the text of the error is that of a violation."""


def python_values(array: pa.Array, field: pa.Field | None = None) -> list[object]:
    """Read an array.

    Args:
        array: Of a type that `arrow_type` gives, or of another of the same kind.
        field: Its Arrow field, whose metadata tells JSON text from text.

    Returns:
        A value for each row: None, bool, int, float, str, bytes, `Micros`, or a list or dict of those. The dict of a
        record that lacks an optional property is without it.

    Raises:
        NotPlain: Its type, or a timestamp in it, is none that the wire has; or it has lists of more nulls or empty
            records than its bytes account for.
        NotJson: Text that should be JSON is not.
    """
    array = sound(array)
    types, type = pa.types, array.type
    # The metadata within nested types is that of the schema: arrays are not always built with it.
    declared = type if field is None else field.type
    if types.is_timestamp(type):
        return _instants(array)
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        return _lists(array, declared)
    if types.is_struct(type):
        return _records(array, declared)
    if types.is_map(type):
        return _maps(array, declared)
    if types.is_string(type) and field is not None and is_any(field):
        return [None if text is None else from_json(text) for text in array.to_pylist()]
    if (
        types.is_integer(type)
        or types.is_floating(type)
        or types.is_boolean(type)
        or types.is_string(type)
        or types.is_large_string(type)
        or types.is_binary(type)
        or types.is_large_binary(type)
        or types.is_fixed_size_binary(type)
        or types.is_null(type)
    ):
        values: list[object] = array.to_pylist()
        return values
    raise NotPlain("is of a type that the service does not take")


def _instants(array: pa.Array) -> list[object]:
    counts = array.cast(pa.int64()).to_pylist()
    unit = array.type.unit
    if unit == "ns":
        if any(count is not None and count % 1000 for count in counts):
            raise NotPlain("has digits finer than microseconds")
        return [None if count is None else Micros(count // 1000) for count in counts]
    factor = _PER_MICROSECOND[unit]
    values: list[object] = [None if count is None else Micros(count * factor) for count in counts]
    return values


def _lists(array: pa.Array, declared: pa.DataType) -> list[object]:
    # flatten() leaves out what is under null lists.
    flat = array.flatten()
    if amplifies(len(flat), array.get_total_buffer_size()):
        raise NotPlain(wanted.TOO_LARGE)
    values = python_values(flat, declared.value_field)
    if pa.types.is_fixed_size_list(array.type):
        lengths = [array.type.list_size] * len(array)
    else:
        lengths = np.diff(np.asarray(array.offsets)).tolist()
    read: list[object] = []
    start = 0
    for length, null in zip(lengths, array.is_null().to_pylist(), strict=True):
        read.append(None if null else values[start : start + length])
        start += 0 if null else length
    return read


def _records(array: pa.Array, declared: pa.DataType) -> list[object]:
    names = [field.name for field in array.type]
    # What is under a null record is nobody's value, and need not even be readable.
    present = array.drop_null() if array.null_count else array
    columns = [_property(present.field(index), declared.field(index)) for index in range(len(names))]
    rows = iter(zip(*columns, strict=True) if columns else ((),) * len(present))
    return [None if null else _record(names, next(rows)) for null in array.is_null().to_pylist()]


def _property(array: pa.Array, declared: pa.Field) -> list[object]:
    if not is_optional(declared):
        return python_values(array, declared)
    values = iter(python_values(array.drop_null().field(0), declared.type.field(0)))
    return [_ABSENT if null else next(values) for null in array.is_null().to_pylist()]


def _record(names: list[str], values: tuple[object, ...]) -> dict[str, object]:
    return {name: value for name, value in zip(names, values, strict=True) if value is not _ABSENT}


def _maps(array: pa.Array, declared: pa.DataType) -> list[object]:
    bounds = np.asarray(array.offsets).tolist()
    first = bounds[0] if bounds else 0
    keys = array.keys.slice(first, bounds[-1] - first).to_pylist()
    values = python_values(array.items.slice(first, bounds[-1] - first), declared.item_field)
    return [
        None if null else dict(zip(keys[start - first : end - first], values[start - first : end - first], strict=True))
        for null, (start, end) in zip(array.is_null().to_pylist(), pairwise(bounds), strict=True)
    ]
