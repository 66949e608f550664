"""JSON of callers as columns of the wire: what a number, a text or a null means is exact, or refused.

Python's own parser reads it: the quicker ones (orjson, msgspec) take the last of two equal keys and the nearest double
of `9007199254740993.0`, and let no other thread run while they read a large body.

- A number for an integer or a long is exactly what is written, with or without a fraction (`5.000`). For a float or a
  double, and in a value of any type, one with a fraction or an exponent is the nearest double, and a whole one must be
  one that the type holds exactly.
- `"NaN"`, `"Infinity"` and `"-Infinity"` are numbers where a float or a double is declared, as protobuf's JSON has it.
- Binary is base64 with its padding; a date and time is ISO-8601 text, with an offset or in UTC.
- The columns are left to the coercion policy of the service as they are otherwise.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np

from prinz_enricher.batch import violation
from prinz_enricher.batch.coerce_values import BadValue, is_unicode
from prinz_enricher.batch.violation import Violations, column_path, quoted
from prinz_enricher.contract import value_pb2
from prinz_enricher.errors import InvalidRequest
from prinz_enricher.signature import AnyValue, Field, ListOf, MapOf, Param, Record, Scalar, ScalarKind, Tensor, Type
from prinz_enricher.signature.value import MAX_DEPTH, TooDeep, fill_value

MAX_DIGITS: Final = 1_000
"""Characters of a number: all digits of any double fit."""

NOT_BASE64: Final = "is not base64 text with its padding, which binary is in JSON"
NOT_64_BITS: Final = "is a whole number beyond 64 bits"

NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""The numbers that JSON does not have, by their texts."""

# Values that columns have, beside this many times those that the rows have.
_MAX_CELLS: Final = 100_000
_MAX_SPARSE: Final = 16
_NULL: Final = type(None)
_EXACT_BITS: Final = {"float16": 11, "float": 24, "float32": 24}
_MAX_FLOAT: Final = 3.4028234e38
_INT32: Final = 1 << 31
_INT64: Final = 1 << 63
# A double is the one whole number that so many characters write.
_SHORT: Final = 16
_FAR: Final = float(1 << 53)
_KINDS_OF_NULLS: Final = {
    ScalarKind.BOOLEAN: ("bools", False),
    ScalarKind.INTEGER: ("int32s", 0),
    ScalarKind.LONG: ("int64s", 0),
    ScalarKind.FLOAT: ("floats", math.nan),
    ScalarKind.DOUBLE: ("doubles", math.nan),
    ScalarKind.STRING: ("strings", ""),
    ScalarKind.BINARY: ("binaries", b""),
    ScalarKind.DATETIME: ("timestamps", 0),
}
_KINDS: Final[dict[type, tuple[str, Any]]] = {
    bool: ("bools", False), int: ("int64s", 0), float: ("doubles", math.nan), str: ("strings", ""),
    bytes: ("binaries", b""),
}  # fmt: skip


class _Unreadable(ValueError):
    """A body that is not JSON as this service reads it; the text of the error says why."""


def parse_json(body: bytes, *, tokens: bool = False) -> Any:
    """Parse a body, with a decimal for a number that a double does not tell exactly.

    The tokens `NaN`, `Infinity` and `-Infinity`, which Python and MLflow write, are read only if asked for. Raises
    InvalidRequest where the body is not UTF-8, or not JSON, or has a key twice, too many levels or digits, or a number
    beyond a double.
    """
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidRequest("body", "begins with a byte order mark; send UTF-8 without one")
    try:
        return (_parse_with_tokens if tokens else _parse)(body.decode())
    except _Unreadable as error:
        raise InvalidRequest("body", str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("body", "is not UTF-8") from None
    except RecursionError:
        raise InvalidRequest("body", "is nested too deep") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest("body", f"is not JSON, see line {error.lineno}, column {error.colno}") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    held = dict(pairs)
    if len(held) < len(pairs):
        raise _Unreadable("has an object with the same key twice")
    return held


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Unreadable(f"has a number of more than {MAX_DIGITS} digits")
    return int(text)


def _fraction(text: str) -> float | Decimal:
    if len(text) > MAX_DIGITS:
        raise _Unreadable(f"has a number of more than {MAX_DIGITS} digits")
    value = float(text)
    if not value.is_integer():
        if math.isinf(value):
            raise _Unreadable("has a number beyond the range of a double")
        return value
    if value and len(text) <= _SHORT and -_FAR < value < _FAR:
        return value
    try:
        exact = Decimal(text)
    except ArithmeticError:
        raise _Unreadable("has a number beyond the range of a double") from None
    return value if exact == value else exact


def _no_token(_: str) -> float:
    raise _Unreadable('has NaN or Infinity as it is, which is no JSON; write "NaN", "Infinity" or "-Infinity"')


def _decoder(constant: Callable[[str], float]) -> Callable[[str], Any]:
    hooks: dict[str, Any] = {"parse_float": _fraction, "parse_int": _whole, "parse_constant": constant}
    return json.JSONDecoder(object_pairs_hook=_unique, **hooks).decode


_parse: Final = _decoder(_no_token)
_parse_with_tokens: Final = _decoder(NOT_FINITE.__getitem__)


def columns_of(rows: object, path: str = "rows") -> tuple[dict[str, list[object]], int]:
    """Return parsed rows, which are objects, column by column, and how many there are.

    A key that a row lacks is a null; a column that all of them lack is not there. Raises InvalidRequest where they are
    no list of objects, or lack so much that the columns would take far more memory than the rows.
    """
    if not isinstance(rows, list):
        raise InvalidRequest(path, "is not a list of objects")
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InvalidRequest(f"{path}[{place}]", "is not an object")
    names = dict.fromkeys(name for row in rows for name in row)
    if len(names) * len(rows) > _MAX_CELLS + _MAX_SPARSE * sum(map(len, rows)):
        raise InvalidRequest(path, "lack most of their columns; send nulls, or rows of other columns apart")
    return {name: [row.get(name) for row in rows] for name in names}, len(rows)


def json_columns(columns: Mapping[str, Sequence[object]], rows: int, fields: Sequence[Field]) -> value_pb2.ColumnBatch:
    """Write columns of parsed JSON, each of a value for each row, for inputs of these fields.

    A column that is not among them is written as it is, for the service to refuse it. Raises InvalidInput with each
    value that has no form on the wire.
    """
    message = value_pb2.ColumnBatch(num_rows=rows)
    types = {field.name: field.type for field in fields}
    violations = Violations()
    for name, values in columns.items():
        column = message.columns.add()
        try:
            column.name = name
        except UnicodeEncodeError:
            raise InvalidRequest("rows", "have a name that is not Unicode text") from None
        _write(column, values, types.get(name, AnyValue()), violations)
    violations.raise_any()
    return message


def json_params(given: Mapping[str, object], params: Sequence[Param]) -> dict[str, value_pb2.Value]:
    """Write parameters of parsed JSON; raises InvalidInput with each that has no form on the wire."""
    types = {param.name: param.type if param.shape is None else ListOf(param.type) for param in params}
    violations = Violations()
    written = {}
    for name, value in given.items():
        if not is_unicode(name):
            raise InvalidRequest("params", "have a name that is not Unicode text")
        written[name] = value_pb2.Value()
        _fill(written[name], value, types.get(name, AnyValue()), f"params[{quoted(name)}]", violations)
    violations.raise_any()
    return written


def _write(column: value_pb2.Column, values: Sequence[object], type: Type, violations: Violations) -> None:
    if len(values) == 1 and isinstance(type, Scalar) and _write_one(column, values[0], type.kind):
        return
    path = column_path(column.name)
    if isinstance(type, Scalar):
        held = _leaves(values, type.kind, path, violations)
        if held is None or _write_scalars(column, held, type.kind):
            return
        values = held
    column.nested.SetInParent()
    add = column.nested.values.add
    for row, value in enumerate(values):
        _fill(add(), value, type, f"{path}[{row}]", violations)


def _write_one(column: value_pb2.Column, value: Any, kind: ScalarKind) -> bool:
    """Write the most frequent values of a row alone, which need no look; returns False for all others."""
    if value.__class__ is float and kind is ScalarKind.DOUBLE:
        column.doubles.values.append(value)
    elif value.__class__ is str and kind is ScalarKind.STRING and value.isascii():
        column.strings.values.append(value)
    elif value.__class__ is int and kind is ScalarKind.LONG and -_INT64 <= value < _INT64:
        column.int64s.values.append(value)
    elif value.__class__ is bool and kind is ScalarKind.BOOLEAN:
        column.bools.values.append(value)
    else:
        return False
    return True


def _fill(message: value_pb2.Value, value: object, type: Type, path: str, violations: Violations) -> None:
    try:
        fill_value(message, _nested(value, type))
    except UnicodeEncodeError:
        violations.add(path, violation.NOT_UNICODE)
    except ValueError as error:
        violations.add(path, str(error))


def _leaves(values: Sequence[object], kind: ScalarKind, path: str, violations: Violations) -> Sequence[object] | None:
    """Return the values of a scalar column as those of the wire; None where one of them has no form there."""
    kinds = set(map(type, values))
    if kinds <= {float, bool} or (kinds <= {float, bool, int, _NULL} and _are_64_bits(values)):
        return values
    if kinds == {str} and kind is not ScalarKind.BINARY and _are_unicode(values):
        return values if kind not in {ScalarKind.FLOAT, ScalarKind.DOUBLE} else [_leaf(one, kind) for one in values]
    held, before = [], len(violations)
    for row, value in enumerate(values):
        try:
            if isinstance(value, str) and not is_unicode(value):
                raise BadValue(violation.NOT_UNICODE)  # noqa: TRY301 - as each refusal of a value
            held.append(_leaf(value, kind))
        except BadValue as error:
            violations.add(f"{path}[{row}]", str(error))
    return held if len(violations) == before else None


def _are_64_bits(values: Sequence[Any]) -> bool:
    whole = [value for value in values if value.__class__ is int]
    return not whole or (min(whole) >= -_INT64 and max(whole) < _INT64)


def _are_unicode(values: Sequence[Any]) -> bool:
    return is_unicode("".join(values))


def _write_scalars(column: value_pb2.Column, values: Sequence[Any], kind: ScalarKind) -> bool:
    """Write values as a column of one kind; returns False where they are of several."""
    kinds = set(map(type, values))
    has_null = _NULL in kinds
    kinds.discard(_NULL)
    if kinds == {int, float} or (kinds == {int} and kind in {ScalarKind.FLOAT, ScalarKind.DOUBLE}):
        bound = 1 << _EXACT_BITS.get(kind.value, 53)
        if any(value.__class__ is int and not -bound <= value <= bound for value in values):
            return False
        if kind in {ScalarKind.FLOAT, ScalarKind.DOUBLE}:
            values, kinds = [value if value is None else float(value) for value in values], {float}
    if len(kinds) > 1 or not all(one in _KINDS for one in kinds):
        return False
    name, blank = _KINDS[next(iter(kinds))] if kinds else _KINDS_OF_NULLS[kind]
    if has_null:
        filled = [blank if value is None else value for value in values]
        if name not in {"doubles", "floats"}:
            column.validity = np.packbits([value is not None for value in values], bitorder="little").tobytes()
        values = filled
    # As narrow as the model's own, where that changes no value or rounds it as the service would.
    if name == "int64s" and kind is ScalarKind.INTEGER and all(-_INT32 <= value < _INT32 for value in values):
        name = "int32s"
    if name == "doubles" and kind is ScalarKind.FLOAT and not any(abs(value) >= _MAX_FLOAT for value in values):
        name = "floats"
    written = getattr(column, name)
    written.SetInParent()
    written.values.extend(values)
    return True


def _nested(value: object, type: Type, depth: int = 0) -> object:
    """Return parsed JSON as values of the wire; what does not fit its type is left to the service to refuse."""
    if depth > MAX_DEPTH:
        raise TooDeep
    if isinstance(value, list):
        items: Type = type.items if isinstance(type, ListOf) else AnyValue()
        if isinstance(type, Tensor) and len(type.shape) > 1:
            items = Tensor(type.dtype, type.shape[1:])
        return [_nested(one, items, depth + 1) for one in value]
    if isinstance(value, dict):
        known = {field.name: field.type for field in type.fields} if isinstance(type, Record) else {}
        other = type.values if isinstance(type, MapOf) else AnyValue()
        return {name: _nested(one, known.get(name, other), depth + 1) for name, one in value.items()}
    match type:
        case Scalar(kind):
            return _leaf(value, kind)
        case Tensor(dtype):
            return _leaf(value, dtype)
    return _leaf(value, "any")


def _leaf(value: object, kind: str) -> object:
    """Return a value that is neither a list nor an object, for the scalar type or the dtype of this name."""
    floating, whole = kind.startswith(("float", "double")), kind.startswith(("int", "uint", "long"))
    if isinstance(value, Decimal):
        if not whole:
            return float(value)
        if value != value.to_integral_value():
            raise BadValue(violation.NOT_WHOLE)
        value = int(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        inexact = violation.INEXACT.format(kind, _EXACT_BITS.get(kind, 53))
        raise BadValue(inexact if floating else violation.OUT_OF_RANGE.format(kind) if whole else NOT_64_BITS)
    if isinstance(value, str):
        if floating:
            return NOT_FINITE.get(value, value)
        if kind in {"binary", "bytes"}:
            return _binary(value)
    return value


def _binary(text: str) -> bytes:
    try:
        held = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadValue(NOT_BASE64) from None
    # Other texts of the same bytes have bits that nobody reads.
    if base64.b64encode(held).decode() != text:
        raise BadValue(NOT_BASE64)
    return held
