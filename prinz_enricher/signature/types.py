"""What a model's signature is: plain, immutable values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class SignatureError(ValueError):
    """A signature can't be read; the text says in one sentence why."""


class ScalarKind(StrEnum):
    """The scalar types, by the names that MLflow's JSON has for them (`mlflow.types.DataType`)."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    LONG = "long"
    FLOAT = "float"
    DOUBLE = "double"
    STRING = "string"
    BINARY = "binary"
    DATETIME = "datetime"


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
    """An n-dimensional array.

    Attributes:
        dtype: Its numpy name, such as `float32`; `str` for text.
        shape: With the rows as first dimension; -1 is a dimension of any size.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnyValue:
    """A value of any type, unchecked."""


Type = Scalar | ListOf | MapOf | Record | Tensor | AnyValue


@dataclass(frozen=True, slots=True)
class Field:
    """One input or output, or one property of a record.

    Attributes:
        name: Unique among its siblings. MLflow's integer names are written as decimal text.
        type: Its type.
        required: Whether a value must be given.
        description: What the model's author said of it.
    """

    name: str
    type: Type
    required: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of a prediction.

    Attributes:
        name: Unique within the signature.
        type: Its type.
        default: What is used where a request names no value, as a Python value of the type.
        shape: None for a single value; `(-1,)` for a list of any length.
    """

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
    """What a model version takes and gives, in the order of the model's own signature.

    A model without a signature has no inputs, one output `output_0` of any type, and the origin MISSING.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    params: tuple[Param, ...] = ()
    origin: Origin = Origin.DECLARED

    @cached_property
    def digest(self) -> str:
        """A stable hash of names, order and types: 32 hexadecimal digits."""
        from prinz_enricher.signature.digest import signature_digest

        return signature_digest(self)

    def __hash__(self) -> int:
        # By the digest, which is computed once: a signature is the key of caches on the path of every call.
        return hash(self.digest)
