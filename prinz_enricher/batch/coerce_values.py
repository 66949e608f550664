"""The coercion policy for single values: nested ones, parameters, and values of any type as JSON text.

`coerce_arrays.py` is the same policy for whole Arrow arrays, and states it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Final

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import violation
from prinz_enricher.batch.primitive_arrays import NANOSECONDS, NotAnInstant, decimal_double, parse_instant
from prinz_enricher.batch.violation import Violations, property_step, quoted
from prinz_enricher.ipc.fields import VALUE
from prinz_enricher.signature import AnyValue, ListOf, MapOf, Micros, Record, Scalar, Tensor, Type, arrow_type
from prinz_enricher.signature.arrow import INTEGER_DTYPES
from prinz_enricher.signature.types import SCALAR_DTYPES
from prinz_enricher.signature.value import MAX_DEPTH, TOO_DEEP, UNSET, TooDeep

write_json: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=True, sort_keys=True, separators=(",", ":"), default=float
).encode
"""Writes a checked value as Python does: 1 and 1.0 stay apart, NaN and Infinity are kept; a decimal as its double."""

# One step of a path: to a property, as it is written; an element's index; or the key of an entry, alone in a tuple.
_Step = str | int | tuple[object]
_WIRE_TYPES: Final = frozenset({bool, int, float, str, bytes, Micros, list, dict})

_WHOLE: Final = {dtype: np.iinfo(dtype) for dtype in INTEGER_DTYPES}
_FLOATS: Final = {"float16": (11, "<e"), "float32": (24, "<f"), "float64": (53, "<d")}
# By dtype: the Python type whose values it takes, and no others.
_EXACT: Final[dict[str, type]] = {"bool": bool, "str": str, "object": str, "bytes": bytes}
# An instant finer than microseconds.
_TOO_FINE: Final = object()
_VALUE_NAMES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "a boolean"),
    (Micros, "a timestamp"),
    ((int, float, Decimal), "a number"),
    (str, "text"),
    (bytes, "binary"),
    (list, "a list"),
    (dict, "a record"),
)


class BadValue(ValueError):
    """A value that does not fit its type; the text of the error is that of a violation."""


class NotJson(ValueError):
    """Text that is not JSON, or that can't be read without a change to it."""


def coerce_values(values: Iterable[object], type: Type, required: bool, path: str, violations: Violations) -> pa.Array:
    """Return the Python values of a column, or those of `from_value`, as `arrow_type(type)`; None if one is refused."""
    before = len(violations)
    coerce = ValueCoercer(path, violations).coerce
    held = [coerce(value, type, required, row) for row, value in enumerate(violations.bounds.watched(values))]
    if len(violations) > before:
        return None
    try:
        return pa.array(held, arrow_type(type))
    except pa.ArrowInvalid:
        # More than Arrow's offsets can hold.
        violations.add(path, violation.TOO_LARGE)
        return None


class ValueCoercer:
    """Brings the values of one column or parameter, by its path such as `columns["alcohol"]`, to their type."""

    __slots__ = ("_base", "_path", "_take_null", "_violations")

    def __init__(self, base: str, violations: Violations, *, floats_and_text_take_null: bool = True) -> None:
        self._base = base
        self._violations = violations
        self._take_null = floats_and_text_take_null
        self._path: list[_Step] = []

    def coerce(self, value: object, type: Type, required: bool, *steps: _Step) -> object:
        """Bring a Python value, or one of `from_value`, at some steps within the column, to a type.

        Returns what `pyarrow.array` takes for the Arrow type: a float for a floating point number (NaN for a null), an
        int for an instant, a list of pairs for a map, JSON text for a value of any type; for a record a dict, where an
        optional property is a dict of its value. None for a refused value.
        """
        self._path[:] = steps
        return self._coerce(value, type, required)

    def _refuse(self, description: str, *steps: _Step) -> None:
        every = (*self._path, *steps)
        self._violations.add(lambda: self._base + "".join(map(_written, every)), description)

    def _coerce_part(self, value: object, type: Type, required: bool, step: _Step) -> object:
        self._path.append(step)
        coerced = self._coerce(value, type, required)
        self._path.pop()
        return coerced

    def _coerce(self, value: object, type: Type, required: bool) -> object:
        try:
            if value.__class__ not in _WIRE_TYPES and value is not None:
                value = plain(value)
            match type:
                case Scalar(kind):
                    return _leaf(value, SCALAR_DTYPES[kind], kind.value, required, take_null=self._take_null)
                case AnyValue():
                    value = plain_tree(value)
                    return None if value is None or not self._check_json(value) else write_json(value)
                case Tensor(dtype, shape):
                    return self._tensor(value, dtype, shape[1:], violation.type_name(type))
                case _:
                    return self._nested(value, type, required)
        except BadValue as exc:
            self._refuse(str(exc))
            return None

    def _nested(self, value: object, type: ListOf | MapOf | Record, required: bool) -> object:
        if value is None:
            if required:
                raise BadValue(violation.NULL)
            return None
        match type, value:
            case ListOf(items), list():
                return [self._coerce_part(one, items, True, index) for index, one in enumerate(value)]
            case MapOf(values), dict():
                return [
                    (key, self._coerce_part(one, values, True, (key,)))
                    for key, one in sorted(value.items())
                    if self._is_key(key)
                ]
            case Record(), dict():
                return self._record(value, type)
            case _:
                raise BadValue(violation.WRONG_TYPE.format(value_name(value), violation.type_name(type)))

    def _is_key(self, key: object) -> bool:
        if isinstance(key, str) and is_unicode(key):
            return True
        self._refuse(violation.KEY_NOT_UNICODE)
        return False

    def _record(self, value: dict[str, object], type: Record) -> dict[str, object]:
        coerced: dict[str, object] = {}
        unknown = len(value)
        for field in type.fields:
            step = property_step(field.name)
            if field.name in value:
                unknown -= 1
                given = value[field.name]
                # A null of an optional property stays one, also of a floating point number.
                is_null = not field.required and _is_null(given)
                held = None if is_null else self._coerce_part(given, field.type, field.required, step)
                coerced[field.name] = held if field.required else {VALUE: held}
            elif field.required:
                self._refuse(violation.MISSING_PROPERTY, step)
        if unknown:
            known = {field.name for field in type.fields}
            for name in [name for name in value if name not in known]:
                self._refuse(violation.UNKNOWN_PROPERTY, property_step(str(name)))
        return coerced

    def _tensor(self, value: object, dtype: str, shape: tuple[int, ...], name: str) -> object:
        if not shape:
            return _leaf(value, dtype, name, required=True)
        if value is None:
            raise BadValue(violation.NULL)
        if not isinstance(value, list):
            raise BadValue(violation.WRONG_TYPE.format(value_name(value), name))
        if shape[0] >= 0 and len(value) != shape[0]:
            raise BadValue(violation.WRONG_SIZE.format(shape[0]))
        rows = []
        for index, one in enumerate(value):
            self._path.append(index)
            try:
                rows.append(self._tensor(one, dtype, shape[1:], name))
            except BadValue as exc:
                self._refuse(str(exc))
            self._path.pop()
        return rows

    def _check_json(self, value: object, depth: int = 0) -> bool:
        """Return whether JSON can hold a value; what it can't, such as binary and timestamps, is refused."""
        if not isinstance(value, list | dict) or depth >= MAX_DEPTH:
            if (description := _json_violation(value)) is not None:
                self._refuse(description)
            return description is None
        if isinstance(value, list):
            parts: list[tuple[_Step, object]] = list(enumerate(value))
        elif all(isinstance(key, str) and is_unicode(key) for key in value):
            parts = [((key,), one) for key, one in value.items()]
        else:
            self._refuse(violation.KEY_NOT_UNICODE)
            return False
        fits = True
        for step, one in parts:
            self._path.append(step)
            # Each part is checked, also after one that is refused.
            fits &= self._check_json(one, depth + 1)
            self._path.pop()
        return fits


def _written(step: _Step) -> str:
    if isinstance(step, str):
        return step
    return f"[{quoted(str(step[0]))}]" if isinstance(step, tuple) else f"[{step}]"


def _json_violation(value: object) -> str | None:
    match value:
        case Micros():
            return violation.INSTANT_IN_ANY
        case bytes():
            return violation.BINARY_IN_ANY
        case list() | dict():
            return TOO_DEEP
        case str() if not is_unicode(value):
            return violation.NOT_UNICODE
        case Decimal() if decimal_double(value, np.dtype(np.float64)) is None:
            return violation.INEXACT_DECIMAL
        case None | bool() | int() | float() | str() | Decimal():
            return None
    return violation.UNSET_VALUE if value is UNSET else violation.OTHER_TYPE


def is_unicode(text: str) -> bool:
    """Return whether text can be written as UTF-8, so holds no half of a surrogate pair."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def from_json(text: str, levels: int = MAX_DEPTH) -> object:
    """Parse one JSON value as Python writes it, with NaN, Infinity and -Infinity allowed.

    Raises NotJson where it is not JSON, is nested too deep, has a key twice or a number that a double overflows on.
    """
    try:
        value: object = _parse_json(text)
    except NotJson:
        raise
    except (ValueError, RecursionError) as exc:
        raise NotJson(violation.NOT_JSON) from exc
    if not _is_shallow(value, levels):
        raise NotJson(TOO_DEEP)
    # Only an escape in the text can make half of a surrogate pair.
    if "\\u" in text and not is_unicode(write_json(value)):
        raise NotJson(violation.NOT_UNICODE)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    held = dict(pairs)
    if len(held) < len(pairs):
        raise NotJson(violation.DUPLICATE_KEY)
    return held


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJson(violation.NOT_JSON)
    return value


_parse_json: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite).decode
"""`json.loads` would make a decoder for each text."""


def _is_shallow(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list) or (levels > 0 and all(_is_shallow(one, levels - 1) for one in value))


def value_name(value: object) -> str:
    """Name the type of a value in a few words."""
    return next((name for types, name in _VALUE_NAMES if isinstance(value, types)), "of an unknown type")


def _is_null(value: object) -> bool:
    return value is None or (value.__class__ not in _WIRE_TYPES and plain(value) is None)


def plain(value: object) -> object:
    """Bring a Python value to a type of the wire: numpy's scalars and arrays, dates, tuples and mappings."""
    match value:
        case np.datetime64():
            if np.isnat(value):
                return None
            micros = value.astype("datetime64[us]")
            # An overflow does not come back the same either.
            return Micros(int(micros.astype(np.int64))) if micros.astype(value.dtype) == value else _TOO_FINE
        case np.generic():
            return float(value) if isinstance(value, np.floating) else value.item()
        case np.ndarray():
            return [plain(one) for one in value] if value.ndim else plain(value[()])
        case date() if value.__class__.__name__ != "NaTType":
            return _TOO_FINE if getattr(value, "nanosecond", 0) else Micros.of(value)
        case tuple():
            return list(value)
        case bytearray() | memoryview():
            return bytes(value)
        case Mapping():
            return dict(value)
        case bool() | int() | float() | str() | bytes() | list() | None | Decimal():
            return value
        case TooDeep():
            raise BadValue(TOO_DEEP)
    # pandas' missing values, without an import of pandas.
    return None if value.__class__.__name__ in {"NAType", "NaTType"} else value


def plain_tree(value: object, depth: int = 0) -> object:
    """Bring a Python value and all within it to types of the wire."""
    if value.__class__ not in _WIRE_TYPES:
        value = plain(value)
    if depth > MAX_DEPTH:
        raise BadValue(TOO_DEEP)
    if isinstance(value, list):
        return [plain_tree(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {key: plain_tree(one, depth + 1) for key, one in value.items()}
    return value


def _leaf(value: object, dtype: str, name: str, required: bool, *, take_null: bool = True) -> object:
    if value is UNSET:
        raise BadValue(violation.UNSET_VALUE)
    if value is None and required and not take_null:
        raise BadValue(violation.NULL)
    if dtype in _FLOATS:
        return _float(value, dtype, name)
    if value is None:
        if required and dtype not in {"str", "object"}:
            raise BadValue(violation.NULL)
        return None
    if dtype in _WHOLE:
        return _whole(value, dtype, name)
    if dtype not in _EXACT:
        return _instant(value, dtype, name)
    if not isinstance(value, _EXACT[dtype]):
        raise BadValue(violation.WRONG_TYPE.format(value_name(value), name))
    if isinstance(value, str) and not is_unicode(value):
        raise BadValue(violation.NOT_UNICODE)
    return value


def _whole(value: object, dtype: str, name: str) -> int:
    if isinstance(value, float | Decimal):
        if not (math.isfinite(value) if isinstance(value, float) else value.is_finite()):
            raise BadValue(violation.NOT_FINITE)
        if isinstance(value, Decimal) and value.adjusted() > 20:
            raise BadValue(violation.OUT_OF_RANGE.format(name))
        if not (value.is_integer() if isinstance(value, float) else value == value.to_integral_value()):
            raise BadValue(violation.NOT_WHOLE)
    elif not isinstance(value, int) or isinstance(value, bool | Micros):
        raise BadValue(violation.WRONG_TYPE.format(value_name(value), name))
    if not _WHOLE[dtype].min <= (whole := int(value)) <= _WHOLE[dtype].max:
        raise BadValue(violation.OUT_OF_RANGE.format(name))
    return whole


def _float(value: object, dtype: str, name: str) -> float:
    if value is None:
        return math.nan
    bits, form = _FLOATS[dtype]
    if isinstance(value, int) and not isinstance(value, bool | Micros):
        if not -(1 << bits) <= value <= 1 << bits:
            raise BadValue(violation.INEXACT.format(name, bits))
        return float(value)
    if isinstance(value, Decimal):
        double = decimal_double(value, np.dtype(dtype)) if not value.is_nan() else math.nan
        if double is None:
            raise BadValue(violation.INEXACT_DECIMAL)
        value = double
    if not isinstance(value, float):
        raise BadValue(violation.WRONG_TYPE.format(value_name(value), name))
    if dtype == "float64":
        return value
    try:
        return float(struct.unpack(form, struct.pack(form, value))[0])
    except OverflowError as exc:
        raise BadValue(violation.OUT_OF_RANGE.format(name)) from exc


def _instant(value: object, dtype: str, name: str) -> int:
    if value is _TOO_FINE:
        raise BadValue(violation.TOO_FINE)
    if isinstance(value, str):
        try:
            value = parse_instant(value)
        except NotAnInstant as exc:
            raise BadValue(str(exc)) from exc
    if not isinstance(value, Micros):
        raise BadValue(violation.WRONG_TYPE.format(value_name(value), name))
    unit = dtype.removeprefix("datetime64").strip("[]") or "us"
    # Coarser units are held in seconds.
    scaled, rest = divmod(int(value) * 1000, NANOSECONDS.get(unit, 10**9))
    if rest:
        raise BadValue(f"is finer than {dtype}")
    if not -(1 << 63) < scaled < 1 << 63:
        raise BadValue(violation.TOO_FAR)
    return scaled
