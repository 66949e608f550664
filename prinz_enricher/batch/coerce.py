"""Arrow arrays into the Arrow type of a signature's field: the coercion policy of the service.

Lossless or refused, with one exception: a floating point number into a narrower floating point type is rounded to the
nearest, and only overflow is refused.

- Whole numbers take any number that survives exactly. NaN and infinity do not, also where the field is optional.
- Floating point numbers take whole numbers up to 2^53 (double), 2^24 (float) or 2^11 (float16) in magnitude, and
  decimals that they tell. A null becomes NaN, required or not: such an array has no nulls.
- Datetime takes dates, timestamps of any unit and zone, and ISO-8601 text, if exact in microseconds.
- Boolean, string and binary take only themselves, in any encoding that Arrow has for them.
- A null is taken where the field is optional, in text, and as a value of any type. Elements of lists and maps, and
  tensors, are always required.
- A null of an optional property means that the record lacks it, which a struct can't tell otherwise.

`element.py` is the same policy for single values.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch import wanted
from prinz_enricher.batch.any_json import NotJson, from_json
from prinz_enricher.batch.element import Admission
from prinz_enricher.batch.encoding import MAX_BYTES, amplifies, plain_array
from prinz_enricher.batch.faults import Faults
from prinz_enricher.batch.instant import coerce_instant, is_instant
from prinz_enricher.batch.number import coerce_number, is_number, null_mask
from prinz_enricher.batch.place import ColumnPlace, ElementPlace, EntryPlace, Place, PropertyPlace
from prinz_enricher.batch.python_values import NotPlain, python_values
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Record,
    Scalar,
    Tensor,
    Type,
    arrow_type,
)
from prinz_enricher.signature.arrow import is_optional


def coerce(array: pa.Array | pa.ChunkedArray, type: Type, required: bool, path: str, faults: Faults) -> pa.Array:
    """Bring an array to the Arrow type of a signature's field.

    Args:
        array: Of any Arrow type; valid.
        type: The field's type.
        required: Whether the field is required.
        path: The path of the column, such as `columns["alcohol"]`.
        faults: Takes every value that is refused.

    Returns:
        An array of `arrow_type(type)`: `array` itself where nothing is to be done. Where there were faults it is not to
        be used.
    """
    try:
        if isinstance(array, pa.ChunkedArray):
            array = (
                array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays([pa.nulls(0, array.type), *array.chunks])
            )
        return _coerce(array, type, required, ColumnPlace(path), faults)
    except pa.ArrowException:
        # Arrow has more types than kernels for them.
        faults.add(path, wanted.OTHER_TYPE)
        return _refused(array)


def _refused(array: pa.Array) -> pa.Array:
    # Without memory, whatever the length and the wanted type are; what is built around it is given up as well.
    return pa.nulls(len(array))


def _is_refused(array: pa.Array) -> bool:
    return bool(pa.types.is_null(array.type))


def _coerce(array: pa.Array, type: Type, required: bool, place: Place, faults: Faults) -> pa.Array:
    target = arrow_type(type)
    plain = plain_array(array, place, faults)
    if plain is None:
        return _refused(array)
    if pa.types.is_null(plain.type) and not isinstance(type, Tensor):
        plain = pa.nulls(len(array), target)
    match type:
        case Scalar():
            return _leaf(plain, target, wanted.type_name(type), required, place, faults)
        case AnyValue():
            return _any(plain, place, faults)
        case Tensor(_, shape):
            return _tensor(plain, target, shape[1:], wanted.type_name(type), place, faults)
        case ListOf(items):
            if _is_list(plain.type):
                return _list(plain, target, items, required, place, faults)
        case MapOf(values):
            if pa.types.is_map(plain.type):
                return _map(plain, target, values, required, place, faults)
        case Record():
            if pa.types.is_struct(plain.type):
                return _record(plain, type, required, place, faults)
    return _refuse_type(plain, wanted.type_name(type), place, faults)


def _refuse_type(array: pa.Array, name: str, place: Place, faults: Faults) -> pa.Array:
    faults.add(place.whole, wanted.wrong_type(wanted.arrow_name(array.type), name))
    return _refused(array)


def _is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))


def _leaf(array: pa.Array, target: pa.DataType, name: str, required: bool, place: Place, faults: Faults) -> pa.Array:
    if pa.types.is_integer(target) or pa.types.is_floating(target):
        if is_number(array.type):
            return coerce_number(array, target, name, required, place, faults)
    elif pa.types.is_timestamp(target):
        if is_instant(array.type):
            return coerce_instant(array, target, required, place, faults)
    elif array.type == target:
        if required and array.null_count and not pa.types.is_string(target):
            place.refuse(faults, _nulls(array), wanted.NULL)
        return array
    return _refuse_type(array, name, place, faults)


def _nulls(array: pa.Array) -> npt.NDArray[np.bool_]:
    mask = null_mask(array)
    return np.zeros(len(array), np.bool_) if mask is None else mask


def _any(array: pa.Array, place: Place, faults: Faults) -> pa.Array:
    """Text holds JSON already, by the table of types; all else is written as JSON."""
    if pa.types.is_string(array.type):
        return _any_text(array, place, faults)
    written: list[str | None] = []
    try:
        values = python_values(array)
    except NotPlain as exc:
        faults.add(place.whole, str(exc))
        return _refused(array)
    for index, value in enumerate(values):
        written.append(Admission(place.at(index), faults).admit(value, AnyValue(), False))  # type: ignore[arg-type]
    return pa.array(written, pa.utf8())


def _any_text(array: pa.Array, place: Place, faults: Faults) -> pa.Array:
    nulls = np.zeros(len(array), np.bool_)
    for index, text in enumerate(array.to_pylist()):
        try:
            # A null that is written as JSON is a null.
            nulls[index] = text is None or from_json(text) is None
        except NotJson as exc:
            faults.add(place.at(index), str(exc))
    return array if nulls.sum() == array.null_count else pc.if_else(pa.array(~nulls), array, pa.scalar(None, pa.utf8()))


def _required_nulls(array: pa.Array, required: bool, place: Place, faults: Faults) -> npt.NDArray[np.bool_] | None:
    nulls = null_mask(array)
    if nulls is not None and required:
        place.refuse(faults, nulls, wanted.NULL)
    return nulls


def _lengths(array: pa.Array) -> npt.NDArray[np.int64]:
    """The length of each list, 0 for a null one."""
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(len(array), array.type.list_size, np.int64)
    else:
        offsets = np.asarray(array.offsets).astype(np.int64)
        lengths = np.diff(offsets)
    nulls = null_mask(array)
    if nulls is not None:
        lengths = np.where(nulls, 0, lengths)
    return lengths


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _list(array: pa.Array, target: pa.DataType, items: Type, required: bool, place: Place, faults: Faults) -> pa.Array:
    nulls = _required_nulls(array, required, place, faults)
    if _is_exact(array, target):
        return array
    offsets = _offsets(_lengths(array))
    # Without the values under null lists, and of a slice without those around it.
    values = array.flatten()
    if len(values) > MAX_BYTES or amplifies(len(values), array.get_total_buffer_size()):
        faults.add(place.whole, wanted.TOO_LARGE)
        return _refused(array)
    coerced = _coerce(values, items, True, ElementPlace(place, offsets), faults)
    if _is_refused(coerced):
        return _refused(array)
    return _list_array(offsets, coerced, target, nulls)


def _list_array(
    offsets: npt.NDArray[np.int64], values: pa.Array, target: pa.DataType, nulls: npt.NDArray[np.bool_] | None
) -> pa.Array:
    validity = None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little").tobytes())
    held = pa.py_buffer(offsets.astype(np.int32))
    return pa.Array.from_buffers(target, len(offsets) - 1, [validity, held], children=[values])


def _is_exact(array: pa.Array, target: pa.DataType) -> bool:
    """Tell whether a list array needs no work: of the type wanted, with plain elements of which none is null."""
    if array.type != target or not pa.types.is_list(target):
        return False
    leaf = target.value_type
    plain = pa.types.is_primitive(leaf) or pa.types.is_binary(leaf)
    return bool(plain and array.values.null_count == 0)


def _map(array: pa.Array, target: pa.DataType, values: Type, required: bool, place: Place, faults: Faults) -> pa.Array:
    nulls = _required_nulls(array, required, place, faults)
    starts = np.asarray(array.offsets).astype(np.int64)
    lengths = np.diff(starts)
    if nulls is not None:
        lengths = np.where(nulls, 0, lengths)
    offsets = _offsets(lengths)
    if int(starts[-1] - starts[0]) == int(offsets[-1]):
        keys = array.keys.slice(starts[0], offsets[-1])
        held = array.items.slice(starts[0], offsets[-1])
    else:
        taken = np.repeat(starts[:-1] - offsets[:-1], lengths) + np.arange(offsets[-1])
        keys, held = array.keys.take(pa.array(taken)), array.items.take(pa.array(taken))
    plain = plain_array(keys, place, faults)
    if plain is None or not pa.types.is_string(plain.type):
        if plain is not None:
            faults.add(place.whole, "has keys that are not text")
        return _refused(array)
    _unique_keys(plain, offsets, place, faults)
    coerced = _coerce(held, values, True, EntryPlace(place, offsets, plain), faults)
    if _is_refused(coerced):
        return _refused(array)
    entries = pa.StructArray.from_arrays([plain, coerced], fields=[target.key_field, target.item_field])
    return _list_array(offsets, entries, target, nulls)


def _unique_keys(keys: pa.Array, offsets: npt.NDArray[np.int64], place: Place, faults: Faults) -> None:
    texts = keys.to_pylist()
    bounds = offsets.tolist()
    for row, (start, end) in enumerate(pairwise(bounds)):
        of_row = texts[start:end]
        if None in of_row:
            faults.add(place.at(row), wanted.NULL_KEY)
        elif len(set(of_row)) < len(of_row):
            faults.add(place.at(row), wanted.TWICE)


def _record(array: pa.Array, type: Record, required: bool, place: Place, faults: Faults) -> pa.Array:
    nulls = _required_nulls(array, required, place, faults)
    given = [field.name for field in array.type]
    known = {field.name for field in type.fields}
    for name in dict.fromkeys(given):
        if name not in known:
            faults.add(PropertyPlace(place, name).whole, wanted.UNKNOWN_PROPERTY)
        elif given.count(name) > 1:
            faults.add(PropertyPlace(place, name).whole, "is there twice")
    held = list(arrow_type(type))
    children = [
        _property(array, field, one, given, nulls, place, faults) for field, one in zip(type.fields, held, strict=True)
    ]
    if any(map(_is_refused, children)):
        return _refused(array)
    return pa.StructArray.from_arrays(children, fields=held, mask=None if nulls is None else pa.array(nulls))


def _property(
    array: pa.Array,
    field: Field,
    held: pa.Field,
    given: list[str],
    nulls: npt.NDArray[np.bool_] | None,
    place: Place,
    faults: Faults,
) -> pa.Array:
    inner = PropertyPlace(place, field.name)
    if given.count(field.name) == 1:
        child = plain_array(array.field(given.index(field.name)), inner, faults)
    elif field.required:
        if field.name not in given:
            faults.add(inner.whole, wanted.MISSING_PROPERTY)
        return _refused(array)
    else:
        child = pa.nulls(len(array))
    if child is None:
        return _refused(array)
    if field.required:
        return _coerce_present(child, field, nulls, inner, faults)
    absent = _either(nulls, child)
    if field.name in given and is_optional(array.type.field(given.index(field.name))):
        # As batches hold it: what a record has as null is told apart from what it lacks.
        child = child.flatten()[0]
    coerced = _coerce_present(child, field, _either(absent, child), inner, faults)
    if _is_refused(coerced):
        return coerced
    return pa.StructArray.from_arrays(
        [coerced], fields=list(held.type), mask=None if absent is None else pa.array(absent)
    )


def _either(nulls: npt.NDArray[np.bool_] | None, array: pa.Array) -> npt.NDArray[np.bool_] | None:
    more = null_mask(array)
    return more if nulls is None else nulls if more is None else nulls | more


def _coerce_present(
    array: pa.Array, field: Field, nulls: npt.NDArray[np.bool_] | None, place: Place, faults: Faults
) -> pa.Array:
    if nulls is None:
        return _coerce(array, field.type, field.required, place, faults)
    # What is under a null record is nobody's value: it is not looked at.
    present = np.flatnonzero(~nulls)
    coerced = _coerce(array.take(pa.array(present)), field.type, field.required, _Spread(place, present), faults)
    if _is_refused(coerced):
        return _refused(array)
    back = np.full(len(array), -1, np.int64)
    back[present] = np.arange(len(present))
    return coerced.take(pa.array(back, mask=nulls))


class _Spread(Place):
    """Values picked out of an array, at the places that they had there."""

    def __init__(self, parent: Place, indexes: npt.NDArray[np.intp]) -> None:
        self._parent = parent
        self._indexes = indexes

    @property
    def whole(self) -> str:
        """The path of the array as a whole."""
        return self._parent.whole

    def at(self, index: int) -> str:
        """The path of one of its values."""
        return self._parent.at(int(self._indexes[index]))


def _tensor(
    array: pa.Array,
    target: pa.DataType,
    shape: tuple[int, ...],
    name: str,
    place: Place,
    faults: Faults,
) -> pa.Array:
    plain = plain_array(array, place, faults)
    if plain is None:
        return _refused(array)
    if pa.types.is_null(plain.type) and (not shape or len(plain) == 0):
        plain = pa.nulls(len(plain), target)
    if not shape:
        return _leaf(plain, target, name, True, place, faults)
    if pa.types.is_null(plain.type):
        place.refuse(faults, np.ones(len(plain), np.bool_), wanted.NULL)
        return _refused(array)
    if not _is_list(plain.type):
        return _refuse_type(plain, name, place, faults)
    nulls = _required_nulls(plain, True, place, faults)
    lengths = _lengths(plain)
    size = shape[0]
    if size >= 0:
        wrong = lengths != size
        if nulls is not None:
            wrong &= ~nulls
        place.refuse(faults, wrong, wanted.wrong_size(size))
        if wrong.any() or nulls is not None:
            return _refused(array)
    offsets = _offsets(lengths)
    values = plain.flatten()
    if len(values) > MAX_BYTES or amplifies(len(values), plain.get_total_buffer_size()):
        faults.add(place.whole, wanted.TOO_LARGE)
        return _refused(array)
    coerced = _tensor(values, target.value_type, shape[1:], name, ElementPlace(place, offsets), faults)
    if _is_refused(coerced):
        return _refused(array)
    if size < 0:
        return _list_array(offsets, coerced, target, nulls)
    return pa.Array.from_buffers(target, len(array), [None], children=[coerced])
