"""What a signature means for its batches, worked out once for each signature."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import pyarrow as pa

from prinz_enricher.batch.one_row import DoubleRows, OneRow, has_pattern, takes_null
from prinz_enricher.signature import Field, Signature, fields_schema
from prinz_enricher.signature.arrow import is_any

_SAME: Final[dict[pa.DataType, str]] = {
    pa.float64(): "doubles",
    pa.float32(): "floats",
    pa.int64(): "int64s",
    pa.int32(): "int32s",
    pa.bool_(): "bools",
    pa.utf8(): "strings",
    pa.binary(): "binaries",
}
"""By Arrow type: the kind of wire column that holds just its values."""


class Layout:
    """The columns of some fields.

    Attributes:
        fields: The fields, in the signature's order.
        schema: Their Arrow schema.
        by_name: The place of each.
        kinds: The kind of wire column that holds just each one's values, so that nothing is to be checked where there
            are no nulls; None where there is none.
        takes_null: Whether a null is taken, by the column's place; of those that `kinds` has.
        all_doubles: Whether each is a float64.
        one_row: The short way for one row; None where a column is neither of fixed width nor text.
        doubles: The short way for some rows of doubles; of use where `all_doubles`.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        self.schema = fields_schema(fields)
        self.by_name = {field.name: place for place, field in enumerate(fields)}
        self.kinds = [None if is_any(field) else _SAME.get(field.type) for field in self.schema]
        self.takes_null = [takes_null(field) for field in self.schema]
        self.all_doubles = all(type == pa.float64() for type in self.schema.types)
        self.one_row = OneRow(self.schema) if has_pattern(self.schema) else None
        self.doubles = DoubleRows(self.schema)

    def schema_of(self, present: Sequence[int]) -> pa.Schema:
        """Give the schema of some of the fields, by their places."""
        if len(present) == len(self.fields):
            return self.schema
        return pa.schema([self.schema.field(place) for place in present])


@lru_cache(maxsize=256)
def input_layout(signature: Signature) -> Layout:
    """Give the layout of a signature's inputs."""
    return Layout(signature.inputs)


def record_batch(arrays: Sequence[pa.Array], schema: pa.Schema, num_rows: int) -> pa.RecordBatch:
    """Make a batch that knows its number of rows even without a column."""
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.StructArray.from_buffers(pa.struct([]), num_rows, [None]))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
