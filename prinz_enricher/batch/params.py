"""The parameters of a call: checked against a signature, with its defaults filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prinz_enricher.batch import wanted
from prinz_enricher.batch.any_json import from_json
from prinz_enricher.batch.element import Admission, value_name
from prinz_enricher.batch.faults import Faults, quoted
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import (
    AnyValue,
    ListOf,
    MapOf,
    Micros,
    Param,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Type,
    from_value,
)
from prinz_enricher.signature.arrow import VALUE
from prinz_enricher.signature.value import TooDeep

_FLOAT_LIMIT = 3.4028235677973366e38
"""The least double that overflows as float32 when rounded to the nearest."""


def decode_params(params: Mapping[str, value_pb2.Value], signature: Signature) -> dict[str, object]:
    """Check the parameters of a call.

    A parameter is a Python value, so a `float` one is not rounded to float32; only its range is checked.

    Args:
        params: By name; those that are left out have their default.
        signature: Of the model.

    Returns:
        A Python value for each parameter of the signature: bool, int, float, str, `datetime` without a zone, a list of
        those, or a dict for an object; None where that is the default.

    Raises:
        InvalidInput: With every fault, such as `params["temperature"]`.
    """
    faults = Faults()
    values = {}
    for param in signature.params:
        given = params.get(param.name) if param.name in params else None
        values[param.name] = param.default if given is None else _decode(given, param, faults)
    known = {param.name for param in signature.params}
    for name in params:
        if name not in known:
            faults.add(f"params[{quoted(name)}]", "is no parameter of this model")
    faults.raise_any()
    return values


def _decode(given: value_pb2.Value, param: Param, faults: Faults) -> object:
    path = f"params[{quoted(param.name)}]"
    try:
        value = from_value(given)
    except TooDeep as exc:
        faults.add(path, str(exc))
        return None
    if value is None and param.default is None:
        return None
    admission = Admission(path, faults)
    wide = _as_python(param.type)
    if param.shape is None:
        return _checked(admission.admit(value, wide, True), param.type, path, faults)
    if not isinstance(value, list):
        faults.add(path, wanted.wrong_type(value_name(value), "list") if value is not None else wanted.NULL)
        return None
    return [
        _checked(admission.admit(one, wide, True, index), param.type, f"{path}[{index}]", faults)
        for index, one in enumerate(value)
    ]


def _as_python(type: Type) -> Type:
    """Widen floats to doubles, which Python's floats are."""
    return Scalar(ScalarKind.DOUBLE) if type == Scalar(ScalarKind.FLOAT) else type


def _checked(value: object, type: Type, path: str, faults: Faults) -> object:
    if type == Scalar(ScalarKind.FLOAT) and isinstance(value, float) and _FLOAT_LIMIT <= abs(value) < math.inf:
        faults.add(path, wanted.out_of_range("float"))
        return None
    try:
        return to_python(value, type)
    except OverflowError:
        faults.add(path, "is a date and time outside the years 1 to 9999")
        return None


def to_python(value: object, type: Type) -> object:
    """Bring what `Admission.admit` gave to a plain Python value.

    Args:
        value: The admitted value.
        type: Its type.

    Returns:
        `datetime` for an instant, a dict for a map, what JSON text holds for a value of any type.

    Raises:
        OverflowError: An instant is outside the range of `datetime`.
    """
    if value is None:
        return None
    match type, value:
        case Scalar(ScalarKind.DATETIME), int():
            return Micros(value).datetime()
        case ListOf(items), list():
            return [to_python(one, items) for one in value]
        case MapOf(values), list():
            return {key: to_python(one, values) for key, one in value}
        case Record(fields), dict():
            return {
                field.name: to_python(value[field.name] if field.required else value[field.name][VALUE], field.type)
                for field in fields
                if field.name in value
            }
        case AnyValue(), str():
            return from_json(value)
        case _:
            return value
