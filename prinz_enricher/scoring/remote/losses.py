"""What MLflow's `/invocations` would change in silence: it is refused here, before a model could see another value.

What the server itself refuses is left to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch.coerce_values import from_json
from prinz_enricher.batch.primitive_arrays import null_mask, numbers
from prinz_enricher.batch.violation import Violations, column_path
from prinz_enricher.signature import AnyValue, ListOf, MapOf, Record, Scalar, ScalarKind, Tensor, Type

NULL_BOOLEAN: Final = "has a null, of which a model server would make false"
NESTED_BINARY: Final = "has binary within a list, map or object, which a model server would not decode"
LISTED_TEXT: Final = "has a null or a text that ends with a NUL in a list, which a model server would change"
ROUNDED: Final = "has a whole number beyond 2^53 beside fractions or nulls, which a model server would round"
TOO_FAR: Final = "has a date and time before the year 1677 or after 2262, which pandas can't hold"
NO_YEAR: Final = "has a date and time outside the years 1 to 9999, which has no ISO-8601 text"
TENSOR_TEXT: Final = "has a null or a text that ends with a NUL, which numpy's arrays of text can't hold"
TENSOR_BYTES: Final = "has a null, or bytes that are not ASCII or end with a NUL, which JSON can't tell in a tensor"

# Inclusive, in units of the timestamp. The least number of nanoseconds is numpy's "not a time".
_NANOSECONDS: Final = {
    unit: (-((2**63 - 1) // per), (2**63 - 1) // per)
    for unit, per in {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}.items()
}
_YEARS: Final = {
    unit: (-62_135_596_800 * per, 253_402_300_800 * per - 1) for unit, per in {"s": 1, "ms": 10**3, "us": 10**6}.items()
} | {"ns": _NANOSECONDS["ns"]}

# What may be too large for a double, among the JSON of a column.
_LARGE: Final = r"^\s*-?[0-9]{16,}\s*$"


def refuse_losses(names: Sequence[str], columns: Sequence[pa.Array], types: Mapping[str, Type]) -> None:
    """Refuse a batch that does not come through as JSON.

    Args:
        names: The names of its columns.
        columns: The columns, checked.
        types: The type of each input by its name; a column that is not there is of any type.

    Raises:
        InvalidInput: With a violation for each column; rows are not told, since a batch may be of several callers.
    """
    faults = Violations()
    for name, array in zip(names, columns, strict=True):
        fault = _fault(array, types.get(name, AnyValue()))
        if fault is not None:
            faults.add(column_path(name), fault)
    faults.raise_any()


def _fault(array: pa.Array, type: Type) -> str | None:
    match type:
        # The most frequent ones, without further ado.
        case Scalar(ScalarKind.DOUBLE | ScalarKind.FLOAT | ScalarKind.STRING | ScalarKind.LONG | ScalarKind.INTEGER):
            return None
        case AnyValue():
            return ROUNDED if _is_rounded(array) else None
        case Tensor(dtype):
            return _tensor_fault(array, dtype)
    return next((fault for leaf in _leaves(array, type) if (fault := _leaf_fault(leaf)) is not None), None)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """The scalars of one part of a type."""

    array: pa.Array
    kind: ScalarKind
    nested: bool
    listed: bool


def _leaves(array: pa.Array, type: Type, *, nested: bool = False, listed: bool = False) -> Iterator[_Leaf]:
    match type:
        case Scalar(kind):
            yield _Leaf(array, kind, nested, listed)
        case ListOf(items):
            yield from _leaves(array.flatten(), items, nested=True, listed=True)
        case MapOf(values):
            offsets = np.asarray(array.offsets)
            first, count = int(offsets[0]), int(offsets[-1] - offsets[0])
            yield from _leaves(array.items.slice(first, count), values, nested=True)
        case Record(fields):
            for child, field in zip(array.flatten(), fields, strict=True):
                yield from _leaves(child if field.required else child.flatten()[0], field.type, nested=True)


def _leaf_fault(leaf: _Leaf) -> str | None:
    array, nulls = leaf.array, leaf.array.null_count
    match leaf.kind:
        case ScalarKind.BOOLEAN:
            return NULL_BOOLEAN if nulls and not leaf.nested else None
        case ScalarKind.BINARY:
            return NESTED_BINARY if leaf.nested and len(array) > nulls else None
        case ScalarKind.STRING:
            return LISTED_TEXT if leaf.listed and (nulls or ends_with_nul(array)) else None
        case ScalarKind.DATETIME:
            return TOO_FAR if _is_outside(array, _NANOSECONDS) else None
    return None


def _tensor_fault(array: pa.Array, dtype: str) -> str | None:
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if dtype == "str":
        return TENSOR_TEXT if array.null_count or ends_with_nul(array) else None
    if dtype == "bytes":
        wrong = array.null_count or any(not one.isascii() or one.endswith(b"\0") for one in array.to_pylist())
        return TENSOR_BYTES if wrong else None
    if pa.types.is_timestamp(array.type):
        return NO_YEAR if _is_outside(array, _YEARS) else None
    return None


def ends_with_nul(array: pa.Array) -> bool:
    """Tell whether a text of an array ends with a NUL, which numpy's arrays of text drop."""
    return pc.any(pc.ends_with(array, "\0")).as_py() is True


def _is_outside(array: pa.Array, limits: dict[str, tuple[int, int]]) -> bool:
    low, high = limits[array.type.unit]
    counts = numbers(array)
    outside = (counts < low) | (counts > high)
    nulls = null_mask(array)
    return bool((outside if nulls is None else outside & ~nulls).any())


def _is_rounded(array: pa.Array) -> bool:
    """Tell whether pandas, which guesses the dtype of such a column, would make doubles of whole numbers too large."""
    if pc.any(pc.match_substring_regex(array, _LARGE)).as_py() is not True:
        return False
    values = [None if text is None else from_json(text) for text in array.to_pylist()]
    kinds = {value.__class__ for value in values}
    if not kinds <= {int, float, type(None)} or kinds == {int}:
        return False
    return any(isinstance(value, int) and not _is_double(value) for value in values)


def _is_double(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False
