"""The columns of a part of a file: inputs in their types, and the others as they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa


def in_order(names: Sequence[str], typed: pa.RecordBatch, others: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """Put columns together.

    Args:
        names: All columns, in the order of the file.
        typed: The inputs among them.
        others: At least those that are no inputs, of the same length.
    """
    known = {field.name: field for field in typed.schema}
    fields = [known.get(name) or pa.field(name, others[name].type) for name in names]
    columns = [typed.column(name) if name in known else others[name] for name in names]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
