"""What a signature means for its batches, worked out once for each signature."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import pyarrow as pa

from prinz_enricher.signature import Field, Signature, fields_schema
from prinz_enricher.signature.arrow import is_any

_PACKED: Final[dict[pa.DataType, tuple[str, str]]] = {
    pa.float64(): ("doubles", "d"),
    pa.float32(): ("floats", "f4x"),
    pa.int64(): ("int64s", "q"),
    pa.int32(): ("int32s", "i4x"),
    pa.bool_(): ("bools", "?7x"),
}
"""By Arrow type: the kind of wire column that holds just its values, and how `struct` packs one, padded to 8 bytes."""

_SAME: Final[dict[pa.DataType, str]] = {type: kind for type, (kind, _) in _PACKED.items()} | {
    pa.utf8(): "strings",
    pa.binary(): "binaries",
}


class OneRow:
    """Makes batches of one row, of fixed-width columns without nulls, in a sixth of the time that building takes.

    All such batches of a schema differ only in the body of their IPC message, so its metadata is made once.

    Attributes:
        places: By column name: its place in the schema, and the kind of wire column that holds just its values.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self.places = {field.name: (place, _PACKED[field.type][0]) for place, field in enumerate(schema)}
        pattern = pa.RecordBatch.from_arrays(
            [pa.array([False if pa.types.is_boolean(field.type) else 0], field.type) for field in schema], schema=schema
        )
        message = pattern.serialize().to_pybytes()
        self._metadata = message[: len(message) - 8 * len(schema)]
        self._pack = struct.Struct("<" + "".join(_PACKED[field.type][1] for field in schema)).pack

    def batch(self, values: Sequence[object]) -> pa.RecordBatch:
        """Make a batch of one value for each column, in the schema's order.

        Raises:
            struct.error: A value is not of its column's type.
        """
        return pa.ipc.read_record_batch(pa.py_buffer(self._metadata + self._pack(*values)), self._schema)


class Layout:
    """The columns of some fields.

    Attributes:
        fields: The fields, in the signature's order.
        schema: Their Arrow schema.
        by_name: The place of each.
        kinds: The kind of wire column that holds just each one's values, so that nothing is to be checked where there
            are no nulls; None where there is none.
        all_doubles: Whether each is a float64.
        one_row: The short way for one row; None where a column is not of fixed width.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        self.schema = fields_schema(fields)
        self.by_name = {field.name: place for place, field in enumerate(fields)}
        self.kinds = [None if is_any(field) else _SAME.get(field.type) for field in self.schema]
        self.all_doubles = all(type == pa.float64() for type in self.schema.types)
        self.one_row = OneRow(self.schema) if fields and all(type in _PACKED for type in self.schema.types) else None

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
