"""Signatures as Arrow schemas: the types in which batches are held and sent to workers.

What an Arrow type does not tell is in the metadata of its field, under `prinz.type`, for a reader that knows only
Arrow: `any` is text that holds JSON, and `tensor:float32:[-1,3]` names the numpy dtype and shape of a column.

A record may lack an optional property, or have it as null. A struct of Arrow can't tell the two apart, so batches hold
an optional property as a struct of its own: null where the record lacks it, else with its value as the only child. Such
a field has `optional` under `prinz.type`. Callers never see it: their schemas, which `caller_schema` gives, have plain
properties.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import pyarrow as pa

from prinz_enricher.signature.types import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
    Type,
)

TYPE_KEY: Final = b"prinz.type"
"""The key in an Arrow field's metadata under which its type is told where Arrow's own says less."""

ANY: Final = b"any"
"""The value of `TYPE_KEY` for text that holds JSON."""

OPTIONAL: Final = b"optional"
"""The value of `TYPE_KEY` for an optional property that is held with its value as the only child."""

VALUE: Final = "value"
"""The name of that child."""

_SCALARS: Final[dict[ScalarKind, pa.DataType]] = {
    ScalarKind.BOOLEAN: pa.bool_(),
    ScalarKind.INTEGER: pa.int32(),
    ScalarKind.LONG: pa.int64(),
    ScalarKind.FLOAT: pa.float32(),
    ScalarKind.DOUBLE: pa.float64(),
    ScalarKind.STRING: pa.utf8(),
    ScalarKind.BINARY: pa.binary(),
    ScalarKind.DATETIME: pa.timestamp("us"),
}

_DTYPES: Final[dict[str, pa.DataType]] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "str": pa.utf8(),
    "object": pa.utf8(),
    "bytes": pa.binary(),
    "datetime64": pa.timestamp("us"),
}

# Coarser units of numpy are held in seconds, which hold each of their values.
_UNITS: Final = {"D": "s", "h": "s", "m": "s", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}
_DATETIME: Final = re.compile(r"datetime64\[(D|h|m|s|ms|us|ns)\]")


def dtype_arrow_type(dtype: str) -> pa.DataType | None:
    """Give the Arrow type that holds each value of a numpy dtype exactly.

    Args:
        dtype: Its numpy name, such as `float32` or `datetime64[ns]`.

    Returns:
        The type; None where there is none.
    """
    if found := _DATETIME.fullmatch(dtype):
        return pa.timestamp(_UNITS[found[1]])
    return _DTYPES.get(dtype)


@lru_cache(maxsize=4096)
def arrow_type(type: Type) -> pa.DataType:
    """Give the Arrow type in which batches hold a column of a type.

    Args:
        type: Any type of a signature.

    Returns:
        Its Arrow type; for a tensor that of one row, so without its first dimension.

    Raises:
        ValueError: A tensor of a dtype that Arrow does not hold.
    """
    match type:
        case Scalar(kind):
            return _SCALARS[kind]
        case ListOf(items):
            return pa.list_(_child("item", items))
        case MapOf(values):
            return pa.map_(pa.utf8(), _child("value", values))
        case Record(fields):
            return pa.struct([_property(field) for field in fields])
        case Tensor():
            return _tensor(type)
        case AnyValue():
            return pa.utf8()


def arrow_field(field: Field) -> pa.Field:
    """Give the Arrow field of an input or an output.

    A required field is not nullable, save text and values of any type, for which a null is a value.
    """
    return pa.field(
        field.name,
        arrow_type(field.type),
        nullable=_nullable(field.type, field.required),
        metadata=_metadata(field.type),
    )


def input_schema(signature: Signature) -> pa.Schema:
    """Give the Arrow schema of a signature's inputs, in the signature's order."""
    return fields_schema(signature.inputs)


def output_schema(signature: Signature) -> pa.Schema:
    """Give the Arrow schema of a signature's outputs, in the signature's order."""
    return fields_schema(signature.outputs)


def fields_schema(fields: Sequence[Field]) -> pa.Schema:
    """Give the Arrow schema of some fields, in their order."""
    return pa.schema([arrow_field(field) for field in fields])


def is_any(field: pa.Field) -> bool:
    """Tell whether an Arrow field holds JSON text."""
    return field.metadata is not None and field.metadata.get(TYPE_KEY) == ANY


def is_optional(field: pa.Field) -> bool:
    """Tell whether an Arrow field is an optional property, held with its value as the only child."""
    # Callers write what they like into the metadata of theirs.
    is_told = field.metadata is not None and field.metadata.get(TYPE_KEY) == OPTIONAL
    return is_told and pa.types.is_struct(field.type) and field.type.num_fields == 1


def caller_schema(schema: pa.Schema) -> pa.Schema:
    """Give the schema by which callers know batches of a schema: with plain optional properties."""
    return pa.schema([_caller_field(field) for field in schema])


def arrow_tells_all(signature: Signature) -> bool:
    """Tell whether rows lose nothing in Arrow as callers have it: no object has optional properties."""
    return all(caller_schema(schema) == schema for schema in (input_schema(signature), output_schema(signature)))


def _caller_field(field: pa.Field) -> pa.Field:
    kind = field.type
    if is_optional(field):
        return _caller_field(kind.field(0)).with_name(field.name)
    if pa.types.is_struct(kind):
        kind = pa.struct([_caller_field(kind.field(place)) for place in range(kind.num_fields)])
    elif pa.types.is_list(kind):
        kind = pa.list_(_caller_field(kind.value_field))
    elif pa.types.is_map(kind):
        kind = pa.map_(kind.key_field, _caller_field(kind.item_field))
    return field.with_type(kind)


def _property(field: Field) -> pa.Field:
    held = arrow_field(field)
    if field.required:
        return held
    return pa.field(field.name, pa.struct([held.with_name(VALUE)]), metadata={TYPE_KEY: OPTIONAL})


def _child(name: str, type: Type) -> pa.Field:
    # Nullable, so that the types are equal to those that other Arrow libraries build for the same lists and maps.
    return pa.field(name, arrow_type(type), nullable=True, metadata=_metadata(type))


def _nullable(type: Type, required: bool) -> bool:
    match type:
        case AnyValue() | Scalar(ScalarKind.STRING):
            return True
        case Tensor(dtype, shape) if len(shape) <= 1 and dtype in {"str", "object"}:
            return True
        case _:
            return not required


def _metadata(type: Type) -> dict[bytes, bytes] | None:
    match type:
        case AnyValue():
            return {TYPE_KEY: ANY}
        case Tensor(dtype, shape):
            return {TYPE_KEY: f"tensor:{dtype}:{json.dumps(list(shape), separators=(',', ':'))}".encode()}
        case _:
            return None


def _tensor(type: Tensor) -> pa.DataType:
    held = dtype_arrow_type(type.dtype)
    if held is None:
        raise ValueError(f"tensors of dtype {type.dtype} are not supported")
    for size in reversed(type.shape[1:]):
        held = pa.list_(pa.field("item", held), -1 if size < 0 else size)
    return held
