"""Arrow IPC streams into checked record batches, and back, with the schemas that callers have.

Columns that are of the declared type already are views of the stream's memory.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from prinz_enricher.batch import violation
from prinz_enricher.batch.arrow_messages import batch_size, is_big_endian
from prinz_enricher.batch.coerce_arrays import coerce
from prinz_enricher.batch.layout import MAX_COLUMNS, TOO_MANY_COLUMNS, Layout, any_fields, input_layout, record_batch
from prinz_enricher.batch.primitive_arrays import amplifies
from prinz_enricher.batch.read_bounds import ReadBounds
from prinz_enricher.batch.violation import Violations, column_path, refusal
from prinz_enricher.batch.wire import Part
from prinz_enricher.errors import BatchTooLarge
from prinz_enricher.ipc.fields import is_optional
from prinz_enricher.signature import Field, Signature
from prinz_enricher.signature.arrow import caller_schema

# How many bytes the buffers of a stream may have once decompressed, by default.
MAX_STREAM_BYTES: Final = 1 << 31
# Bytes of a stream from which its columns are read as they lie; copying those of a smaller one is cheaper.
LARGE_STREAM: Final = 256 * 1024
# How many rows times columns there may be that take no memory: columns of nulls, or of empty records, alone.
MAX_FREE_CELLS: Final = 1 << 20
_KNOWN: Final = frozenset(
    type.id
    for type in (
        *(pa.null(), pa.bool_(), pa.float16(), pa.float32(), pa.float64()),
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.utf8(), pa.large_utf8(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1)),
        *(pa.date32(), pa.date64(), pa.timestamp("us"), pa.time32("s"), pa.time64("us"), pa.duration("us")),
        *(pa.list_(pa.null()), pa.large_list(pa.null()), pa.list_(pa.null(), 1), pa.struct([])),
        pa.map_(pa.utf8(), pa.null()),
    )
)
"""Types whose values are read, or that are named where they are refused."""

_MAX_SCALE: Final = {4: 9, 8: 18, 16: 38, 32: 76}
"""By the bytes of a decimal: how many digits it has at most; of one with a larger scale, no value can be read."""


def decode_stream(
    data: bytes | memoryview | pa.Buffer,
    signature: Signature,
    max_rows: int | None = None,
    max_bytes: int = MAX_STREAM_BYTES,
    bounds: ReadBounds | None = None,
) -> pa.RecordBatch:
    """Check an Arrow stream and bring its columns to the types of a signature's inputs, as `decode_columns` does.

    The data are one IPC stream with its end marker: a schema and any number of record batches, which become one. Text
    in a column of any type is JSON.

    Raises BatchTooLarge for more rows than `max_rows`, and InvalidInput where the bytes are not a valid stream,
    or its buffers have more than `max_bytes` once decompressed, or with every violation of the columns; and as `bounds`
    do, which count what the stream becomes beyond its own bytes.
    """
    violations = Violations(bounds)
    buffer = data if isinstance(data, pa.Buffer) else pa.py_buffer(data)
    try:
        _inspect(buffer, max_rows, max_bytes, violations.bounds)
        layout = input_layout(signature) if signature.inputs else None
        table = None if layout is None or len(buffer) < LARGE_STREAM else _read_views(buffer, layout)
        if table is None:
            batches, schema = _read_batches(buffer)
            table = batches[0] if len(batches) == 1 else pa.Table.from_batches(batches, schema=schema)
        names = dict.fromkeys(table.schema.names)
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError, OverflowError, MemoryError) as exc:
        raise refusal("arrow_stream", "is not a sound Arrow IPC stream") from exc
    if amplifies(table.num_rows * table.num_columns, table.get_total_buffer_size(), MAX_FREE_CELLS):
        raise refusal("arrow_stream", "has more values than its bytes can hold")
    if len(names) > max(MAX_COLUMNS, len(layout.fields) if layout else 0):
        raise refusal("arrow_stream", TOO_MANY_COLUMNS)
    batch = _conform(table, layout or Layout(any_fields(names)), violations)
    violations.raise_any()
    return batch


def _inspect(buffer: pa.Buffer, max_rows: int | None, max_bytes: int, bounds: ReadBounds) -> None:
    """Check what the messages announce, and count it, before anything is decompressed or allocated."""
    source = pa.BufferReader(buffer)
    messages = pa.ipc.MessageReader.open_stream(source)
    rows = size = values = 0
    first = True
    while True:
        end = source.tell()
        try:
            message = messages.read_next_message()
        except StopIteration:
            break
        if first:
            if message.type != "schema":
                raise refusal("arrow_stream", "does not begin with a schema")
            if is_big_endian(memoryview(message.metadata)):
                raise refusal("arrow_stream", "is big-endian; write it little-endian")
            first = False
            continue
        body = memoryview(message.body) if message.body is not None else memoryview(b"")
        batch_rows, batch_bytes, batch_values = batch_size(memoryview(message.metadata), body)
        if batch_rows < 0:
            # Arrow checks it only where there are columns to compare it with.
            raise refusal("arrow_stream", "is not a sound Arrow IPC stream")
        rows += batch_rows if message.type == "record batch" else 0
        size += batch_bytes
        values += batch_values
        if max_rows is not None and rows > max_rows:
            raise BatchTooLarge(rows, max_rows)
        if size > max_bytes or 8 * rows > max_bytes:
            raise refusal("arrow_stream", f"is larger than {max_bytes} bytes once decompressed")
    # A value is a byte at the least, also one that takes none here.
    bounds.take(max(0, size - len(buffer)) + values)
    if first:
        raise refusal("arrow_stream", "is empty")
    if source.tell() != len(buffer):
        raise refusal("arrow_stream", "goes on after its end")
    if source.tell() == end:
        # Without the marker a stream that lost its last batches would look whole.
        raise refusal("arrow_stream", "has no end marker; close its writer")


def _read_views(buffer: pa.Buffer, layout: Layout) -> pa.RecordBatch | None:
    """Read a stream of one batch so that fixed-width columns are views of it wherever they lie; None for other streams.

    A stream within a message begins at any byte, so seven times of eight its columns are not aligned. That only matters
    where they are computed on, and one that is of the wanted type and has no nulls is just passed on.
    """
    with pa.ipc.open_stream(pa.BufferReader(buffer)) as reader:
        schema = reader.schema
    kinds = zip(layout.schema, layout.kinds, strict=True)
    wanted = {one.name: one.type for one, kind in kinds if kind is not None and pa.types.is_primitive(one.type)}
    views = [place for place, field in enumerate(schema) if wanted.get(field.name) == field.type]
    others = sorted(set(range(len(schema))).difference(views))
    if not views:
        return None
    batches, _ = _read_batches(buffer, views, aligned=False)
    if len(batches) != 1 or any(column.null_count for column in batches[0].columns):
        return None
    columns = dict(zip(views, batches[0].columns, strict=True))
    if others:
        ((batch,), _) = _read_batches(buffer, others)
        columns |= zip(others, batch.columns, strict=True)
    return pa.RecordBatch.from_arrays([columns[place] for place in range(len(schema))], schema=schema)


def _read_batches(
    buffer: pa.Buffer, columns: Sequence[int] = (), *, aligned: bool = True
) -> tuple[list[pa.RecordBatch], pa.Schema]:
    """Read some columns, by their places; all of them by default."""
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=list(columns))
    if aligned and hasattr(pa.ipc, "Alignment"):  # which older versions of pyarrow lack
        # Copies just the buffers that do not lie as their type needs; others remain views.
        options.ensure_alignment = pa.ipc.Alignment.DataTypeSpecific
    with pa.ipc.open_stream(pa.BufferReader(buffer), options=options) as reader:
        violations = Violations()
        for field in reader.schema:
            # Before pyarrow works on their values: damaged ones may crash it.
            if not _is_known(field.type):
                violations.add(column_path(field.name), violation.OTHER_TYPE)
        violations.raise_any()
        batches = list(reader)
        for batch in batches:
            # Whatever offsets and text a hostile stream has: nothing is computed on them before this.
            batch.validate(full=True)
        return batches, reader.schema


def _is_known(type: pa.DataType) -> bool:
    """Return whether pyarrow reads every value of a type, however a stream encodes it."""
    if isinstance(type, pa.BaseExtensionType):
        return _is_known(type.storage_type)
    if pa.types.is_dictionary(type):
        return _is_known(type.value_type)
    if pa.types.is_decimal(type):
        return bool(abs(type.scale) <= _MAX_SCALE[type.byte_width])
    if type.id not in _KNOWN:
        return False
    # A name that is not UTF-8 raises UnicodeDecodeError when it is read, and not before.
    parts = [(field.name, field.type) for field in map(type.field, range(type.num_fields))]
    return all(_is_known(part) for _, part in parts)


def conform(batch: pa.RecordBatch | pa.Table, fields: Sequence[Field], violations: Violations) -> pa.RecordBatch:
    """Bring the columns of a valid batch to the order of some fields, and exactly the types of `fields_schema`.

    If there are violations after the call, what it returned is not to be used.
    """
    return _conform(batch, Layout(tuple(fields)), violations)


def _conform(table: pa.RecordBatch | pa.Table, layout: Layout, violations: Violations) -> pa.RecordBatch:
    held = table.schema.names
    names: dict[str, int] = {}
    for place, name in enumerate(held):
        names.setdefault(name, place)
    times = Counter(held) if len(names) < len(held) else {}
    for name in names:
        if name not in layout.by_name:
            violations.add(column_path(name), violation.UNKNOWN_COLUMN)
        elif times.get(name, 1) > 1:
            violations.add(column_path(name), violation.DUPLICATE)
    arrays, present, types = [], [], layout.schema.types
    for place, field in enumerate(layout.fields):
        if field.name in names:
            present.append(place)
            array = table.column(names[field.name])
            exact = layout.kinds[place] is not None and array.type == types[place]
            if not exact or array.null_count or isinstance(array, pa.ChunkedArray):
                array = coerce(array, field.type, field.required, column_path(field.name), violations)
            arrays.append(array)
        elif field.required:
            violations.add(column_path(field.name), violation.MISSING_COLUMN)
    return None if violations else record_batch(arrays, layout.schema_of(present), table.num_rows)


def caller_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch as callers have it: a property that a record lacks and one that is null are both null.

    The rows are the same, of `caller_schema(batch.schema)`: `batch` itself where nothing is to be done.
    """
    if not any(map(pa.types.is_nested, batch.schema.types)):
        return batch
    schema = caller_schema(batch.schema)
    arrays = [_caller_array(array, type) for array, type in zip(batch.columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _caller_array(array: pa.Array, target: pa.DataType) -> pa.Array:
    if array.type == target:
        return array
    if len(array) == 0:
        return pa.array([], target)
    if pa.types.is_struct(target):
        held, fields = list(array.type), list(target)
        children = [
            _caller_array(child.flatten()[0] if is_optional(one) else child, field.type)
            for child, one, field in zip(map(array.field, range(len(held))), held, fields, strict=True)
        ]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null() if array.null_count else None)
    if pa.types.is_map(target):
        entries = [array.keys, _caller_array(array.items, target.item_type)]
        child = pa.StructArray.from_arrays(entries, fields=[target.key_field, target.item_field])
    else:
        child = _caller_array(array.values, target.value_type)
    # The offsets of a slice are those of the whole.
    return pa.Array.from_buffers(target, len(array), array.buffers()[:2], offset=array.offset, children=[child])


def encode_stream(batch: pa.RecordBatch) -> pa.Buffer:
    """Write a batch as one Arrow IPC stream with its end marker."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def stream_parts(batch: pa.RecordBatch) -> list[Part]:
    """Write a batch as `encode_stream` does, in parts; those of columns are views of the batch."""
    parts = _Parts()
    with pa.ipc.new_stream(parts, batch.schema) as writer:
        writer.write_batch(batch)
    return list(parts)


class _Parts(list[Part]):
    """A file that keeps what is written to it, part by part; pyarrow wants each of its methods."""

    closed = False

    def write(self, part: Part) -> int:
        self.append(part)
        return len(part)

    def flush(self) -> None:
        pass
