"""What the metadata of an Arrow field says beyond its Arrow type, to a front and its workers."""

from __future__ import annotations

import json
from typing import NamedTuple

import pyarrow as pa

# The key of a type of which Arrow's own says less.
TYPE_KEY = b"prinz.type"
ANY = b"any"
OPTIONAL = b"optional"
# The name of the only child of an optional property.
VALUE = "value"

JSON = pa.field("", pa.utf8(), metadata={TYPE_KEY: ANY})
"""A column of JSON, of which a model without a signature takes any number."""


class TensorType(NamedTuple):
    """The numpy dtype, by its name, and the shape of a tensor column, rows first; -1 is any size."""

    dtype: str
    shape: tuple[int, ...]


def is_any(field: pa.Field) -> bool:
    """Return whether a field is text that holds JSON."""
    return field.metadata is not None and field.metadata.get(TYPE_KEY) == ANY


def is_optional(field: pa.Field) -> bool:
    """Return whether a field is an optional property: a struct of its value, null where the record lacks it."""
    # Callers may write anything into the metadata of their fields.
    marked = field.metadata is not None and field.metadata.get(TYPE_KEY) == OPTIONAL
    return bool(marked and pa.types.is_struct(field.type) and field.type.num_fields == 1)


def is_nested(kind: pa.DataType) -> bool:
    """Return whether a type holds others; some versions of Arrow leave out lists of a fixed size."""
    return bool(pa.types.is_nested(kind) or pa.types.is_fixed_size_list(kind))


def tensor_type(field: pa.Field) -> TensorType | None:
    """Return the tensor type of a field; None where it is not a tensor."""
    written = (field.metadata or {}).get(TYPE_KEY, b"").decode()
    if not written.startswith("tensor:"):
        return None
    _, dtype, shape = written.split(":", 2)
    return TensorType(dtype, tuple(json.loads(shape)))
