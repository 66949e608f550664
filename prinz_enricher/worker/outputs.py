"""One output column as an Arrow array of its declared type: every value unchanged, or refused."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from prinz_enricher.ipc.faults import OutputDiffers, ValueMissing

from .fields import VALUE, is_any, is_nested, is_optional, tensor_type

_EXACT = {pa.float64(): 2**53, pa.float32(): 2**24, pa.float16(): 2**11}
"""Up to where a float type holds every integer."""

_MOST_DIGITS = 20
"""Of the whole numbers of 64 bits."""


def output_column(values: Any, field: pa.Field) -> pa.Array:
    """Convert the values of one output.

    Args:
        values: An ndarray, list or tuple with one entry for each row.
        field: The declared output.

    Raises:
        OutputDiffers: A value is not of the declared type, or can't be held by it unchanged.
    """
    kind = field.type
    if is_any(field):
        return pa.array([_json(value, field.name) for value in _entries(values)], kind)
    if isinstance(values, np.ndarray) and values.dtype != object:
        if not is_nested(kind):
            if values.ndim != 1:
                raise OutputDiffers(f'"{field.name}" has {values.ndim} dimensions, where one value a row is declared')
            return _of_numpy(values, kind, field)
        if tensor_type(field) is not None and (array := _fixed_size_lists(values, kind, field)) is not None:
            return array
    convert = _converter(kind, field)
    if is_nested(kind):
        return pa.array([convert(value) for value in _entries(values)], kind)
    return pa.array([convert(_row_of_one(value)) for value in _entries(values)], kind)


def _entries(values: Any) -> list[Any]:
    if isinstance(values, np.ndarray):
        return list(values) if values.dtype == object or values.ndim > 1 else values.tolist()
    return list(values)


def series_values(series: Any) -> Any:
    """Return a Series as a bare array; one of pandas' own types with nulls as objects."""
    if isinstance(series.dtype, np.dtype):
        return series.to_numpy()
    if isinstance(series.dtype, pd.CategoricalDtype):
        return series.astype(object).to_numpy()
    dtype = getattr(series.dtype, "numpy_dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf" and not series.isna().any():
        return series.to_numpy(dtype=dtype)
    return series.to_numpy(dtype=object)


# Whole arrays of numpy, the fast way.


def _of_numpy(values: np.ndarray[Any, Any], kind: pa.DataType, field: pa.Field) -> pa.Array:
    for is_kind, sources, convert in _NUMPY:
        if is_kind(kind) and values.dtype.kind in sources:
            return convert(values, kind, field)
    raise _not_a(str(values.dtype), field)


def _same(values: np.ndarray[Any, Any], kind: pa.DataType, _: pa.Field) -> pa.Array:
    return pa.array(np.ascontiguousarray(values), kind)


def _listed(values: np.ndarray[Any, Any], kind: pa.DataType, _: pa.Field) -> pa.Array:
    return pa.array(values.tolist(), kind)


def _integers(values: np.ndarray[Any, Any], kind: pa.DataType, field: pa.Field) -> pa.Array:
    target = np.dtype(kind.to_pandas_dtype())
    if values.dtype == target:
        return pa.array(np.ascontiguousarray(values), kind)
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        if missing.any() and not field.nullable:
            raise ValueMissing(f'"{field.name}" has a NaN, where a whole number is declared')
        whole = values[~missing]
        if not (np.isfinite(whole).all() and (whole == np.trunc(whole)).all()):
            raise OutputDiffers(f'"{field.name}" has a number that is not whole, where {kind} is declared')
    else:
        missing, whole = None, values
    limits = np.iinfo(target)
    # Python's numbers compare exactly, where numpy would round a limit to the other type.
    if whole.size and not (int(limits.min) <= int(whole.min()) and int(whole.max()) <= int(limits.max)):
        raise OutputDiffers(f'"{field.name}" has a number that {kind} can\'t hold')
    if missing is None or not missing.any():
        return pa.array(values.astype(target), kind)
    return pa.array(np.where(missing, 0, values).astype(target), kind, mask=missing)


def _floats(values: np.ndarray[Any, Any], kind: pa.DataType, field: pa.Field) -> pa.Array:
    target = np.dtype(kind.to_pandas_dtype())
    if values.dtype.kind in "iu":
        limit = _EXACT[kind]
        if values.size and not (-limit <= int(values.min()) and int(values.max()) <= limit):
            raise OutputDiffers(f'"{field.name}" has a whole number that {kind} can\'t hold exactly')
        return pa.array(values.astype(target), kind)
    with np.errstate(over="ignore"):
        held = np.ascontiguousarray(values.astype(target, copy=False))
    # Into a shorter float a number is rounded to the nearest, as everywhere in this service; too large is refused.
    if held.dtype.itemsize < values.dtype.itemsize and (np.isinf(held) & ~np.isinf(values)).any():
        raise OutputDiffers(f'"{field.name}" has a number that {kind} can\'t hold')
    return pa.array(held, kind)


def _times(values: np.ndarray[Any, Any], kind: pa.DataType, field: pa.Field) -> pa.Array:
    target = np.dtype(f"datetime64[{kind.unit}]")
    held = values.astype(target)
    lost = held.astype(values.dtype) != values
    if (lost & ~np.isnat(values)).any():
        raise OutputDiffers(f'"{field.name}" has a time that {kind} can\'t hold exactly')
    if np.isnat(values).any() and not field.nullable:
        raise ValueMissing(f'"{field.name}" has a time that is missing')
    return pa.array(held, kind)


_NUMPY: list[
    tuple[Callable[[pa.DataType], bool], str, Callable[[np.ndarray[Any, Any], pa.DataType, pa.Field], pa.Array]]
]
_NUMPY = [
    (pa.types.is_boolean, "b", _same),
    (pa.types.is_integer, "iuf", _integers),
    (pa.types.is_floating, "iuf", _floats),
    (pa.types.is_string, "U", _listed),
    (pa.types.is_binary, "S", _listed),
    (pa.types.is_timestamp, "M", _times),
]
"""Arrow's types, the kinds of numpy's dtypes that each is made of, and how."""


def _fixed_size_lists(values: np.ndarray[Any, Any], kind: pa.DataType, field: pa.Field) -> pa.Array | None:
    """Give an n-dimensional array as nested lists of fixed size; None where the declared sizes are not fixed."""
    sizes: list[int] = []
    inner = kind
    while pa.types.is_fixed_size_list(inner):
        sizes.append(inner.list_size)
        inner = inner.value_type
    if is_nested(inner):
        return None
    if values.shape[1:] != tuple(sizes):
        raise OutputDiffers(f'"{field.name}" has the shape {values.shape[1:]} a row, where {tuple(sizes)} is declared')
    array = _of_numpy(values.reshape(-1), inner, pa.field(field.name, inner, nullable=False))
    levels = [kind]
    while pa.types.is_fixed_size_list(levels[-1].value_type):
        levels.append(levels[-1].value_type)
    for level in reversed(levels):
        array = pa.FixedSizeListArray.from_arrays(array, type=level)
    return array


# One value at a time, for objects.


def _converter(kind: pa.DataType, field: pa.Field) -> Callable[[Any], Any]:
    """Give what turns one Python value into one that Arrow takes for a type without changing it."""
    convert = _present(kind, field)

    def or_null(value: Any) -> Any:
        if value is None or value is pd.NA or value is pd.NaT:
            if pa.types.is_floating(kind) and not field.nullable:
                return math.nan
            if field.nullable or pa.types.is_string(kind):
                return None
            raise ValueMissing(f'"{field.name}" has a value that is missing')
        if isinstance(value, float) and math.isnan(value) and field.nullable and not pa.types.is_floating(kind):
            # pandas writes NaN for what is missing in a column of objects.
            return None
        return convert(value)

    return or_null


def _present(kind: pa.DataType, field: pa.Field) -> Callable[[Any], Any]:
    name = field.name
    if is_any(field):
        return lambda value: _json(value, name)
    if pa.types.is_struct(kind):
        return _record(kind, field)
    if pa.types.is_map(kind):
        item = _converter(kind.item_type, kind.item_field.with_name(name))

        def entries(value: Any) -> list[tuple[str, Any]]:
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise _not_a(type(value).__name__, field)
            return [(key, item(one)) for key, one in value.items()]

        return entries
    if is_nested(kind):
        element = _converter(kind.value_type, kind.value_field.with_name(name))
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else None

        def items(value: Any) -> list[Any]:
            if not isinstance(value, list | tuple | np.ndarray | pd.Series) or _is_bare(value):
                raise _not_a(type(value).__name__, field)
            if size is not None and len(value) != size:
                raise OutputDiffers(f'"{name}" has a list of another length than the declared {size}')
            return [element(one) for one in value]

        return items
    if pa.types.is_timestamp(kind):
        return lambda value: _time(value, kind, field)

    def scalar(value: Any) -> Any:
        return _scalar(value, kind, field)

    return scalar


def _record(kind: pa.DataType, field: pa.Field) -> Callable[[Any], Any]:
    children = {}
    for child in kind:
        held = child.type.field(0).with_name(child.name) if is_optional(child) else child
        children[child.name] = (_converter(held.type, held), is_optional(child))

    def record(value: Any) -> dict[str, Any]:
        if hasattr(value, "model_dump"):
            value = value.model_dump()
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if not isinstance(value, Mapping):
            raise _not_a(type(value).__name__, field)
        if any(name not in children for name in value):
            raise OutputDiffers(f'"{field.name}" has a property that is not declared')
        if any(name not in value and not optional for name, (_, optional) in children.items()):
            raise OutputDiffers(f'"{field.name}" lacks a property that is declared')
        return {
            name: {VALUE: convert(value[name])} if optional else convert(value[name])
            for name, (convert, optional) in children.items()
            if name in value
        }

    return record


def _is_bare(value: Any) -> bool:
    """Whether a value is an array that holds a single value and no list; numpy itself raises on ragged lists."""
    return isinstance(value, np.ndarray) and value.ndim == 0


def _bare(value: Any) -> Any:
    """Return the value of an array without dimensions."""
    return value[()] if _is_bare(value) else value


def _row_of_one(value: Any) -> Any:
    """Return the only output of a row that is a list of its outputs."""
    if isinstance(value, list | tuple | np.ndarray) and not _is_bare(value) and len(value) == 1:
        return value[0]
    return value


def _scalar(value: Any, kind: pa.DataType, field: pa.Field) -> Any:
    value = _bare(value)
    boolean = isinstance(value, bool | np.bool_)
    if pa.types.is_boolean(kind):
        if boolean:
            return bool(value)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if isinstance(value, Decimal):
            return _of_decimal(value, kind, field)
        if isinstance(value, int | float | np.integer | np.floating) and not boolean:
            return _of_numpy(_one(value, field), kind, field)[0].as_py()
    elif pa.types.is_string(kind):
        if isinstance(value, str):
            # Of an enumeration, its value.
            return str.__str__(value)
    elif pa.types.is_binary(kind) and isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise _not_a(type(value).__name__, field)


def _of_decimal(value: Decimal, kind: pa.DataType, field: pa.Field) -> Any:
    """Return a decimal as a number of another type that is the very same, or whose shortest decimal it is."""
    if value.is_nan():
        return _of_numpy(np.array([math.nan]), kind, field)[0].as_py()
    if pa.types.is_floating(kind):
        double = float(value)
        if value.is_infinite() or Decimal(repr(double)) == value or Decimal(double) == value:
            return _of_numpy(np.array([double]), kind, field)[0].as_py()
    elif value.is_finite() and value == value.to_integral_value() and value.adjusted() < _MOST_DIGITS:
        return _of_numpy(_one(int(value), field), kind, field)[0].as_py()
    raise OutputDiffers(f'"{field.name}" has a decimal that {kind} can\'t hold exactly')


def _one(value: Any, field: pa.Field) -> np.ndarray[Any, Any]:
    array = np.array([value])
    if array.dtype.kind not in "iuf":
        raise OutputDiffers(f'"{field.name}" has a number beyond 64 bits')
    return array


def _time(value: Any, kind: pa.DataType, field: pa.Field) -> Any:
    value = _bare(value)
    if isinstance(value, np.datetime64):
        held = _times(np.array([value]), kind, field)
    elif isinstance(value, datetime):
        stamp = pd.Timestamp(value)
        held = _times(
            np.array([(stamp.tz_convert("UTC").tz_localize(None) if stamp.tz else stamp).to_numpy()]), kind, field
        )
    elif isinstance(value, date):
        held = _times(np.array([np.datetime64(value)]), kind, field)
    else:
        raise _not_a(type(value).__name__, field)
    return held[0].value


def _not_a(what: str, field: pa.Field) -> OutputDiffers:
    # Of a nested type its kind alone.
    kind = str(field.type).partition("<")[0]
    return OutputDiffers(f'"{field.name}" has values of {what}, where {kind} is declared')


# Values of any type, as JSON.


def _json(value: Any, name: str) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    try:
        return json.dumps(value, default=_jsonable, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise OutputDiffers(f'"{name}" has a {type(value).__name__} that can\'t be written as JSON') from exc


def _jsonable(value: Any) -> Any:
    """Give the JSON form of what Python's own writer does not know."""
    if value is pd.NA or value is pd.NaT:
        return None
    for types, form in _JSON_FORMS:
        if isinstance(value, types):
            return form(value)
    if isinstance(value, Decimal) and value.is_finite():
        number = int(value) if value == value.to_integral_value() else float(value)
        if isinstance(number, int) or Decimal(repr(number)) == value:
            return number
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(type(value).__name__)


_JSON_FORMS: list[tuple[Any, Callable[[Any], Any]]] = [
    (np.bool_, bool),
    (np.integer, int),
    # Not numpy's longer floats: Python's can't hold them.
    ((np.float16, np.float32, np.float64), float),
    (np.datetime64, lambda value: None if np.isnat(value) else pd.Timestamp(value).isoformat()),
    ((datetime, date), lambda value: value.isoformat()),
    ((bytes, bytearray), lambda value: base64.b64encode(value).decode()),
    (np.ndarray, lambda value: list(value) if value.ndim else value.item()),
    (pd.Series, lambda value: value.tolist()),
    (pd.DataFrame, lambda value: value.to_dict("records")),
    (Mapping, dict),
]
