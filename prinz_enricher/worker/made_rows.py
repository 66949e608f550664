"""Rows made from a signature, to try a model with; for the worker, and for the front before a server elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from .fields import is_any, is_nested

_MADE_ROWS = 2


def made_batch(inputs: pa.Schema) -> pa.RecordBatch | None:
    """Make rows for a schema, with other values in each; None for a schema without columns."""
    if not len(inputs):
        return None
    arrays = [pa.array([_made(field.type, field, row) for row in range(_MADE_ROWS)], field.type) for field in inputs]
    return pa.RecordBatch.from_arrays(arrays, schema=inputs)


def _made(kind: pa.DataType, field: pa.Field, row: int) -> Any:
    if is_any(field):
        return "null"
    if pa.types.is_boolean(kind):
        return bool(row % 2)
    if pa.types.is_integer(kind):
        return 1 + row
    if pa.types.is_floating(kind):
        return np.float16(0.5 + row) if kind == pa.float16() else 0.5 + row
    if pa.types.is_timestamp(kind):
        return datetime(2024, 1, 1 + row)
    if pa.types.is_binary(kind):
        return b"ab"[row:]
    if pa.types.is_map(kind):
        return [("a", _made(kind.item_type, kind.item_field, row))]
    if pa.types.is_struct(kind):
        return {child.name: _made(child.type, child, row) for child in kind}
    if is_nested(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else 2
        return [_made(kind.value_type, kind.value_field, row + i) for i in range(size)]
    return "ab"[row:]
