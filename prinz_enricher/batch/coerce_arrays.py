"""The coercion policy of the service, for Arrow arrays: into the Arrow type of a signature's field.

Lossless or refused, with one exception: a floating point number into a narrower floating point type is rounded to the
nearest, and only overflow is refused.

- Whole numbers accept any number that survives exactly. NaN and infinity do not, also where the field is optional.
- Floating point numbers accept whole numbers up to 2^53 (double), 2^24 (float) or 2^11 (float16) in magnitude, and
  decimals that they can stand for. A null becomes NaN, required or not: such an array has no nulls.
- Datetime accepts dates, timestamps of any unit and zone, and ISO-8601 text, if exact in microseconds.
- Boolean, string and binary accept only themselves, in any encoding that Arrow has for them.
- A null is accepted where the field is optional, in text, and as a value of any type. Elements of lists and maps, and
  tensors, are always required.
- A null of an optional property means that the record lacks it, since a struct can't distinguish the two.

`coerce_values.py` is the same policy for single values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch import violation
from prinz_enricher.batch.json_texts import check_json, json_texts
from prinz_enricher.batch.primitive_arrays import (
    MAX_BYTES,
    Mask,
    amplifies,
    coerce_instant,
    coerce_number,
    list_lengths,
    list_offsets,
    map_entries,
    null_mask,
    plain_array,
    spread,
    validity,
)
from prinz_enricher.batch.python_values import NotOnWire
from prinz_enricher.batch.violation import FieldPath, Violations
from prinz_enricher.ipc.fields import is_optional
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Record, Scalar, Tensor, Type, arrow_type

_Coerce: TypeAlias = Callable[..., pa.Array]
_Offsets: TypeAlias = npt.NDArray[np.int64]


def coerce(
    array: pa.Array | pa.ChunkedArray, type: Type, required: bool, path: str, violations: Violations
) -> pa.Array:
    """Bring a valid array of any Arrow type to `arrow_type(type)`: `array` itself where nothing is to be done.

    Where there were violations the array is not to be used, and may be None.
    """
    try:
        if isinstance(array, pa.ChunkedArray):
            chunks = array.chunks
            array = chunks[0] if len(chunks) == 1 else pa.concat_arrays([pa.nulls(0, array.type), *chunks])
        return _coerce(array, type, required, FieldPath(path, violations))
    except pa.ArrowException:
        # Arrow has more types than kernels for them.
        violations.add(path, violation.OTHER_TYPE)
        return None


def _coerce(array: pa.Array, type: Type, required: bool, path: FieldPath) -> pa.Array:
    target = arrow_type(type)
    plain = plain_array(array, path)
    if plain is None:
        return None
    if pa.types.is_null(plain.type) and not isinstance(type, Tensor):
        plain = pa.nulls(len(array), target)
    match type:
        case Scalar():
            return _leaf(plain, target, violation.type_name(type), required, path)
        case AnyValue():
            return _any(plain, path)
        case Tensor(_, shape):
            return _tensor(plain, target, shape[1:], violation.type_name(type), path)
        case ListOf(items) if _is_list(plain.type):
            if _is_exact(plain, target):
                _refuse_nulls(plain, required, path)
                return plain
            return _list(plain, target, -1, required, partial(_coerce, type=items, required=True), path)
        case MapOf(values) if pa.types.is_map(plain.type):
            return _map(plain, target, values, required, path)
        case Record() if pa.types.is_struct(plain.type):
            return _record(plain, type, required, path)
    return _refuse_type(plain, violation.type_name(type), path)


def _refuse_type(array: pa.Array, name: str, path: FieldPath) -> pa.Array:
    path.refuse(violation.WRONG_TYPE.format(violation.arrow_name(array.type), name))
    return None


def _is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))


def _leaf(array: pa.Array, target: pa.DataType, name: str, required: bool, path: FieldPath) -> pa.Array:
    types, type = pa.types, array.type
    if types.is_integer(target) or types.is_floating(target):
        if types.is_integer(type) or types.is_floating(type) or types.is_decimal(type):
            return coerce_number(array, target, name, required, path)
    elif types.is_timestamp(target):
        if types.is_string(type) or types.is_timestamp(type) or types.is_date(type):
            return coerce_instant(array, target, required, path)
    elif type == target:
        if required and not types.is_string(target):
            _refuse_nulls(array, True, path)
        return array
    return _refuse_type(array, name, path)


def _refuse_nulls(array: pa.Array, required: bool, path: FieldPath) -> Mask | None:
    """Return which values are null, refused where they are required."""
    nulls = null_mask(array)
    if nulls is not None and required:
        path.refuse_where(nulls, violation.NULL)
    return nulls


def _any(array: pa.Array, path: FieldPath) -> pa.Array:
    if pa.types.is_string(array.type):
        return _any_text(array, path)
    try:
        return json_texts(array, path)
    except NotOnWire as exc:
        path.refuse(str(exc))
        return None


def _any_text(array: pa.Array, path: FieldPath) -> pa.Array:
    """Text holds JSON already, by the table of types; all else is written as JSON."""
    # A null that is written as JSON is a null.
    nulls = check_json(array, path)
    return array if nulls.sum() == array.null_count else pc.if_else(pa.array(~nulls), array, pa.scalar(None, pa.utf8()))


def _list(
    array: pa.Array, target: pa.DataType, size: int, required: bool, coerce_items: _Coerce, path: FieldPath
) -> pa.Array:
    nulls = _refuse_nulls(array, required, path)
    lengths = list_lengths(array, nulls)
    if size >= 0:
        wrong = lengths != size
        if nulls is not None:
            wrong &= ~nulls
        path.refuse_where(wrong, violation.WRONG_SIZE.format(size))
        if wrong.any() or nulls is not None:
            return None
    # Without the values under null lists, and of a slice without those around it.
    values = array.flatten()
    if len(values) > MAX_BYTES or amplifies(len(values), array.get_total_buffer_size()):
        path.refuse(violation.TOO_LARGE)
        return None
    offsets = list_offsets(lengths)
    coerced = coerce_items(values, path=path.elements(offsets))
    if coerced is None:
        return None
    if size < 0:
        return _list_array(offsets, coerced, target, nulls)
    return pa.Array.from_buffers(target, len(array), [None], children=[coerced])


def _list_array(offsets: _Offsets, values: pa.Array, target: pa.DataType, nulls: Mask | None) -> pa.Array:
    held = pa.py_buffer(offsets.astype(np.int32))
    return pa.Array.from_buffers(target, len(offsets) - 1, [validity(nulls), held], children=[values])


def _is_exact(array: pa.Array, target: pa.DataType) -> bool:
    """Return whether a list array needs no work: of the type wanted, with plain elements of which none is null."""
    if array.type != target or not pa.types.is_list(target):
        return False
    leaf = target.value_type
    return bool((pa.types.is_primitive(leaf) or pa.types.is_binary(leaf)) and array.values.null_count == 0)


def _map(array: pa.Array, target: pa.DataType, values: Type, required: bool, path: FieldPath) -> pa.Array:
    nulls = _refuse_nulls(array, required, path)
    offsets, keys, held = map_entries(array, nulls)
    plain = plain_array(keys, path)
    if plain is None:
        return None
    if not pa.types.is_string(plain.type):
        path.refuse("has keys that are not text")
        return None
    rows = np.repeat(np.arange(len(array)), np.diff(offsets))
    unnamed, twice = np.zeros((2, len(array)), np.bool_)
    # Of the entries of a map with the same key all but one.
    _, first = np.unique(
        rows * (len(plain) + 1) + np.asarray(plain.dictionary_encode("encode").indices), return_index=True
    )
    twice[np.delete(rows, first)] = True
    if plain.null_count:
        unnamed[rows[null_mask(plain)]] = True
    path.refuse_where(twice | unnamed, lambda row: violation.NULL_KEY if unnamed[row] else violation.DUPLICATE_KEY)
    coerced = _coerce(held, values, True, path.elements(offsets, plain))
    if coerced is None:
        return None
    entries = pa.StructArray.from_arrays([plain, coerced], fields=[target.key_field, target.item_field])
    return _list_array(offsets, entries, target, nulls)


def _record(array: pa.Array, type: Record, required: bool, path: FieldPath) -> pa.Array:
    nulls = _refuse_nulls(array, required, path)
    given: dict[str, list[int]] = {}
    for place, one in enumerate(array.type):
        given.setdefault(one.name, []).append(place)
    known = {field.name for field in type.fields}
    for name, places in given.items():
        if name not in known:
            path.property(name).refuse(violation.UNKNOWN_PROPERTY)
        elif len(places) > 1:
            path.property(name).refuse(violation.DUPLICATE)
    held = list(arrow_type(type))
    pairs = zip(type.fields, held, strict=True)
    children = [
        _property(array, field, one, given.get(field.name, ()), nulls, path.property(field.name))
        for field, one in pairs
    ]
    if any(child is None for child in children):
        return None
    return pa.StructArray.from_arrays(children, fields=held, mask=None if nulls is None else pa.array(nulls))


def _property(
    array: pa.Array, field: Field, held: pa.Field, places: Sequence[int], nulls: Mask | None, path: FieldPath
) -> pa.Array:
    if len(places) == 1:
        child = plain_array(array.field(places[0]), path)
    elif field.required:
        if not places:
            path.refuse(violation.MISSING_PROPERTY)
        return None
    else:
        child = pa.nulls(len(array))
    if child is None:
        return None
    if field.required:
        return _coerce_present(child, field, nulls, path)
    absent = _either(nulls, child)
    if places and is_optional(array.type.field(places[0])):
        # As batches hold it: what a record has as null is distinct from what it lacks.
        child = child.flatten()[0]
    coerced = _coerce_present(child, field, _either(absent, child), path)
    if coerced is None:
        return None
    mask = None if absent is None else pa.array(absent)
    return pa.StructArray.from_arrays([coerced], fields=list(held.type), mask=mask)


def _either(nulls: Mask | None, array: pa.Array) -> Mask | None:
    more = null_mask(array)
    return more if nulls is None else nulls if more is None else nulls | more


def _coerce_present(array: pa.Array, field: Field, nulls: Mask | None, path: FieldPath) -> pa.Array:
    if nulls is None:
        return _coerce(array, field.type, field.required, path)
    # What is under a null record is nobody's value and is ignored.
    present = np.flatnonzero(~nulls)
    coerced = _coerce(array.take(pa.array(present)), field.type, field.required, path.picked(present))
    if coerced is None:
        return None
    return spread(coerced, present, len(array))


def _tensor(array: pa.Array, target: pa.DataType, shape: tuple[int, ...], name: str, path: FieldPath) -> pa.Array:
    plain = plain_array(array, path)
    if plain is None:
        return None
    if pa.types.is_null(plain.type) and (not shape or len(plain) == 0):
        plain = pa.nulls(len(plain), target)
    if not shape:
        return _leaf(plain, target, name, True, path)
    if pa.types.is_null(plain.type):
        path.refuse_where(np.ones(len(plain), np.bool_), violation.NULL)
        return None
    if not _is_list(plain.type):
        return _refuse_type(plain, name, path)
    coerce_items = partial(_tensor, target=target.value_type, shape=shape[1:], name=name)
    return _list(plain, target, shape[0], True, coerce_items, path)
