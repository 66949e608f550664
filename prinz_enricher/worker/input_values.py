"""Arrow columns as the Python values that MLflow's own schema enforcement would hand to a model.

MLflow passes lists for arrays (of numbers that Python has: float64 and int64; numpy arrays for float32 and int32, which
would be refused as lists), dicts of numpy scalars for objects, and dicts for maps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows

from .fields import is_any, is_nested, is_optional

# The value of a property that an object lacks.
_ABSENT = object()
_AS_NDARRAY = (pa.float32(), pa.int32())
# pandas 3 reads text into a dtype of its own, with NaN for nulls; pandas 2 into objects.
_TEXT: Any = "str" if int(pd.__version__.split(".")[0]) >= 3 else object


def column_values(column: pa.Array, field: pa.Field) -> list[Any]:
    """Return the values of a column of any type but tensors, one for each row, None for nulls.

    Raises InvalidRows for a value that the model's libraries can't hold.
    """
    kind = field.type
    if is_any(field):
        return [None if text is None else json.loads(text) for text in column.to_pylist()]
    if pa.types.is_struct(kind):
        return _records(column, kind)
    if pa.types.is_map(kind):
        return _maps(column, kind.item_field)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(column, kind.value_field)
    if pa.types.is_timestamp(kind):
        return [None if value is pd.NaT else value for value in pd.Series(datetimes(column))]
    values: list[Any] = column.to_pylist()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return values
    # As MLflow's enforcement leaves them in objects and maps.
    scalar = np.dtype(kind.to_pandas_dtype()).type
    return [None if value is None else scalar(value) for value in values]


def datetimes(column: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Return timestamps as numpy's datetime64[ns], the only one that MLflow accepts; NaT for nulls."""
    try:
        column = column.cast(pa.timestamp("ns"))
    except pa.ArrowInvalid as exc:
        raise InvalidRows("a datetime is before the year 1677 or after 2262, which pandas can't hold") from exc
    return np.asarray(column)


def _records(column: pa.Array, kind: pa.DataType) -> list[Any]:
    names = [child.name for child in kind]
    # `flatten` puts the nulls of the struct into its children, and respects slices.
    children = [_property(child, kind.field(i)) for i, child in enumerate(column.flatten())]
    rows: list[Any] = [
        {name: value for name, value in zip(names, values, strict=True) if value is not _ABSENT}
        for values in zip(*children, strict=True)
    ]
    return _with_nulls(column, rows if children else [{} for _ in range(len(column))])


def _property(column: pa.Array, field: pa.Field) -> list[Any]:
    if not is_optional(field):
        return column_values(column, field)
    values = column_values(column.flatten()[0], field.type.field(0))
    return [value if there else _ABSENT for value, there in zip(values, column.is_valid().to_pylist(), strict=True)]


def _maps(column: pa.Array, item_field: pa.Field) -> list[Any]:
    # The children of a sliced map keep all their values, and its offsets are places in them.
    names, values = column.keys.to_pylist(), column_values(column.items, item_field)
    rows: list[Any] = [
        dict(zip(names[start:end], values[start:end], strict=True))
        for start, end in pairwise(column.offsets.to_pylist())
    ]
    return _with_nulls(column, rows)


def _lists(column: pa.Array, item_field: pa.Field) -> list[Any]:
    kind = item_field.type
    rows: list[Any] = []
    for row in column:
        items = row.values  # noqa: PD011 - no pandas object
        if items is None:
            rows.append(None)
        elif kind in _AS_NDARRAY and not items.null_count:
            rows.append(items.to_numpy().copy())
        elif pa.types.is_timestamp(kind):
            rows.append(datetimes(items).copy())
        elif pa.types.is_floating(kind):
            rows.append(items.to_numpy(zero_copy_only=False).tolist())
        elif is_nested(kind) or is_any(item_field):
            rows.append(column_values(items, item_field))
        else:
            rows.append(items.to_pylist())
    return rows


def _with_nulls(column: pa.Array, rows: list[Any]) -> list[Any]:
    if column.null_count:
        return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]
    return rows


def json_column(values: list[Any]) -> Any:
    """Return parsed JSON values as an array of the plainest dtype that holds each of them unchanged.

    A model without a signature expects what pandas makes of plain values; what pandas would change stays an object.
    """
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return np.array(values, dtype=bool)
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float, type(None)} and float in kinds:
        if all(not isinstance(value, int) or abs(value) <= 2**53 for value in values):
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    elif kinds <= {str, type(None)} and str in kinds:
        return text_column(values)
    return object_column(values)


def text_column(values: Sequence[Any]) -> Any:
    """Return text as the array in which pandas itself would hold it."""
    series = pd.Series(values, dtype=_TEXT)
    # pandas lends out what a Series has, for reading alone.
    return series.to_numpy(copy=True) if isinstance(series.dtype, np.dtype) else series.array


def object_column(values: list[Any]) -> Any:
    """Return values of any kind as an array of Python objects."""
    held = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        held[i] = value
    return held
