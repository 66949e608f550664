"""The parameters of a call: checked against a signature as they leave and as they come, with its defaults filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prinz_enricher.batch import wanted
from prinz_enricher.batch.any_json import from_json
from prinz_enricher.batch.element import Admission, Refused, plain_tree, value_name
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
    to_value,
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
        InvalidInput: With every fault, such as `params["temperature"]`. A null is one, unless it is the default or
            its type is `any`.
    """
    faults = Faults()
    given: dict[str, object] = {}
    for name in params:
        try:
            given[name] = from_value(params[name])
        except TooDeep as exc:
            faults.add(_path(name), str(exc))
    admitted = _admit_all(given, signature, faults)
    return {param.name: admitted.get(param.name, param.default) for param in signature.params}


def encode_params(params: Mapping[str, object], signature: Signature) -> dict[str, value_pb2.Value]:
    """Write the parameters of a call, checked by the same policy as in `decode_params`.

    Args:
        params: Python values by name, as rows have them: also numpy's scalars and arrays, decimals, dates.
        signature: Of the model.

    Returns:
        Those that are given, as they travel.

    Raises:
        InvalidInput: With every fault, such as `params["temperature"]`.
    """
    admitted = _admit_all({str(name): value for name, value in params.items()}, signature, Faults())
    return {name: to_value(value) for name, value in admitted.items()}


def _admit_all(given: Mapping[str, object], signature: Signature, faults: Faults) -> dict[str, object]:
    by_name = {param.name: param for param in signature.params}
    admitted = {}
    for name, value in given.items():
        if name in by_name:
            admitted[name] = _admit(value, by_name[name], faults)
        else:
            faults.add(_path(name), "is no parameter of this model")
    faults.raise_any()
    return admitted


def _path(name: str) -> str:
    return f"params[{quoted(name)}]"


def _admit(given: object, param: Param, faults: Faults) -> object:
    path = _path(param.name)
    try:
        value = plain_tree(given)
    except Refused as exc:
        faults.add(path, str(exc))
        return None
    if value is None and param.default is None:
        return None
    # MLflow's `_enforce_params_schema` hands a None of any scalar type on to the model as it is. A model that declares
    # a number computes with it and fails; NaN, which pandas makes of it in a column, would be another value than given.
    admission = Admission(path, faults, floats_and_text_take_null=False)
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
