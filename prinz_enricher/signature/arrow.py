"""Signatures as Arrow schemas: the types in which batches are held and sent to workers.

What an Arrow type does not say is in the metadata of its field, under `prinz.type`, for a reader that knows only Arrow:
`any` is text that holds JSON, and `tensor:float32:[-1,3]` names the numpy dtype and shape of a column.

A record may lack an optional property, or have it as null. A struct of Arrow can't distinguish the two, so batches hold
an optional property as a struct of its own: null where the record lacks it, else with its value as the only child. Such
a field has `optional` under `prinz.type`. Callers never see it: their schemas, which `caller_schema` returns, have
plain properties.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import pyarrow as pa

from prinz_enricher.ipc.fields import ANY, OPTIONAL, TYPE_KEY, VALUE, is_optional
from prinz_enricher.signature.types import (
    SCALAR_DTYPES,
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

INTEGER_DTYPES: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES: Final[dict[str, pa.DataType]] = {
    **{name: pa.type_for_alias(name) for name in ("bool", *INTEGER_DTYPES, "float16", "float32", "float64")},
    "str": pa.utf8(),
    "object": pa.utf8(),
    "bytes": pa.binary(),
    "datetime64": pa.timestamp("us"),
}

# Coarser units of numpy are held in seconds, which hold each of their values.
_UNITS: Final = {"D": "s", "h": "s", "m": "s", "s": "s", "ms": "ms", "us": "us", "ns": "ns"}
_DATETIME: Final = re.compile(r"datetime64\[(D|h|m|s|ms|us|ns)\]")


def dtype_arrow_type(dtype: str) -> pa.DataType | None:
    """Return the Arrow type that holds every value of a numpy dtype, such as `datetime64[ns]`; None for none."""
    if found := _DATETIME.fullmatch(dtype):
        return pa.timestamp(_UNITS[found[1]])
    return _DTYPES.get(dtype)


@lru_cache(maxsize=4096)
def arrow_type(type: Type) -> pa.DataType:
    """Return the Arrow type in which batches hold a column; of a tensor that of one row, without its first dimension.

    Raises ValueError for a tensor of a dtype that Arrow does not hold.
    """
    match type:
        case Scalar(kind):
            return dtype_arrow_type(SCALAR_DTYPES[kind])
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
    """Return the Arrow field of an input or an output.

    A required field is not nullable, save text and values of any type, for which a null is a value.
    """
    nullable = not field.required or _takes_null(field.type)
    return pa.field(field.name, arrow_type(field.type), nullable=nullable, metadata=_metadata(field.type))


def input_schema(signature: Signature) -> pa.Schema:
    """Return the Arrow schema of a signature's inputs, in the signature's order."""
    return fields_schema(signature.inputs)


def output_schema(signature: Signature) -> pa.Schema:
    """Return the Arrow schema of a signature's outputs, in the signature's order."""
    return fields_schema(signature.outputs)


def fields_schema(fields: Sequence[Field]) -> pa.Schema:
    """Return the Arrow schema of some fields, in their order."""
    return pa.schema([arrow_field(field) for field in fields])


def caller_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of batches as callers have them: with plain optional properties."""
    return pa.schema([_caller_field(field) for field in schema])


def lossless_in_arrow(signature: Signature) -> bool:
    """Return whether rows lose nothing in Arrow as callers have it: no object has optional properties."""
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
    else:
        return field
    return field.with_type(kind)


def _property(field: Field) -> pa.Field:
    held = arrow_field(field)
    if field.required:
        return held
    return pa.field(field.name, pa.struct([held.with_name(VALUE)]), metadata={TYPE_KEY: OPTIONAL})


def _child(name: str, type: Type) -> pa.Field:
    # Nullable, so that the types are equal to those that other Arrow libraries build for the same lists and maps.
    return pa.field(name, arrow_type(type), nullable=True, metadata=_metadata(type))


def _takes_null(type: Type) -> bool:
    match type:
        case AnyValue() | Scalar(ScalarKind.STRING):
            return True
        case Tensor(dtype, shape):
            return len(shape) <= 1 and dtype in {"str", "object"}
    return False


def _metadata(type: Type) -> dict[bytes, bytes] | None:
    match type:
        case AnyValue():
            return {TYPE_KEY: ANY}
        case Tensor(dtype, shape):
            return {TYPE_KEY: f"tensor:{dtype}:{json.dumps(list(shape), separators=(',', ':'))}".encode()}
    return None


def _tensor(type: Tensor) -> pa.DataType:
    held = dtype_arrow_type(type.dtype)
    if held is None:
        raise ValueError(f"tensors of dtype {type.dtype} are not supported")
    for size in reversed(type.shape[1:]):
        held = pa.list_(pa.field("item", held), -1 if size < 0 else size)
    return held
