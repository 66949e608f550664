"""One declared output, read from the values of JSON: each unchanged, or refused.

The decision is that of a worker of our own (`prinz_enricher.worker.model_outputs`), as far as JSON tells what the model
gave. It has no binary, which is base64 text, and no instants, which are ISO-8601 text.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch.coerce_values import value_name
from prinz_enricher.batch.primitive_arrays import EXACT_BITS, NotAnInstant, coerce_number, numpy_dtype, parse_instant
from prinz_enricher.batch.violation import FieldPath, Violations, type_name
from prinz_enricher.ipc.faults import OutputDiffers, ValueMissing
from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Record,
    Tensor,
    Type,
    arrow_field,
)
from prinz_enricher.signature.arrow import VALUE
from prinz_enricher.signature.value import MAX_DEPTH

Convert = Callable[[object], object]
"""Turns one value of JSON into one that Arrow takes for a type."""

_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def output_array(values: Sequence[object], field: Field) -> pa.Array:
    """Convert the values of one output.

    Args:
        values: One for each row, as `json.loads` gives them.
        field: The declared output.

    Returns:
        An array of the Arrow type of the field.

    Raises:
        OutputDiffers: A value is not of the declared type, or can't be held by it unchanged.
    """
    declared = arrow_field(field)
    if isinstance(field.type, AnyValue):
        return pa.array([_json(value, field.name) for value in values], pa.utf8())
    if (array := _whole_column(values, declared.type, field.name)) is not None:
        return array
    convert = _converter(field.type, declared.type, declared.nullable, field.name)
    if not pa.types.is_nested(declared.type):
        values = [_row_of_one(value) for value in values]
    try:
        return pa.array([convert(value) for value in values], declared.type)
    except (pa.ArrowException, UnicodeError, OverflowError) as exc:
        raise OutputDiffers(f'"{field.name}" has a value that Arrow can\'t hold') from exc


def _row_of_one(value: object) -> object:
    """Return the only output of a row that is a list of its outputs."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


# Columns of one kind of number, the fast way.


def _whole_column(values: Sequence[object], kind: pa.DataType, name: str) -> pa.Array | None:
    """Give numbers, or lists of them of a fixed size, as an array; None where it takes the way value by value."""
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        if not all(value.__class__ is list and len(value) == size for value in values):
            return None
        items = _whole_column(list(chain.from_iterable(values)), kind.value_type, name)  # type: ignore[arg-type]
        return None if items is None else pa.FixedSizeListArray.from_arrays(items, type=kind)
    whole = bool(pa.types.is_integer(kind))
    if not values or not (whole or pa.types.is_floating(kind)):
        return None
    classes = set(map(type, values))
    if classes == {float}:
        given = pa.array(np.array(values, np.float64))
        if whole and np.isnan(np.asarray(given)).any():
            # May stand for what is missing.
            return None
    elif classes == {int}:
        try:
            given = pa.array(np.array(values, np.int64))
        except OverflowError:
            return None
    else:
        return None
    faults = Violations()
    array = coerce_number(given, kind, str(kind), True, FieldPath("", faults))
    if faults:
        raise OutputDiffers(f'"{name}" has a value that {faults.reported[0].description}')
    return array


# One value at a time.


def _converter(type: Type, kind: pa.DataType, nullable: bool, name: str) -> Convert:
    present = _present(type, kind, name)
    floating = bool(pa.types.is_floating(kind))
    timestamp = bool(pa.types.is_timestamp(kind))

    def convert(value: object) -> object:
        # pandas has NaN for what is missing in other columns than of numbers, and NaT in those of instants.
        if value is None or (timestamp and value == "NaT") or (not floating and _is_nan(value) and nullable):
            if nullable:
                return None
            if floating:
                return math.nan
            raise ValueMissing(f'"{name}" has a value that is missing')
        return present(value)

    return convert


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _present(type: Type, kind: pa.DataType, name: str) -> Convert:
    """Give what converts values that are not missing."""
    match type:
        case AnyValue():
            return lambda value: _json(value, name)
        case Record():
            return _record(type, kind, name)
        case MapOf(values):
            return _map(values, kind, name)
        case ListOf(items):
            return _list(_converter(items, kind.value_type, True, name), kind, name)
        case Tensor(dtype, shape) if len(shape) > 1:
            return _list(_converter(Tensor(dtype, shape[1:]), kind.value_type, True, name), kind, name)
    return _scalar(type, kind, name)


def _not_a(value: object, wanted: str, name: str) -> OutputDiffers:
    return OutputDiffers(f'"{name}" has a value that is {value_name(value)}, where {wanted} is declared')


def _list(element: Convert, kind: pa.DataType, name: str) -> Convert:
    size = kind.list_size if pa.types.is_fixed_size_list(kind) else None

    def convert(value: object) -> list[object]:
        if not isinstance(value, list):
            raise _not_a(value, "a list", name)
        if size is not None and len(value) != size:
            raise OutputDiffers(f'"{name}" has a list of another length than the declared {size}')
        return [element(one) for one in value]

    return convert


def _map(values: Type, kind: pa.DataType, name: str) -> Convert:
    item = _converter(values, kind.item_type, True, name)

    def convert(value: object) -> list[tuple[str, object]]:
        if not isinstance(value, dict):
            raise _not_a(value, "a map", name)
        return [(key, item(one)) for key, one in value.items()]

    return convert


def _record(type: Record, kind: pa.DataType, name: str) -> Convert:
    children = {}
    for field, child in zip(type.fields, kind, strict=True):
        held = child if field.required else child.type.field(0)
        children[field.name] = (_converter(field.type, held.type, held.nullable, field.name), not field.required)

    def convert(value: object) -> dict[str, object]:
        if not isinstance(value, dict):
            raise _not_a(value, "an object", name)
        if any(one not in children for one in value):
            raise OutputDiffers(f'"{name}" has a property that is not declared')
        if any(one not in value and not optional for one, (_, optional) in children.items()):
            raise OutputDiffers(f'"{name}" lacks a property that is declared')
        return {
            one: {VALUE: present(value[one])} if optional else present(value[one])
            for one, (present, optional) in children.items()
            if one in value
        }

    return convert


def _scalar(type: Type, kind: pa.DataType, name: str) -> Convert:
    types = pa.types
    wanted = type_name(type)
    if types.is_integer(kind):
        read = _whole_number(kind)
    elif types.is_floating(kind):
        read = _floating_number(kind)
    elif types.is_timestamp(kind):
        # numpy's arrays of nanoseconds come as bare numbers; elsewhere a number may count anything.
        read = _instant(kind, counted=isinstance(type, Tensor) and type.dtype == "datetime64[ns]")
    elif types.is_boolean(kind):
        read = _of_class(bool)
    elif types.is_binary(kind):
        read = _binary
    else:
        read = _of_class(str)

    def convert(value: object) -> object:
        try:
            return read(value)
        except _Other:
            raise _not_a(value, wanted, name) from None
        except _Unfit as exc:
            raise OutputDiffers(f'"{name}" has {exc}') from None

    return convert


class _Other(Exception):
    """A value is of another type."""


class _Unfit(Exception):
    """A value is of the type, but not one that can be held; the text is what it is."""


def _of_class(wanted: type) -> Convert:
    def read(value: object) -> object:
        if value.__class__ is not wanted:
            raise _Other
        return value

    return read


def _whole_number(kind: pa.DataType) -> Convert:
    limits = np.iinfo(numpy_dtype(kind))
    low, high = int(limits.min), int(limits.max)

    def read(value: object) -> int:
        if value.__class__ is float:
            if not value.is_integer():
                raise _Unfit(f"a number that is not whole, where {kind} is declared")
        elif value.__class__ is not int:
            raise _Other
        whole = int(value)
        if not low <= whole <= high:
            raise _Unfit(f"a number that {kind} can't hold")
        return int(whole)

    return read


def _floating_number(kind: pa.DataType) -> Convert:
    limit = 1 << EXACT_BITS[kind]
    dtype: Any = numpy_dtype(kind).type

    def read(value: object) -> float:
        if value.__class__ is int:
            if not -limit <= value <= limit:
                raise _Unfit(f"a whole number that {kind} can't hold exactly")
        elif value.__class__ is not float:
            raise _Other
        with np.errstate(over="ignore", under="ignore"):
            held = dtype(value)
        if np.isinf(held) and not math.isinf(value):
            raise _Unfit(f"a number that {kind} can't hold")
        # Arrow takes float16 only from numpy.
        return held if kind == pa.float16() else float(held)

    return read


def _instant(kind: pa.DataType, *, counted: bool) -> Convert:
    per_second = _PER_SECOND[kind.unit]

    def read(value: object) -> int:
        if counted and value.__class__ is int:
            return _in_range(value, kind)
        if not isinstance(value, str):
            raise _Other
        try:
            micros = parse_instant(value)
        except NotAnInstant as exc:
            raise _Unfit(f"text that {exc}") from None
        count, rest = divmod(int(micros) * per_second, 10**6)
        if rest:
            raise _Unfit(f"a time that {kind} can't hold exactly")
        return _in_range(count, kind)

    return read


def _in_range(count: int, kind: pa.DataType) -> int:
    if not -(1 << 63) < count < 1 << 63:
        raise _Unfit(f"a time that {kind} can't hold exactly")
    return count


def _binary(value: object) -> bytes:
    if not isinstance(value, str):
        raise _Other
    # MLflow breaks base64 into lines.
    text = value.replace("\n", "")
    try:
        held = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _Unfit("text that is not base64, where binary is declared") from None
    if base64.b64encode(held).decode() != text:
        raise _Unfit("text that is not base64, where binary is declared")
    return held


# Values of any type, as JSON.


def _json(value: object, name: str) -> str | None:
    if value is None:
        return None
    if not _is_shallow(value, MAX_DEPTH):
        raise OutputDiffers(f'"{name}" is nested deeper than {MAX_DEPTH} levels')
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise OutputDiffers(f'"{name}" has text that is not Unicode') from None
    return text


def _is_shallow(value: object, levels: int) -> bool:
    if isinstance(value, list):
        return levels > 0 and all(_is_shallow(one, levels - 1) for one in value)
    if isinstance(value, dict):
        return levels > 0 and all(_is_shallow(one, levels - 1) for one in value.values())
    return True
