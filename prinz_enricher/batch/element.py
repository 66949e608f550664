"""Single values into the form that Arrow takes for their type: the coercion policy for nested values and parameters.

`coerce.py` is the same policy for whole Arrow arrays.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final

import numpy as np

from prinz_enricher.batch import wanted
from prinz_enricher.batch.any_json import is_unicode, to_json, too_deep
from prinz_enricher.batch.faults import Faults, Step, joined, property_step, quoted
from prinz_enricher.batch.instant import NotAnInstant, parse_instant
from prinz_enricher.batch.number import decimal_double
from prinz_enricher.signature import AnyValue, ListOf, MapOf, Micros, Record, Scalar, ScalarKind, Tensor, Type
from prinz_enricher.signature.arrow import VALUE
from prinz_enricher.signature.value import MAX_DEPTH, UNSET, TooDeep

_WIRE_TYPES: Final = frozenset({bool, int, float, str, bytes, Micros, list, dict})

_WHOLE: Final = {
    name: np.iinfo(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
_FLOATS: Final = {"float16": (11, "<e"), "float32": (24, "<f"), "float64": (53, "<d")}
_SCALAR_DTYPES: Final = {
    ScalarKind.BOOLEAN: "bool",
    ScalarKind.INTEGER: "int32",
    ScalarKind.LONG: "int64",
    ScalarKind.FLOAT: "float32",
    ScalarKind.DOUBLE: "float64",
    ScalarKind.STRING: "str",
    ScalarKind.BINARY: "bytes",
    ScalarKind.DATETIME: "datetime64[us]",
}
_PER_MICROSECOND: Final = {"s": 10**6, "ms": 10**3, "us": 1}


class Refused(ValueError):
    """A value that does not fit its type; the text of the error is that of a violation."""


class Admission:
    """Checks the values of one column or parameter.

    Args:
        base: Its path, such as `columns["alcohol"]`.
        faults: Takes what is refused.
        floats_and_text_take_null: Whether they do where a value is required, as in a column.
    """

    __slots__ = ("_base", "_faults", "_path", "_take_null")

    def __init__(self, base: str, faults: Faults, *, floats_and_text_take_null: bool = True) -> None:
        self._base = base
        self._faults = faults
        self._take_null = floats_and_text_take_null
        self._path: list[Step] = []

    def admit(self, value: object, type: Type, required: bool, *steps: Step) -> object:
        """Bring a value to a type.

        Args:
            value: A Python value, or one that `from_value` gave.
            type: What is wanted.
            required: Whether a null is refused, where the type does not take it.
            steps: The path of the value within the column.

        Returns:
            What `pyarrow.array` takes for the Arrow type: a float for a floating point number (NaN for a null), an int
            for an instant, a list of pairs for a map, JSON text for a value of any type; for a record a dict, where an
            optional property is a dict of its value. None for a refused value.
        """
        self._path[:] = steps
        return self._admit(value, type, required)

    def _refuse(self, description: str) -> None:
        self._faults.add(joined(self._base, self._path), description)

    def _admit(self, value: object, type: Type, required: bool) -> object:
        try:
            if value.__class__ not in _WIRE_TYPES and value is not None:
                value = plain(value)
            match type:
                case Scalar(kind):
                    return _leaf(value, _SCALAR_DTYPES[kind], kind.value, required, take_null=self._take_null)
                case AnyValue():
                    return to_json(value if value is None else plain_tree(value), self._base, self._path, self._faults)
                case Tensor(dtype, shape):
                    return self._tensor(value, dtype, shape[1:], wanted.type_name(type))
                case _:
                    return self._nested(value, type, required)
        except Refused as exc:
            self._refuse(str(exc))
            return None

    def _nested(self, value: object, type: ListOf | MapOf | Record, required: bool) -> object:
        if value is None:
            if required:
                raise Refused(wanted.NULL)
            return None
        match type, value:
            case ListOf(items), list():
                return [self._step(one, items, True, index) for index, one in enumerate(value)]
            case MapOf(values), dict():
                return [
                    (key, self._step(one, values, True, f"[{quoted(key)}]"))
                    for key, one in sorted(value.items())
                    if self._is_key(key)
                ]
            case Record(), dict():
                return self._record(value, type)
            case _:
                raise Refused(wanted.wrong_type(value_name(value), wanted.type_name(type)))

    def _is_key(self, key: object) -> bool:
        if isinstance(key, str) and is_unicode(key):
            return True
        self._refuse(wanted.KEY_NOT_UNICODE)
        return False

    def _record(self, value: dict[str, object], type: Record) -> dict[str, object]:
        admitted: dict[str, object] = {}
        unknown = len(value)
        for field in type.fields:
            step = property_step(field.name)
            if field.name in value:
                unknown -= 1
                given = value[field.name]
                if field.required:
                    admitted[field.name] = self._step(given, field.type, True, step)
                else:
                    # A null stays one, also of a floating point number.
                    held = None if _is_null(given) else self._step(given, field.type, False, step)
                    admitted[field.name] = {VALUE: held}
            elif field.required:
                self._path.append(step)
                self._refuse(wanted.MISSING_PROPERTY)
                self._path.pop()
        if unknown:
            known = {field.name for field in type.fields}
            for name in value:
                if name not in known:
                    self._path.append(property_step(str(name)))
                    self._refuse(wanted.UNKNOWN_PROPERTY)
                    self._path.pop()
        return admitted

    def _tensor(self, value: object, dtype: str, shape: tuple[int, ...], name: str) -> object:
        if not shape:
            return _leaf(value, dtype, name, required=True)
        if value is None:
            raise Refused(wanted.NULL)
        if not isinstance(value, list):
            raise Refused(wanted.wrong_type(value_name(value), name))
        if shape[0] >= 0 and len(value) != shape[0]:
            raise Refused(wanted.wrong_size(shape[0]))
        rows = []
        for index, one in enumerate(value):
            self._path.append(index)
            try:
                rows.append(self._tensor(one, dtype, shape[1:], name))
            except Refused as exc:
                self._refuse(str(exc))
            self._path.pop()
        return rows

    def _step(self, value: object, type: Type, required: bool, step: Step) -> object:
        self._path.append(step)
        admitted = self._admit(value, type, required)
        self._path.pop()
        return admitted


def value_name(value: object) -> str:
    """Name the type of a value in a few words."""
    for types, name in _VALUE_NAMES:
        if isinstance(value, types):
            return name
    return "of an unknown type"


_VALUE_NAMES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "a boolean"),
    (Micros, "a timestamp"),
    ((int, float, Decimal), "a number"),
    (str, "text"),
    (bytes, "binary"),
    (list, "a list"),
    (dict, "a record"),
)


def _is_null(value: object) -> bool:
    return value is None or (value.__class__ not in _WIRE_TYPES and plain(value) is None)


def plain(value: object) -> object:
    """Bring a Python value to what the wire has: numpy's scalars and arrays, dates, tuples and mappings."""
    match value:
        case np.datetime64():
            return _from_datetime64(value)
        case np.generic():
            item = value.item()
            return float(value) if isinstance(value, np.floating) else item
        case np.ndarray():
            return [plain(one) for one in value] if value.ndim else plain(value[()])
        case date():
            return _from_date(value)
        case tuple():
            return list(value)
        case bytearray() | memoryview():
            return bytes(value)
        case Mapping():
            return dict(value)
        case bool() | int() | float() | str() | bytes() | list() | None | Decimal():
            return value
    if isinstance(value, TooDeep):
        raise Refused(str(value))
    if value.__class__.__name__ in {"NAType", "NaTType"}:  # pandas, which this package does not import
        return None
    return value


def plain_tree(value: object, depth: int = 0) -> object:
    """Bring a Python value and all within it to what the wire has."""
    if value.__class__ not in _WIRE_TYPES:
        value = plain(value)
    if depth > MAX_DEPTH:
        raise Refused(too_deep())
    if isinstance(value, list):
        return [plain_tree(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {key: plain_tree(one, depth + 1) for key, one in value.items()}
    return value


class _TooFine:
    """An instant finer than microseconds."""


_TOO_FINE: Final = _TooFine()


def _from_date(value: date) -> object:
    if value.__class__.__name__ == "NaTType":
        return None
    if getattr(value, "nanosecond", 0):
        return _TOO_FINE
    return Micros.of(value)


def _from_datetime64(value: np.datetime64) -> object:
    if np.isnat(value):
        return None
    micros = value.astype("datetime64[us]")
    # Also tells what overflows: neither comes back the same.
    return Micros(int(micros.astype(np.int64))) if micros.astype(value.dtype) == value else _TOO_FINE


def _leaf(value: object, dtype: str, name: str, required: bool, *, take_null: bool = True) -> object:
    if value is UNSET:
        raise Refused(wanted.UNSET_VALUE)
    if value is None and required and not take_null:
        raise Refused(wanted.NULL)
    if dtype in _FLOATS:
        return _float(value, dtype, name)
    if value is None:
        if required and dtype not in {"str", "object"}:
            raise Refused(wanted.NULL)
        return None
    if dtype in _WHOLE:
        return _whole(value, dtype, name)
    if dtype in _OTHERS:
        return _OTHERS[dtype](value, name)
    return _instant_of(value, dtype, name)


def _whole(value: object, dtype: str, name: str) -> int:
    whole: Any
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Refused(wanted.NOT_FINITE)
        if not value.is_integer():
            raise Refused(wanted.NOT_WHOLE)
        whole = int(value)
    elif isinstance(value, Decimal):
        if not value.is_finite():
            raise Refused(wanted.NOT_FINITE)
        if value.adjusted() > 20:
            raise Refused(wanted.out_of_range(name))
        if value != value.to_integral_value():
            raise Refused(wanted.NOT_WHOLE)
        whole = int(value)
    elif isinstance(value, int) and not isinstance(value, bool | Micros):
        whole = value
    else:
        raise Refused(wanted.wrong_type(value_name(value), name))
    if not _WHOLE[dtype].min <= whole <= _WHOLE[dtype].max:
        raise Refused(wanted.out_of_range(name))
    return int(whole)


def _float(value: object, dtype: str, name: str) -> float:
    if value is None:
        return math.nan
    bits, form = _FLOATS[dtype]
    if isinstance(value, int) and not isinstance(value, bool | Micros):
        if not -(1 << bits) <= value <= 1 << bits:
            raise Refused(wanted.inexact(name, bits))
        return float(value)
    if isinstance(value, Decimal):
        double = decimal_double(value, np.dtype(dtype)) if not value.is_nan() else math.nan
        if double is None:
            raise Refused(wanted.INEXACT_DECIMAL)
        value = double
    if not isinstance(value, float):
        raise Refused(wanted.wrong_type(value_name(value), name))
    if dtype == "float64":
        return value
    try:
        return float(struct.unpack(form, struct.pack(form, value))[0])
    except OverflowError as exc:
        raise Refused(wanted.out_of_range(name)) from exc


def _boolean(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise Refused(wanted.wrong_type(value_name(value), name))
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise Refused(wanted.wrong_type(value_name(value), name))
    if not is_unicode(value):
        raise Refused(wanted.NOT_UNICODE)
    return value


def _binary(value: object, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise Refused(wanted.wrong_type(value_name(value), name))
    return value


def _instant_of(value: object, dtype: str, name: str) -> int:
    if value is _TOO_FINE:
        raise Refused(wanted.TOO_FINE)
    if isinstance(value, str):
        try:
            value = parse_instant(value)
        except NotAnInstant as exc:
            raise Refused(str(exc)) from exc
    if not isinstance(value, Micros):
        raise Refused(wanted.wrong_type(value_name(value), name))
    unit = dtype.removeprefix("datetime64").strip("[]") or "us"
    if unit == "ns":
        scaled, rest = int(value) * 1000, 0
    else:
        scaled, rest = divmod(int(value), _PER_MICROSECOND.get(unit, 10**6))
    if rest:
        raise Refused(f"is finer than {dtype}")
    if not -(1 << 63) < scaled < 1 << 63:
        raise Refused(wanted.TOO_FAR)
    return scaled


_OTHERS: Final[dict[str, Callable[[object, str], object]]] = {
    "bool": _boolean,
    "str": _text,
    "object": _text,
    "bytes": _binary,
}
