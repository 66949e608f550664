"""Arrow columns as JSON: the text of each value, exact, in the form that MLflow's `/invocations` reads.

Numbers are written with the fewest digits that read back the same, a float32 as the double that it is. Arrow writes
long columns, several times faster than Python, which is the faster one for a few values.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch.primitive_arrays import null_mask, number_array, numbers
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Record, Scalar, Tensor, Type

_FEW: Final = 64
"""Up to so many values Python is faster than calling Arrow."""

_ESCAPED: Final = r'[\x00-\x1f"\\]'
"""What JSON text can't hold as it is."""

write_text: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
"""Writes one text, with its quotes."""


def texts(array: pa.Array, type: Type) -> list[str]:
    """Write each value of a column.

    Args:
        array: A checked column, of the Arrow type of `type`.
        type: Its type.

    Returns:
        JSON for each row, shape (length,). A null is `null`. So is a NaN that is a row by itself or within a tensor,
        where the reader makes NaN of null; deeper down it is the token `NaN`, which JSON does not have but MLflow
        reads. An infinity is `Infinity` or `-Infinity`. An instant is ISO-8601 text without a zone, binary is base64,
        and a value of any type is its own JSON.
    """
    match type:
        case Scalar():
            return _leaf(array, nan="null")
        case Tensor(_, shape):
            return _tensor(array, len(shape) - 1)
        case _:
            return _part(array, type)


def _part(array: pa.Array, type: Type) -> list[str]:
    match type:
        case Scalar():
            return _leaf(array, nan="NaN")
        case AnyValue():
            return ["null" if text is None else text for text in array.to_pylist()]
        case ListOf(items):
            return _lists(array, _part(array.flatten(), items))
        case MapOf(values):
            return _maps(array, values)
        case Record():
            return _records(array, type)
        case Tensor():
            return texts(array, type)


def _tensor(array: pa.Array, depth: int) -> list[str]:
    if depth <= 0:
        # A tensor of bytes is text to MLflow, so its bytes are ASCII.
        return _texts(array.cast(pa.utf8())) if pa.types.is_binary(array.type) else _leaf(array, nan="null")
    return _lists(array, _tensor(array.flatten(), depth - 1))


def _lists(array: pa.Array, items: list[str]) -> list[str]:
    """Write lists, given the text of each element of those that are not null."""
    nulls = null_mask(array)
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(len(array), array.type.list_size)
    else:
        lengths = np.diff(np.asarray(array.offsets))
    if nulls is not None:
        lengths = np.where(nulls, 0, lengths)
    bounds = [0, *np.cumsum(lengths).tolist()]
    return _or_null([f"[{','.join(items[start:end])}]" for start, end in pairwise(bounds)], nulls)


def _maps(array: pa.Array, type: Type) -> list[str]:
    bounds = np.asarray(array.offsets).tolist()
    # A slice of maps keeps all entries.
    first, count = bounds[0], bounds[-1] - bounds[0]
    keys = _texts(array.keys.slice(first, count))
    items = _part(array.items.slice(first, count), type)
    entries = [f"{key}:{item}" for key, item in zip(keys, items, strict=True)]
    return _or_null(
        [f"{{{','.join(entries[start - first : end - first])}}}" for start, end in pairwise(bounds)], null_mask(array)
    )


def _records(array: pa.Array, type: Record) -> list[str]:
    # `flatten` minds slices, and gives null properties to null records.
    properties = [_property(child, field) for child, field in zip(array.flatten(), type.fields, strict=True)]
    rows = [f"{{{','.join(filter(None, row))}}}" for row in zip(*properties, strict=True)]
    return _or_null(rows if properties else ["{}"] * len(array), null_mask(array))


def _property(array: pa.Array, field: Field) -> list[str]:
    """Write a property of records with its name; as nothing where a record lacks it."""
    name = write_text(field.name)
    if field.required:
        return [f"{name}:{value}" for value in _part(array, field.type)]
    values = _part(array.flatten()[0], field.type)
    return [
        f"{name}:{value}" if there else "" for value, there in zip(values, array.is_valid().to_pylist(), strict=True)
    ]


def _or_null(written: list[str], nulls: npt.NDArray[np.bool_] | None) -> list[str]:
    if nulls is None:
        return written
    return ["null" if null else text for text, null in zip(written, nulls.tolist(), strict=True)]


def _leaf(array: pa.Array, nan: str) -> list[str]:
    """Write scalars."""
    types, type = pa.types, array.type
    if types.is_floating(type):
        return _floats(array, nan)
    if types.is_string(type):
        return _texts(array)
    if types.is_timestamp(type):
        return _instants(array)
    if types.is_binary(type):
        return ["null" if one is None else f'"{b64encode(one).decode()}"' for one in array.to_pylist()]
    if len(array) <= _FEW:
        if types.is_boolean(type):
            return ["null" if one is None else "true" if one else "false" for one in array.to_pylist()]
        return ["null" if one is None else repr(one) for one in array.to_pylist()]
    written: list[str] = array.cast(pa.utf8()).fill_null("null").to_pylist()
    return written


def _floats(array: pa.Array, nan: str) -> list[str]:
    if len(array) <= _FEW:
        return ["null" if one is None else _float(float(one), nan) for one in array.to_pylist()]
    values = numbers(array).astype(np.float64, copy=False)
    finite = np.isfinite(values)
    written = _long(values, finite)
    for index in np.flatnonzero(~finite).tolist():
        written[index] = _float(float(values[index]), nan)
    return _or_null(written, null_mask(array))


def _float(value: float, nan: str) -> str:
    if math.isfinite(value):
        return repr(value)
    return nan if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _long(values: npt.NDArray[Any], finite: npt.NDArray[np.bool_]) -> list[str]:
    doubles = number_array(values, pa.float64(), None)
    cast = doubles.cast(pa.utf8())
    with np.errstate(invalid="ignore"):
        whole = finite & (np.trunc(values) == values)
    if whole.any():
        # Arrow writes 1.0 as 1 and -0.0 as -0: whole numbers to a reader, which have no -0.
        bare = pc.invert(pc.match_substring_regex(cast, "[.e]"))
        cast = pc.if_else(bare, pc.binary_join_element_wise(cast, pa.scalar(".0"), pa.scalar("")), cast)
    written: list[str] = cast.to_pylist()
    return written


def _texts(array: pa.Array) -> list[str]:
    if len(array) <= _FEW or pc.any(pc.match_substring_regex(array, _ESCAPED)).as_py():
        return ["null" if one is None else write_text(one) for one in array.to_pylist()]
    return ["null" if one is None else f'"{one}"' for one in array.to_pylist()]


def _instants(array: pa.Array) -> list[str]:
    # All with the same number of digits: pandas reads a column by the format of its first value.
    return ["null" if one is None else f'"{one.replace(" ", "T")}"' for one in array.cast(pa.utf8()).to_pylist()]
