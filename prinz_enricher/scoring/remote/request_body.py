"""Checked batches as the body of a request to MLflow's `/invocations`.

The server takes the same rows in several forms, which cost it more or less, and some of which it does not read right:
`choose` returns the cheapest one by which a model sees the very values of a batch. What the server would change in
silence in any form is refused before it is sent; what the server itself refuses is left to it.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.batch.coerce_values import from_json
from prinz_enricher.batch.primitive_arrays import null_mask, number_array, numbers
from prinz_enricher.batch.violation import Violations, column_path
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Record, Scalar, ScalarKind, Signature, Tensor, Type

JSON: Final = "application/json"
PARQUET: Final = "application/vnd.apache.parquet"

PARQUET_VALUES: Final = 800
"""From so many values on, over all columns, Parquet costs less than JSON (see `benchmarks/remote_codec.py`)."""

INPUTS_VALUES: Final = 2_000
"""Up to so many values, over all columns, the server reads JSON by columns faster than by rows."""

# A name that MLflow may know as a number: the signature does not distinguish the two.
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")


class BodyForm(Enum):
    """How rows are written."""

    SPLIT = "dataframe_split"
    """JSON, row by row: any column."""

    INPUTS = "inputs"
    """JSON, column by column: scalars, and tensors always; or the bare values of the one column of a model."""

    PARQUET = "parquet"
    """Scalars, without parameters; servers before MLflow 3 do not take it."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request, and its media type without parameters."""

    content: bytes = field(repr=False)
    content_type: str


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a signature means for its requests."""

    types: dict[str, Type]
    tensors: bool
    # Whether the one input has no name, as that of a model with type hints.
    bare: bool
    # Whether all inputs are scalars with names that are text.
    scalars: bool
    # Names by which MLflow may know a column instead, if it knows it by no text.
    numbers: dict[str, int]


@lru_cache(maxsize=256)
def _layout(signature: Signature) -> _Layout:
    types = {one.name: one.type for one in signature.inputs}
    names = list(types)
    tensors = any(isinstance(type, Tensor) for type in types.values())
    # Inputs without names were given these when the signature was read; a column may be called so, too.
    unnamed = bool(names) and names == [f"input_{place}" for place in range(len(names))]
    if unnamed:
        by_number = {name: place for place, name in enumerate(names)}
    else:
        by_number = {name: int(name) for name in names if _NUMBER.fullmatch(name)}
    scalars = bool(names) and not by_number and all(isinstance(type, Scalar) for type in types.values())
    return _Layout(types, tensors, unnamed and len(names) == 1 and not tensors, scalars, by_number)


def choose(batch: pa.RecordBatch, signature: Signature, parquet_works: bool) -> BodyForm:
    """Return the form of checked rows that costs the least of those that change no value."""
    layout = _layout(signature)
    if layout.tensors:
        return BodyForm.INPUTS
    if layout.bare:
        type = next(iter(layout.types.values()))
        scalar = isinstance(type, Scalar)
        return BodyForm.SPLIT if scalar and not _is_plain(batch.column(0), type) else BodyForm.INPUTS
    if not layout.scalars or not batch.num_columns:
        return BodyForm.SPLIT
    parquet = parquet_works and not signature.params
    values = batch.num_rows * batch.num_columns
    if parquet and values >= PARQUET_VALUES:
        return BodyForm.PARQUET
    if values <= INPUTS_VALUES and all(
        _is_plain(array, layout.types[name]) for name, array in zip(batch.schema.names, batch.columns, strict=True)
    ):
        return BodyForm.INPUTS
    # Of these the row-wise JSON holds all but nulls of booleans and of binary.
    return BodyForm.PARQUET if parquet and any(map(_has_bare_null, batch.columns)) else BodyForm.SPLIT


def _is_plain(array: pa.Array, type: Type) -> bool:
    """Whether numpy reads a column right, as the server has it do for `inputs`."""
    match type:
        case Scalar(ScalarKind.FLOAT | ScalarKind.DOUBLE | ScalarKind.DATETIME):
            return True
        case Scalar(ScalarKind.BINARY):
            return False
        case Scalar(ScalarKind.STRING):
            return not array.null_count and not _ends_with_nul(array)
    return not array.null_count


def _has_bare_null(array: pa.Array) -> bool:
    return bool(array.null_count and (pa.types.is_boolean(array.type) or pa.types.is_binary(array.type)))


def encode(batch: pa.RecordBatch, signature: Signature, params: Mapping[str, object], form: BodyForm) -> Body:
    """Write a request, in the form that `choose` returns for the batch, or SPLIT.

    Rows are checked: the columns of the signature's input schema, absent optional ones left out; if it has no inputs,
    columns of any name that hold JSON. A parameter that is None is left to the server's default. In JSON, NaN and
    infinities may be tokens, `NaN`, `Infinity` and `-Infinity`, as MLflow writes them. Raises InvalidInput, which names
    the columns, where the server would change a value in silence.
    """
    layout = _layout(signature)
    if form is BodyForm.PARQUET:
        return Body(_parquet(batch), PARQUET)
    # Arrow makes new objects of its columns each time that it is asked.
    names, arrays = batch.schema.names, batch.columns
    reject_lossy_values(names, arrays, layout.types)
    columns = [texts(array, layout.types.get(name, AnyValue())) for name, array in zip(names, arrays, strict=True)]
    if layout.tensors or form is BodyForm.INPUTS:
        rows = _inputs(names, columns, bare=len(layout.types) == 1 and (layout.tensors or layout.bare))
    else:
        rows = _split(names, columns, layout.numbers, batch.num_rows)
    given = {name: value for name, value in params.items() if value is not None}
    written = f',"params":{json.dumps(given, default=datetime.isoformat)}' if given else ""
    return Body(f"{{{rows}{written}}}".encode(), JSON)


def _inputs(names: Sequence[str], columns: Sequence[list[str]], *, bare: bool) -> str:
    if bare:
        # Of one column MLflow takes the values alone, whether it has a name or not.
        return f'"inputs":[{",".join(columns[0])}]'
    written = [f"{_write_text(name)}:[{','.join(column)}]" for name, column in zip(names, columns, strict=True)]
    return f'"inputs":{{{",".join(written)}}}'


def _split(names: Sequence[str], columns: Sequence[list[str]], by_number: Mapping[str, int], rows: int) -> str:
    known = [_write_text(name) for name in names]
    if by_number:
        # Twice, under the number and the text: MLflow takes the one that it knows and leaves out the other. Numbers
        # come first, as inputs without names are taken by their place.
        twice = [place for place, name in enumerate(names) if name in by_number]
        known = [str(by_number[names[place]]) for place in twice] + known
        columns = [columns[place] for place in twice] + list(columns)
    data = "],[".join(map(",".join, zip(*columns, strict=True))) if columns else "],[".join([""] * rows)
    return f'"dataframe_split":{{"columns":[{",".join(known)}],"data":[{f"[{data}]" if rows else ""}]}}'


def _parquet(batch: pa.RecordBatch) -> bytes:
    # Not imported by who has no use for it.
    import pyarrow.parquet

    schema = pa.schema([pa.field(one.name, one.type) for one in batch.schema])
    table = pa.Table.from_batches([pa.RecordBatch.from_arrays(batch.columns, schema=schema)])
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def row_bytes(batch: pa.RecordBatch) -> int:
    """Estimate what a row takes in a request, in bytes, at least 1: the mean, in JSON, the larger of the forms."""
    if not batch.num_rows:
        return 1
    mean: int = sum(map(_size, batch.columns)) // batch.num_rows
    return max(1, mean)


def _size(array: pa.Array) -> int:
    types, type = pa.types, array.type
    for is_of, size in _SIZES:
        if is_of(type):
            return size * len(array)
    if types.is_string(type) or types.is_binary(type):
        held: int = pc.sum(pc.binary_length(array).cast(pa.int64())).as_py() or 0
        return 3 * len(array) + (held if types.is_string(type) else held * 4 // 3)
    if types.is_map(type):
        keys, items = _entries(array)
        return 2 * len(array) + _size(keys) + _size(items)
    if types.is_struct(type):
        names = sum(len(field.name.encode()) + 3 for field in type)
        return (2 + names) * len(array) + sum(map(_size, array.flatten()))
    return 2 * len(array) + _size(array.flatten())


_SIZES: Final = (
    (pa.types.is_floating, 20),
    (pa.types.is_int64, 20),
    (pa.types.is_integer, 11),
    (pa.types.is_boolean, 6),
    (pa.types.is_timestamp, 29),
)


def _entries(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the keys and values of maps; a slice of maps keeps all entries."""
    first, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
    return array.keys.slice(first, end - first), array.items.slice(first, end - first)


# What MLflow's server would change in silence.

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


def reject_lossy_values(names: Sequence[str], columns: Sequence[pa.Array], types: Mapping[str, Type]) -> None:
    """Refuse checked columns that do not come through as JSON, by InvalidInput; one without a type is of any type."""
    # Rows are not named, since a batch may be of several callers.
    faults = Violations()
    for name, array in zip(names, columns, strict=True):
        if fault := _fault(array, types.get(name, AnyValue())):
            faults.add(column_path(name), fault)
    faults.raise_any()


def _fault(array: pa.Array, type: Type, *, nested: bool = False, listed: bool = False) -> str | None:
    match type:
        case Scalar(kind):
            return _scalar_fault(array, kind, nested=nested, listed=listed)
        case ListOf(items):
            return _fault(array.flatten(), items, nested=True, listed=True)
        case MapOf(values):
            return _fault(_entries(array)[1], values, nested=True)
        case Record(fields):
            children = zip(array.flatten(), fields, strict=True)
            parts = ((child if one.required else child.flatten()[0], one.type) for child, one in children)
            return next((fault for part, kind in parts if (fault := _fault(part, kind, nested=True))), None)
        case AnyValue() if not nested:
            return ROUNDED if _is_rounded(array) else None
        case Tensor(dtype) if not nested:
            return _tensor_fault(array, dtype)
    return None


def _scalar_fault(array: pa.Array, kind: ScalarKind, *, nested: bool, listed: bool) -> str | None:
    match kind:
        case ScalarKind.BOOLEAN:
            return NULL_BOOLEAN if not nested and array.null_count else None
        case ScalarKind.BINARY:
            return NESTED_BINARY if nested and len(array) > array.null_count else None
        case ScalarKind.STRING:
            return LISTED_TEXT if listed and (array.null_count or _ends_with_nul(array)) else None
        case ScalarKind.DATETIME:
            return TOO_FAR if _is_outside(array, _NANOSECONDS) else None
    return None


def _tensor_fault(array: pa.Array, dtype: str) -> str | None:
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if dtype == "str":
        return TENSOR_TEXT if array.null_count or _ends_with_nul(array) else None
    if dtype == "bytes":
        wrong = array.null_count or any(not one.isascii() or one.endswith(b"\0") for one in array.to_pylist())
        return TENSOR_BYTES if wrong else None
    return NO_YEAR if pa.types.is_timestamp(array.type) and _is_outside(array, _YEARS) else None


def _ends_with_nul(array: pa.Array) -> bool:
    """Whether a text of an array ends with a NUL, which numpy's arrays of text drop."""
    return pc.any(pc.ends_with(array, "\0")).as_py() is True


def _is_outside(array: pa.Array, limits: dict[str, tuple[int, int]]) -> bool:
    low, high = limits[array.type.unit]
    counts = numbers(array)
    outside = (counts < low) | (counts > high)
    nulls = null_mask(array)
    return bool((outside if nulls is None else outside & ~nulls).any())


def _is_rounded(array: pa.Array) -> bool:
    """Whether pandas, which guesses the dtype of such a column, would make doubles of whole numbers too large."""
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


# Arrow columns as JSON: the text of each value, exact, in the form that `/invocations` reads.
#
# Numbers are written with the fewest digits that read back the same, a float32 as the double that it is. Arrow writes
# long columns, several times faster than Python, which is the faster one for a few values.

_FEW: Final = 64
"""Up to so many values Python is faster than calling Arrow."""

_ESCAPED: Final = r'[\x00-\x1f"\\]'
"""What JSON text can't hold as it is."""

_write_text: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def texts(array: pa.Array, type: Type) -> list[str]:
    """Return JSON for each row of a checked column, shape (length,).

    A null is `null`. So is a NaN that is a row by itself or within a tensor, where the reader makes NaN of null; deeper
    down it is the token `NaN`, which JSON does not have but MLflow reads. An infinity is `Infinity` or `-Infinity`. An
    instant is ISO-8601 text without a zone, binary is base64, and a value of any type is its own JSON.
    """
    match type:
        case Scalar():
            return _leaf(array, nan="null")
        case Tensor(_, shape):
            return _tensor(array, len(shape) - 1)
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
    keys, items = _entries(array)
    entries = [f"{key}:{item}" for key, item in zip(_texts(keys), _part(items, type), strict=True)]
    offsets = np.asarray(array.offsets)
    bounds = pairwise((offsets - offsets[0]).tolist())
    return _or_null([f"{{{','.join(entries[start:end])}}}" for start, end in bounds], null_mask(array))


def _records(array: pa.Array, type: Record) -> list[str]:
    # `flatten` minds slices, and gives null properties to null records.
    properties = [_property(child, field) for child, field in zip(array.flatten(), type.fields, strict=True)]
    rows = [f"{{{','.join(filter(None, row))}}}" for row in zip(*properties, strict=True)]
    return _or_null(rows if properties else ["{}"] * len(array), null_mask(array))


def _property(array: pa.Array, field: Field) -> list[str]:
    """Write a property of records with its name; as nothing where a record lacks it."""
    name = _write_text(field.name)
    values = _part(array if field.required else array.flatten()[0], field.type)
    there = [True] * len(array) if field.required else array.is_valid().to_pylist()
    return [f"{name}:{value}" if one else "" for value, one in zip(values, there, strict=True)]


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
        # All with the same number of digits: pandas reads a column by the format of its first value.
        return ["null" if one is None else f'"{one.replace(" ", "T")}"' for one in array.cast(pa.utf8()).to_pylist()]
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
    cast = number_array(values, pa.float64(), None).cast(pa.utf8())
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
        return ["null" if one is None else _write_text(one) for one in array.to_pylist()]
    return ["null" if one is None else f'"{one}"' for one in array.to_pylist()]
