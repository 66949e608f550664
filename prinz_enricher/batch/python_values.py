"""Arrow arrays as Python values, one to one with the wire: instants keep their whole range."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import violation
from prinz_enricher.batch.coerce_values import from_json
from prinz_enricher.batch.primitive_arrays import NANOSECONDS, amplifies, sound
from prinz_enricher.ipc.fields import is_any, is_optional
from prinz_enricher.signature import Micros

# In place of a property that a record lacks.
_ABSENT: Final = object()

_PLAIN_TYPES: Final = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null()),
    *(pa.utf8(), pa.large_utf8(), pa.binary(), pa.large_binary(), pa.binary(1)),
)
# The types whose values are the wire's as pyarrow reads them.
PLAIN_TYPES: Final = frozenset(type.id for type in _PLAIN_TYPES)


class NotOnWire(ValueError):
    """An array of a type that the wire does not have; the text of the error is that of a violation."""


def python_values(array: pa.Array, field: pa.Field | None = None) -> list[object]:
    """Read an array of a type that `arrow_type` returns, or of another of the same kind.

    There is a value for each row: None, bool, int, float, str, bytes, `Micros`, or a list or dict of those, in which
    optional properties that a record lacks are not. The metadata of its field distinguishes JSON text from text.

    Raises NotOnWire where the wire does not have its type or a timestamp in it, or it has lists of more nulls or empty
    records than its bytes account for; NotJson where text that should be JSON is not.
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
    if type.id in PLAIN_TYPES:
        values: list[object] = array.to_pylist()
        return values
    raise NotOnWire(violation.OTHER_TYPE)


def _instants(array: pa.Array) -> list[object]:
    counts = array.cast(pa.int64()).to_pylist()
    nanoseconds = NANOSECONDS[array.type.unit]
    if nanoseconds == 1 and any(count is not None and count % 1000 for count in counts):
        raise NotOnWire(violation.TOO_FINE)
    return [None if count is None else Micros(count * nanoseconds // 1000) for count in counts]


def _lists(array: pa.Array, declared: pa.DataType) -> list[object]:
    # flatten() leaves out what is under null lists.
    flat = array.flatten()
    if amplifies(len(flat), array.get_total_buffer_size()):
        raise NotOnWire(violation.TOO_LARGE)
    values = python_values(flat, declared.value_field)
    if pa.types.is_fixed_size_list(array.type):
        lengths = [array.type.list_size] * len(array)
    else:
        lengths = np.diff(np.asarray(array.offsets)).tolist()
    rest, nulls = iter(values), array.is_null().to_pylist()
    return [None if null else list(islice(rest, length)) for length, null in zip(lengths, nulls, strict=True)]


def _records(array: pa.Array, declared: pa.DataType) -> list[object]:
    names = [field.name for field in array.type]
    # What is under a null record is nobody's value, and need not even be readable.
    present = array.drop_null() if array.null_count else array
    columns = [_property(present.field(index), declared.field(index)) for index in range(len(names))]
    rows: Iterator[tuple[object, ...]] = iter(zip(*columns, strict=True) if columns else ((),) * len(present))
    return [
        None if null else {name: one for name, one in zip(names, next(rows), strict=True) if one is not _ABSENT}
        for null in array.is_null().to_pylist()
    ]


def _property(array: pa.Array, declared: pa.Field) -> list[object]:
    if not is_optional(declared):
        return python_values(array, declared)
    values = iter(python_values(array.drop_null().field(0), declared.type.field(0)))
    return [_ABSENT if null else next(values) for null in array.is_null().to_pylist()]


def _maps(array: pa.Array, declared: pa.DataType) -> list[object]:
    bounds = np.asarray(array.offsets).tolist()
    first = bounds[0] if bounds else 0
    keys = array.keys.slice(first, bounds[-1] - first).to_pylist()
    values = python_values(array.items.slice(first, bounds[-1] - first), declared.item_field)
    return [
        None if null else dict(zip(keys[start - first : end - first], values[start - first : end - first], strict=True))
        for null, (start, end) in zip(array.is_null().to_pylist(), pairwise(bounds), strict=True)
    ]
