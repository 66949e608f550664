"""The coercion policy once more, value by value and as plainly as it can be written: tests hold the fast one to it.

Values are those of the wire: None, bool, int, float, str, bytes, Micros, list, dict.
"""

from __future__ import annotations

import json
import math
import re
import struct
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from prinz_enricher.signature import AnyValue, ListOf, MapOf, Micros, Record, Scalar, ScalarKind, Tensor, Type

INTEGERS = {
    "integer": (-(2**31), 2**31 - 1),
    "long": (-(2**63), 2**63 - 1),
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
FLOATS = {
    "float": ("<f", 24),
    "double": ("<d", 53),
    "float16": ("<e", 11),
    "float32": ("<f", 24),
    "float64": ("<d", 53),
}


class No(Exception):
    """The value is refused."""


def accept(value: Any, type: Type, required: bool, path: str, refused: list[str]) -> Any:
    """Give the one value that may come of another, or note the paths of what is refused."""
    match type:
        case Scalar(kind):
            return leaf(value, kind.value, required, path, refused)
        case Tensor(dtype, shape):
            return tensor(value, dtype, shape[1:], path, refused)
        case AnyValue():
            return any_json(value, path, refused)
    if value is None:
        if required:
            refused.append(path)
        return None
    match type:
        case ListOf(items) if isinstance(value, list):
            return [accept(one, items, True, f"{path}[{index}]", refused) for index, one in enumerate(value)]
        case MapOf(values) if isinstance(value, dict):
            return {key: accept(one, values, True, f"{path}[{quote(key)}]", refused) for key, one in value.items()}
        case Record(fields) if isinstance(value, dict):
            refused.extend(path + step(key) for key in value.keys() - {field.name for field in fields})
            read: dict[str, Any] = {}
            for field in fields:
                inner = path + step(field.name)
                if field.name not in value:
                    if field.required:
                        refused.append(inner)
                elif value[field.name] is None and not field.required:
                    read[field.name] = None
                else:
                    read[field.name] = accept(value[field.name], field.type, field.required, inner, refused)
            return read
    refused.append(path)
    return None


def step(name: str) -> str:
    """Write the path of a property."""
    return f".{name}" if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) else f"[{quote(name)}]"


def quote(name: str) -> str:
    """Write a name as a path holds it."""
    return json.dumps(name, ensure_ascii=not name.isprintable())


def tensor(value: Any, dtype: str, shape: tuple[int, ...], path: str, refused: list[str]) -> Any:
    """Accept one row of a tensor."""
    if not shape:
        return leaf(value, dtype, True, path, refused)
    if not isinstance(value, list) or (shape[0] >= 0 and len(value) != shape[0]):
        refused.append(path)
        return None
    return [tensor(one, dtype, shape[1:], f"{path}[{index}]", refused) for index, one in enumerate(value)]


def leaf(value: Any, name: str, required: bool, path: str, refused: list[str]) -> Any:
    """Accept a single value."""
    try:
        return scalar(value, name, required)
    except No:
        refused.append(path)
        return None


def scalar(value: Any, name: str, required: bool) -> Any:
    """Accept a single value, or raise No."""
    number = isinstance(value, int | float) and not isinstance(value, bool | Micros)
    if name in FLOATS:
        form, bits = FLOATS[name]
        if value is None or (number and isinstance(value, float) and math.isnan(value)):
            return math.nan
        if not number or (isinstance(value, int) and abs(value) > 2**bits):
            raise No
        return nearest(value, form)
    if value is None:
        if required and name not in {"string", "str"}:
            raise No
        return None
    if name in INTEGERS:
        if not number or (isinstance(value, float) and not math.isfinite(value)):
            raise No
        exact = Fraction(value)
        low, high = INTEGERS[name]
        if exact.denominator != 1 or not low <= exact <= high:
            raise No
        return int(exact)
    if name in {"boolean", "bool"} and isinstance(value, bool):
        return value
    if name in {"string", "str"} and isinstance(value, str):
        return value
    if name in {"binary", "bytes"} and isinstance(value, bytes):
        return value
    if name == "datetime" or name.startswith("datetime64"):
        micros = iso(value) if isinstance(value, str) else value
        # The least number of 64 bits is "not a time" to numpy.
        if isinstance(micros, Micros) and micros != -(2**63):
            if name == "datetime64[ns]" and not -(2**63) < micros * 1000 < 2**63:
                raise No
            return Micros(micros)
    raise No


def nearest(value: Any, form: str) -> float:
    """Round to the nearest number of a format, by struct; overflow is refused."""
    if isinstance(value, float) and math.isinf(value):
        return value
    try:
        return float(struct.unpack(form, struct.pack(form, value))[0])
    except OverflowError:
        raise No from None


def iso(text: str) -> Micros:
    """Read what `datetime.fromisoformat` reads too, of the extended form and no finer than microseconds."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6}0*)?)?(Z|[+-]\d\d:\d\d)?)?", text, re.ASCII):
        raise No
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise No from None
    aware = read if read.tzinfo else read.replace(tzinfo=UTC)
    return Micros((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))


def any_json(value: Any, path: str, refused: list[str]) -> Any:
    """Accept a value of any type: what JSON has, unchanged."""
    if isinstance(value, Micros | bytes):
        refused.append(path)
    elif isinstance(value, list):
        return [any_json(one, f"{path}[{index}]", refused) for index, one in enumerate(value)]
    elif isinstance(value, dict):
        return {key: any_json(one, f"{path}[{quote(key)}]", refused) for key, one in value.items()}
    return value


def canonical(value: Any) -> Any:
    """Make values comparable bit by bit: types are told apart, and so are -0.0 and 0.0; NaN is equal to itself."""
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else value.hex())
    if isinstance(value, list):
        return [canonical(one) for one in value]
    if isinstance(value, dict):
        return {key: canonical(one) for key, one in sorted(value.items())}
    return (value.__class__.__name__, value)


def kind_of(type: Type) -> str | None:
    """Name the scalar kind or dtype of a type with one value a row."""
    match type:
        case Scalar(kind):
            return kind.value
        case Tensor(dtype, shape) if len(shape) == 1:
            return dtype
    return None


ALL_KINDS = tuple(ScalarKind)
