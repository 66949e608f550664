"""Batches as callers have them: in Arrow, a property that a record lacks and one that is null are both null."""

from __future__ import annotations

import pyarrow as pa

from prinz_enricher.signature.arrow import caller_schema, is_optional


def caller_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Give a batch with plain optional properties.

    Args:
        batch: Any batch.

    Returns:
        The same rows, of `caller_schema(batch.schema)`: `batch` itself where nothing is to be done.
    """
    if not any(map(pa.types.is_nested, batch.schema.types)):
        return batch
    schema = caller_schema(batch.schema)
    arrays = [_array(array, type) for array, type in zip(batch.columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(array: pa.Array, target: pa.DataType) -> pa.Array:
    if array.type == target:
        return array
    if len(array) == 0:
        return pa.array([], target)
    if pa.types.is_struct(target):
        held, fields = list(array.type), list(target)
        children = [
            _array(child.flatten()[0] if is_optional(one) else child, field.type)
            for child, one, field in zip(map(array.field, range(len(held))), held, fields, strict=True)
        ]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null() if array.null_count else None)
    if pa.types.is_map(target):
        entries = [array.keys, _array(array.items, target.item_type)]
        child = pa.StructArray.from_arrays(entries, fields=[target.key_field, target.item_field])
    else:
        child = _array(array.values, target.value_type)
    # The offsets of a slice are those of the whole.
    return pa.Array.from_buffers(target, len(array), array.buffers()[:2], offset=array.offset, children=[child])
