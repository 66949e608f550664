"""What a model's signature is: plain, immutable values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cached_property
from typing import Final


class SignatureError(ValueError):
    """A signature can't be read; the text says in one sentence why."""


class ScalarKind(StrEnum):
    """The scalar types, by their names in MLflow's JSON (`mlflow.types.DataType`)."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    LONG = "long"
    FLOAT = "float"
    DOUBLE = "double"
    STRING = "string"
    BINARY = "binary"
    DATETIME = "datetime"


SCALAR_DTYPES: Final = {
    ScalarKind.BOOLEAN: "bool",
    ScalarKind.INTEGER: "int32",
    ScalarKind.LONG: "int64",
    ScalarKind.FLOAT: "float32",
    ScalarKind.DOUBLE: "float64",
    ScalarKind.STRING: "str",
    ScalarKind.BINARY: "bytes",
    ScalarKind.DATETIME: "datetime64[us]",
}
"""The numpy dtype whose values each scalar type has."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value."""

    kind: ScalarKind


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one type: MLflow's array; `sparkml_vector` is a list of doubles."""

    items: Type


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map from strings to one type: MLflow's map."""

    values: Type


@dataclass(frozen=True, slots=True)
class Record:
    """Named fields, each of its own type: MLflow's object."""

    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of a numpy dtype (`str` for text). Its first dimension is the rows; -1 is a dimension of any size."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnyValue:
    """A value of any type, unchecked."""


Type = Scalar | ListOf | MapOf | Record | Tensor | AnyValue


@dataclass(frozen=True, slots=True)
class Field:
    """An input, an output, or a property of a record; MLflow's integer names are decimal text."""

    name: str
    type: Type
    required: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of a prediction; its shape is None for a single value, `(-1,)` for a list of any length."""

    name: str
    type: Type
    default: object
    shape: tuple[int, ...] | None = None


class Origin(StrEnum):
    """Where a signature comes from."""

    DECLARED = "declared"
    INFERRED = "inferred"
    MISSING = "missing"
    OBSERVED = "observed"


@dataclass(frozen=True)
class Signature:
    """The inputs, outputs and parameters of a model version, in the order of the model's own signature.

    A model without a signature has no inputs, one output `output_0` of any type, and the origin MISSING.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    params: tuple[Param, ...] = ()
    origin: Origin = Origin.DECLARED

    @cached_property
    def digest(self) -> str:
        """A hash of names, order and types: 32 hexadecimal digits, the same in every process and version.

        Descriptions and the origin are left out, since they change nothing about a call.
        """
        canonical = {
            "inputs": [_canonical_field(field) for field in self.inputs],
            "outputs": [_canonical_field(field) for field in self.outputs],
            "params": [
                [one.name, _canonical_type(one.type), _canonical_default(one.default), one.shape] for one in self.params
            ],
        }
        text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    def __hash__(self) -> int:
        # By the digest, which is computed once: a signature is the key of caches on the path of every call.
        return hash(self.digest)


def type_text(type: Type) -> str:
    """Return a type as a person writes it, such as `array(double)`."""
    match type:
        case Scalar(kind):
            return kind.value
        case ListOf(items):
            return f"array({type_text(items)})"
        case MapOf(values):
            return f"map({type_text(values)})"
        case Record(fields):
            parts = [f"{field.name}{'' if field.required else '?'}: {type_text(field.type)}" for field in fields]
            return f"object({', '.join(parts)})"
        case Tensor(dtype, shape):
            return f"tensor({dtype}, {list(shape)})"
        case AnyValue():
            return "any"


def _canonical_field(field: Field) -> list[object]:
    return [field.name, _canonical_type(field.type), field.required]


def _canonical_type(type: Type) -> object:
    match type:
        case Scalar(kind):
            return kind.value
        case ListOf(items):
            return {"list": _canonical_type(items)}
        case MapOf(values):
            return {"map": _canonical_type(values)}
        case Record(fields):
            return {"record": [_canonical_field(field) for field in fields]}
        case Tensor(dtype, shape):
            return {"tensor": [dtype, shape]}
        case AnyValue():
            return "any"


def _canonical_default(value: object) -> object:
    match value:
        case date():
            return {"datetime": value.isoformat()}
        case bytes():
            return {"binary": value.hex()}
        case list() | tuple():
            return [_canonical_default(one) for one in value]
        case dict():
            return {"record": {str(key): _canonical_default(one) for key, one in value.items()}}
        case _:
            return value
