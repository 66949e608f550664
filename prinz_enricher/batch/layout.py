"""The columns of a signature, worked out once for each, and the short ways to batches of one row and of doubles."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prinz_enricher.batch.violation import DUPLICATE, Violations
from prinz_enricher.contract import value_pb2
from prinz_enricher.ipc.fields import is_any
from prinz_enricher.signature import AnyValue, Field, Signature, fields_schema

FIXED_KINDS: Final[dict[str, tuple[Any, pa.DataType]]] = {
    "doubles": (np.float64, pa.float64()),
    "floats": (np.float32, pa.float32()),
    "int64s": (np.int64, pa.int64()),
    "int32s": (np.int32, pa.int32()),
    "timestamps": (np.int64, pa.timestamp("us")),
    "bools": (np.bool_, pa.bool_()),
}
"""By kind of wire column: its dtype and Arrow type."""

TEXT_KINDS: Final[dict[str, pa.DataType]] = {"strings": pa.utf8(), "binaries": pa.binary()}
# By Arrow type: the kind of wire column that holds just its values; a timestamp may be out of range.
_KINDS: Final = {type: kind for kind, (_, type) in FIXED_KINDS.items() if kind != "timestamps"}
_KINDS.update((type, kind) for kind, type in TEXT_KINDS.items())

# By kind of column: how `struct` packs a value of fixed width, padded to 8 bytes.
_FORMATS: Final = {"doubles": "d", "floats": "f4x", "int64s": "q", "int32s": "i4x", "bools": "?7x"}
# What text is padded to in the body, all columns alike, so that few patterns fit all rows; longer ones have none.
_TEXT_SIZES: Final = (16, 128)
# Of the metadata that are kept by number of rows: those of thousands of columns have some 100 KB each.
_MAX_ROW_COUNTS: Final = 512
_MAX_METADATA_BYTES: Final = 2 << 20

_NONE_YET: Final = object()

MAX_COLUMNS: Final = 10_000
"""Columns of a request, unless its model declares more."""
TOO_MANY_COLUMNS: Final = f"has more than {MAX_COLUMNS} columns"


class Layout:
    """The columns of some fields, in the signature's order; `by_name` has the place of each."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        self.schema = fields_schema(fields)
        self.by_name = {field.name: place for place, field in enumerate(fields)}
        # The kind of wire column that holds just a field's values, so that only nulls are to be checked; None for none.
        self.kinds = [None if is_any(field) else _KINDS.get(field.type) for field in self.schema]
        # In tensors only floats and text do.
        always = {pa.float16(), pa.float32(), pa.float64(), pa.utf8()}
        self.takes_null = [one.type in always or (one.nullable and one.metadata is None) for one in self.schema]
        self.all_doubles = all(type == pa.float64() for type in self.schema.types)
        plain = [kind for kind in self.kinds if kind == "strings" or kind in _FORMATS]
        # The short way for one row; None where a column is neither of fixed width nor text.
        is_plain = 0 < len(plain) == len(fields) == len(self.by_name)
        self.one_row = OneRow(self.schema, plain, self.takes_null) if is_plain else None
        self._metadata: dict[int, bytes] = {}
        self._metadata_bytes = 0

    def schema_of(self, present: Sequence[int]) -> pa.Schema:
        """Return the schema of some of the fields, by their places."""
        if len(present) == len(self.fields):
            return self.schema
        return pa.schema([self.schema.field(place) for place in present])

    def batch_of_rows(self, rows: Sequence[Sequence[object]]) -> pa.RecordBatch:
        """Return a batch of one or more rows, as `OneRow.values` returns them; of a layout that has a `one_row`."""
        if len(rows) == 1 and self.one_row is not None and (batch := self.one_row.batch(rows[0])) is not None:
            return batch
        if self.all_doubles:
            return self.batch_of_doubles(np.array(rows, np.float64))
        columns = zip(zip(*rows, strict=True), self.schema.types, strict=True)
        return pa.RecordBatch.from_arrays([pa.array(values, type) for values, type in columns], schema=self.schema)

    def batch_of_doubles(self, values: npt.NDArray[np.float64]) -> pa.RecordBatch:
        """Return a batch of values of shape (rows, columns), of a layout of doubles; it shares no memory with them."""
        rows, width = values.shape
        metadata = self._metadata.get(rows)
        if metadata is None:
            zeros = pa.RecordBatch.from_arrays([pa.array(np.zeros(rows))] * width, schema=self.schema)
            written = zeros.serialize().to_pybytes()
            metadata = written[: len(written) - 8 * rows * width]
            size = self._metadata_bytes + len(metadata)
            if len(self._metadata) < _MAX_ROW_COUNTS and size <= _MAX_METADATA_BYTES:
                self._metadata[rows] = metadata
                self._metadata_bytes = size
        # The columns, one after the other.
        body = values.tobytes() if rows == 1 else np.ascontiguousarray(values.T).tobytes()
        return pa.ipc.read_record_batch(pa.py_buffer(metadata + body), self.schema)


class OneRow:
    """Makes batches of one row, in a sixth of the time that Arrow takes to build them column by column.

    All such batches of a schema differ only in the body of their IPC message, so its metadata is made once. The columns
    are of fixed width or text alone, and of different names.
    """

    def __init__(self, schema: pa.Schema, kinds: Sequence[str], takes_null: Sequence[bool]) -> None:
        self._schema = schema
        self._places = {name: place for place, name in enumerate(schema.names)}
        self._kinds = kinds
        self._takes_null = takes_null
        self._nulls = [pa.nulls(1, type) for type in schema.types]
        self._blanks = ["" if kind == "strings" else 0 for kind in kinds]
        self._has_text = "strings" in kinds
        self._patterns = [_Pattern(schema, kinds, size) for size in (_TEXT_SIZES if self._has_text else (0,))]

    def decode(self, message: value_pb2.ColumnBatch) -> pa.RecordBatch | None:
        """Return the batch of a message of one row; None where that is for `decode_columns` to judge."""
        values = self.values(message)
        return None if values is None else self.batch(values)

    def values(self, message: value_pb2.ColumnBatch) -> list[object] | None:
        """Return the values of a message of one row in the schema's order, None for nulls.

        None where a column is missing, or not of just its type; that is for `decode_columns` to judge.
        """
        columns, places, kinds = message.columns, self._places, self._kinds
        if len(columns) != len(places):
            return None
        values: list[object] = [_NONE_YET] * len(places)
        for column in columns:
            place = places.get(column.name)
            if place is None:
                return None
            kind = kinds[place]
            # Of another kind than is set, a column reads as empty.
            held = getattr(column, kind).values
            if len(held) != 1 or values[place] is not _NONE_YET:
                return None
            validity = column.validity
            if not validity or (len(validity) == 1 and validity[0] & 1):
                values[place] = held[0]
            elif len(validity) == 1 and self._takes_null[place]:
                values[place] = math.nan if kind in ("doubles", "floats") else None
            else:
                return None
        return values

    def batch(self, values: Sequence[object]) -> pa.RecordBatch | None:
        """Return a batch of one value for each column, None for a null; None where a text is long.

        Raises struct.error where a value is not of its column's type.
        """
        if None in values:
            return self._batch_with_nulls(values)
        longest = 0
        if self._has_text:
            parts: list[object] = []
            for value in values:
                if isinstance(value, str):
                    text = value.encode()
                    longest = max(longest, len(text))
                    parts += (0, len(text), text)
                else:
                    parts.append(value)
            values = parts
        for pattern in self._patterns:
            if longest <= pattern.text_size:
                return self._read(pattern.metadata + pattern.pack(*values))
        return None

    def _batch_with_nulls(self, values: Sequence[object]) -> pa.RecordBatch | None:
        # Nulls are in the metadata, so such a column takes the place of one with any value.
        filled = [blank if value is None else value for value, blank in zip(values, self._blanks, strict=True)]
        batch = self.batch(filled)
        if batch is None:
            return None
        held = zip(values, self._nulls, batch.columns, strict=True)
        columns = [null if value is None else column for value, null, column in held]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def of_doubles(self, values: bytes | memoryview) -> pa.RecordBatch:
        """Return a batch of doubles alone, one for each column, from their memory."""
        return self._read(self._patterns[0].metadata + values)

    def _read(self, message: bytes) -> pa.RecordBatch:
        return pa.ipc.read_record_batch(pa.py_buffer(message), self._schema)


class _Pattern:
    """The IPC message of one row with texts up to a size: its metadata, and what packs its body."""

    def __init__(self, schema: pa.Schema, kinds: Sequence[str], text_size: int) -> None:
        values = [" " * text_size if pa.types.is_string(type) else pa.scalar(0).cast(type) for type in schema.types]
        arrays = [pa.array([value], type) for value, type in zip(values, schema.types, strict=True)]
        # Text is two offsets and its bytes.
        body = struct.Struct("<" + "".join(_FORMATS.get(kind, f"ii{text_size}s") for kind in kinds))
        message = pa.RecordBatch.from_arrays(arrays, schema=schema).serialize().to_pybytes()
        self.text_size = text_size
        self.metadata = message[: len(message) - body.size]
        self.pack = body.pack


@lru_cache(maxsize=256)
def input_layout(signature: Signature) -> Layout:
    """Return the layout of a signature's inputs."""
    return Layout(signature.inputs)


def any_fields(names: Iterable[str]) -> tuple[Field, ...]:
    """Return optional fields of any type: the columns of a model without a signature."""
    return tuple(Field(name, AnyValue(), required=False) for name in names)


def record_batch(arrays: Sequence[pa.Array], schema: pa.Schema, num_rows: int) -> pa.RecordBatch:
    """Return a batch that knows its number of rows even without a column."""
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.StructArray.from_buffers(pa.struct([]), num_rows, [None]))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def select_outputs(fields: Sequence[Field], names: Sequence[str]) -> tuple[Field, ...]:
    """Return the named outputs of a signature, in the order of the names; all of them where there are no names.

    Raises InvalidInput with each `outputs[i]` that is unknown, or there twice.
    """
    if not names:
        return tuple(fields)
    by_name = {field.name: field for field in fields}
    violations = Violations()
    picked: dict[str, Field] = {}
    for index, name in enumerate(names):
        if name not in by_name:
            violations.add(f"outputs[{index}]", "is not an output of this model")
        elif name in picked:
            violations.add(f"outputs[{index}]", DUPLICATE)
        else:
            picked[name] = by_name[name]
    violations.raise_any()
    return tuple(picked.values())
