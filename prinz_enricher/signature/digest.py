"""The digest of a signature: equal digests take and give the same columns."""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime

from prinz_enricher.signature.types import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Param,
    Record,
    Scalar,
    Signature,
    Tensor,
    Type,
)


def signature_digest(signature: Signature) -> str:
    """Hash the names, order and types of a signature.

    Descriptions and the origin are left out: they change nothing about a call.

    Args:
        signature: Any signature.

    Returns:
        32 hexadecimal digits, the same in every process and version.
    """
    canonical = {
        "inputs": [_field(field) for field in signature.inputs],
        "outputs": [_field(field) for field in signature.outputs],
        "params": [_param(param) for param in signature.params],
    }
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _field(field: Field) -> list[object]:
    return [field.name, _type(field.type), field.required]


def _param(param: Param) -> list[object]:
    shape = None if param.shape is None else list(param.shape)
    return [param.name, _type(param.type), _default(param.default), shape]


def _type(type: Type) -> object:
    match type:
        case Scalar(kind):
            return kind.value
        case ListOf(items):
            return {"list": _type(items)}
        case MapOf(values):
            return {"map": _type(values)}
        case Record(fields):
            return {"record": [_field(field) for field in fields]}
        case Tensor(dtype, shape):
            return {"tensor": [dtype, list(shape)]}
        case AnyValue():
            return "any"


def _default(value: object) -> object:
    match value:
        case datetime() | date():
            return {"datetime": value.isoformat()}
        case bytes():
            return {"binary": value.hex()}
        case list() | tuple():
            return [_default(one) for one in value]
        case dict():
            return {"record": {str(key): _default(one) for key, one in value.items()}}
        case _:
            return value
