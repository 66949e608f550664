"""Arrow arrays of any type as JSON texts, all values at once: what `write_json` writes of each value by itself."""

from __future__ import annotations

from functools import partial
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch import violation
from prinz_enricher.batch.coerce_values import from_json, write_json
from prinz_enricher.batch.primitive_arrays import (
    MAX_BYTES,
    Mask,
    amplifies,
    filled,
    list_lengths,
    list_offsets,
    map_entries,
    null_mask,
    plain_array,
    read_texts,
    sound,
    spread,
)
from prinz_enricher.batch.python_values import PLAIN_TYPES, NotOnWire
from prinz_enricher.batch.read_bounds import CHUNK, ReadBounds
from prinz_enricher.batch.violation import FieldPath
from prinz_enricher.ipc.fields import is_any, is_nested, is_optional
from prinz_enricher.signature.value import MAX_DEPTH, TOO_DEEP

_Places: TypeAlias = npt.NDArray[np.int64]

_OFFSET: Final = 4
_NUMBER: Final = 24
"""Bytes of a number's text at most, about."""

_ESCAPED: Final = r'["\\\x00-\x1f]'
_ESCAPES: Final = {chr(code): write_json(chr(code))[1:-1] for code in (*b'\\"', *range(32))}
"""What JSON escapes, the backslash first: the others bring in more of them."""

# Arrow writes doubles in these bounds as Python does, save that it leaves out the fraction of a whole number.
_LEAST, _MOST = 1e-4, 1e10
# JSON that certainly can be read, and is not null: numbers that do not overflow, and text without escapes.
_PLAIN_JSON: Final = r'^(-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?|"[^"\\\x00-\x1f]*"|true|false)$'


def json_texts(array: pa.Array, path: FieldPath) -> pa.Array:
    """Write each value of a valid array as JSON text; a null stays one. What JSON can't hold is refused at its path.

    Raises NotOnWire where no value of its type can be read, or there are more than its bytes account for.
    """
    _check_type(array.type, MAX_DEPTH)
    return _write(array, None, path, MAX_DEPTH)


def check_json(array: pa.Array, path: FieldPath) -> Mask:
    """Refuse each text that is not JSON, and return which of the texts are null, or write a null."""
    nulls = null_mask(array)
    nulls = np.zeros(len(array), np.bool_) if nulls is None else nulls
    plain = pc.fill_null(pc.match_substring_regex(array, _PLAIN_JSON), True)
    places = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    if len(places):
        is_null, which = read_texts(
            array.take(pa.array(places)), path.picked(places), lambda text: from_json(text) is None
        )
        nulls[places] = np.array(is_null, np.bool_)[np.asarray(which)]
    return nulls


def _rewritten(text: str, levels: int) -> str | None:
    value = from_json(text, levels)
    return None if value is None else write_json(value)


def _check_type(type: pa.DataType, levels: int) -> None:
    """Raise NotOnWire for a type that has no values on the wire, or has more levels than they may."""
    types = pa.types
    lists = types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type)
    if lists or types.is_struct(type) or types.is_map(type):
        if not levels:
            raise NotOnWire(TOO_DEEP)
        # Not the keys of a map, which are refused where there are any.
        for field in [type.item_field] if types.is_map(type) else map(type.field, range(type.num_fields)):
            _check_type(field.type, levels - 1)
    elif not (types.is_timestamp(type) or type.id in PLAIN_TYPES):
        raise NotOnWire(violation.OTHER_TYPE)


def _write(array: pa.Array, field: pa.Field | None, path: FieldPath, levels: int) -> pa.Array:
    """Write values of a field, which have so many levels at the most."""
    array = sound(array)
    types, type, bounds = pa.types, array.type, path.violations.bounds
    if types.is_null(type):
        return pa.nulls(len(array), pa.utf8())
    if types.is_struct(type):
        return _records(array, path, levels)
    if types.is_map(type):
        return _maps(array, path, levels)
    if is_nested(type):
        return _lists(array, path, levels)
    if types.is_string(type) or types.is_large_string(type):
        if field is not None and is_any(field):
            written, which = read_texts(array, path, partial(_rewritten, levels=levels))
            return pa.array(written, pa.utf8()).take(which)
        bounds.take(_bytes_of(array) + (_OFFSET + 2) * len(array))
        return _quoted(array.cast(pa.utf8()))
    if types.is_floating(type):
        bounds.take((_OFFSET + _NUMBER) * len(array))
        return _float_texts(array.cast(pa.float64()), bounds)
    if types.is_integer(type) or types.is_boolean(type):
        bounds.take((_OFFSET + 1 + 3 * type.bit_width // 8) * len(array))
        return array.cast(pa.utf8())
    held = violation.INSTANT_IN_ANY if types.is_timestamp(type) else violation.BINARY_IN_ANY
    path.refuse_where(array.is_valid().to_numpy(zero_copy_only=False), held)
    return pa.nulls(len(array), pa.utf8())


def _part(array: pa.Array, field: pa.Field, path: FieldPath, levels: int) -> pa.Array:
    return pc.fill_null(_write(array, field, path, levels - 1), "null")


def _records(array: pa.Array, path: FieldPath, levels: int) -> pa.Array:
    if array.null_count:
        # What is under a null record is nobody's value, and need not even be readable.
        places = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
        return spread(_records(array.take(pa.array(places)), path.picked(places), levels), places, len(array))
    # Of those with the same name the last one counts.
    fields = sorted({field.name: (field, place) for place, field in enumerate(array.type)}.items())
    pieces: list[pa.Array | str] = []
    for name, (field, place) in fields:
        child, key, within = array.field(place), f",{write_json(name)}:", path.entry(name)
        if is_optional(field):
            held = np.flatnonzero(child.is_valid().to_numpy(zero_copy_only=False))
            child = child.take(pa.array(held)).field(0)
            texts = spread(_part(child, field.type.field(0), within.picked(held), levels), held, len(array))
            pieces.append(pc.fill_null(_joined(key, texts), ""))
        else:
            texts = _part(child, field, within, levels)
            pieces += (key, texts)
        path.violations.bounds.take(_bytes_of(texts) + len(array) * (len(key.encode()) + _OFFSET))
    if not pieces:
        return pa.repeat("{}", len(array))
    # Whichever property is the first one of its record begins with a comma.
    return _joined("{", pc.utf8_slice_codeunits(_joined(*pieces), 1), "}")


def _lists(array: pa.Array, path: FieldPath, levels: int) -> pa.Array:
    nulls = null_mask(array)
    # flatten() leaves out what is under null lists.
    flat = array.flatten()
    if len(flat) > MAX_BYTES or amplifies(len(flat), array.get_total_buffer_size()):
        raise NotOnWire(violation.TOO_LARGE)
    offsets = list_offsets(list_lengths(array, nulls))
    texts = _part(flat, array.type.value_field, path.elements(offsets), levels)
    return _bracketed("[", texts, offsets, nulls, "]", path)


def _maps(array: pa.Array, path: FieldPath, levels: int) -> pa.Array:
    nulls = null_mask(array)
    offsets, keys, items = map_entries(array, nulls)
    plain = plain_array(keys, path)
    if plain is None or not (pa.types.is_string(plain.type) or len(plain) == 0) or plain.null_count:
        path.refuse_where(np.diff(offsets) > 0, violation.KEY_NOT_UNICODE)
        return pa.nulls(len(array), pa.utf8())
    texts = _part(items, array.type.item_field, path.elements(offsets, plain), levels)
    path.violations.bounds.take(_bytes_of(plain) + _bytes_of(texts) + (_OFFSET + 4) * len(plain))
    entries, owner = _joined(_quoted(plain), ":", texts), np.repeat(np.arange(len(array)), np.diff(offsets))
    if len(plain) > 1:
        by_key = pa.table({"owner": owner, "key": plain})
        order = np.asarray(pc.sort_indices(by_key, [("owner", "ascending"), ("key", "ascending")]))
        sorted_keys, owner = plain.take(pa.array(order)), owner[order]
        # Of entries with the same key the last one counts.
        same = pc.equal(sorted_keys.slice(1), sorted_keys.slice(0, len(order) - 1)).to_numpy(zero_copy_only=False)
        last = np.append(~(same & (owner[1:] == owner[:-1])), True)
        entries, owner = entries.take(pa.array(order[last])), owner[last]
        offsets = list_offsets(np.bincount(owner, minlength=len(array)))
    return _bracketed("{", entries, offsets, nulls, "}", path)


def _bracketed(
    start: str, texts: pa.Array, offsets: _Places, nulls: Mask | None, end: str, path: FieldPath
) -> pa.Array:
    path.violations.bounds.take(_bytes_of(texts) + len(texts) + 2 * _OFFSET * len(offsets))
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)
    texts = _joined(start, pc.binary_join(lists, ","), end)
    return texts if nulls is None else pc.if_else(pa.array(nulls), pa.scalar(None, pa.utf8()), texts)


def _joined(*parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _bytes_of(texts: pa.Array) -> int:
    return int(pc.sum(pc.binary_length(texts)).as_py() or 0)


def _quoted(texts: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, _ESCAPED)).as_py():
        for character, escaped in _ESCAPES.items():
            texts = pc.replace_substring(texts, character, escaped)
    return _joined('"', texts, '"')


def _float_texts(array: pa.Array, bounds: ReadBounds) -> pa.Array:
    values, _ = filled(array)
    texts = array.cast(pa.utf8())
    size = np.abs(values)
    plain = ((size >= _LEAST) & (size < _MOST)) | (size == 0)
    whole = plain & (np.trunc(values) == values)
    if whole.any():
        texts = pc.if_else(pa.array(whole), _joined(texts, ".0"), texts)
    if plain.all():
        return texts
    others: list[str] = []
    places = np.flatnonzero(~plain)
    for start in bounds.watched(range(0, len(places), CHUNK)):
        others += write_json(values[places[start : start + CHUNK]].tolist())[1:-1].split(",")
    return pc.replace_with_mask(texts, pa.array(~plain), pa.array(others, pa.utf8()))
