"""Arrow IPC streams into checked record batches, and back.

Columns that are of the declared type already are views of the stream's memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from prinz_enricher.batch import wanted
from prinz_enricher.batch.arrow_message import batch_size, is_big_endian
from prinz_enricher.batch.coerce import coerce
from prinz_enricher.batch.columns import any_fields
from prinz_enricher.batch.encoding import amplifies
from prinz_enricher.batch.faults import Faults, column_path, refusal
from prinz_enricher.batch.layout import Layout, input_layout, record_batch
from prinz_enricher.errors import BatchTooLarge
from prinz_enricher.signature import Field, Signature

MAX_STREAM_BYTES: Final = 1 << 31
"""How many bytes the buffers of a stream may have once decompressed, unless the caller says otherwise."""

LARGE_STREAM: Final = 256 * 1024
"""Bytes of a stream from which its columns are read as they lie; copying those of a smaller one is cheaper."""

MAX_FREE_CELLS: Final = 1 << 20
"""How many rows times columns there may be that take no memory: columns of nulls, or of empty records, alone."""

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
"""Types of which values are looked at, or that are told by their names where they are refused."""

_MAX_SCALE: Final = {4: 9, 8: 18, 16: 38, 32: 76}
"""By the bytes of a decimal: how many digits it has at most; of one with a larger scale, no value can be read."""


def decode_stream(
    data: bytes | memoryview | pa.Buffer,
    signature: Signature,
    max_rows: int | None = None,
    max_bytes: int = MAX_STREAM_BYTES,
) -> pa.RecordBatch:
    """Check an Arrow stream and bring its columns to the types of a signature's inputs.

    Args:
        data: One IPC stream with its end marker: a schema and any number of record batches.
        signature: Of the model. Where it declares no inputs, columns of any name are taken, as values of any type. Text
            in a column of any type is JSON, as the table of types says.
        max_rows: How many rows there may be; None for any number.
        max_bytes: How many bytes the buffers may have once decompressed.

    Returns:
        As `decode_columns` does. The batches of the stream are one; without a batch it has zero rows.

    Raises:
        BatchTooLarge: There are more rows than `max_rows`.
        InvalidInput: The bytes are no sound stream, or with every fault of the columns.
    """
    buffer = data if isinstance(data, pa.Buffer) else pa.py_buffer(data)
    try:
        _inspect(buffer, max_rows, max_bytes)
        layout = input_layout(signature) if signature.inputs else None
        table = _read(buffer, layout)
        names = dict.fromkeys(table.schema.names)
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError, OverflowError, MemoryError) as exc:
        raise refusal("arrow_stream", "is not a sound Arrow IPC stream") from exc
    if amplifies(table.num_rows * table.num_columns, table.get_total_buffer_size(), MAX_FREE_CELLS):
        raise refusal("arrow_stream", "has more values than its bytes can hold")
    faults = Faults()
    fields = signature.inputs or any_fields(names)
    batch = _conform(table, layout or Layout(tuple(fields)), faults)
    faults.raise_any()
    return batch


def _inspect(buffer: pa.Buffer, max_rows: int | None, max_bytes: int) -> None:
    """Check what the messages announce, before anything is decompressed or allocated."""
    source = pa.BufferReader(buffer)
    messages = pa.ipc.MessageReader.open_stream(source)
    rows = size = 0
    first = True
    while True:
        end = source.tell()
        try:
            message = messages.read_next_message()
        except StopIteration:
            break
        if first:
            _check_schema(message)
            first = False
            continue
        body = memoryview(message.body) if message.body is not None else memoryview(b"")
        told = batch_size(memoryview(message.metadata), body, message.type == "dictionary")
        if told.rows < 0:
            # Arrow sees to it only where there are columns to compare it with.
            raise refusal("arrow_stream", "is not a sound Arrow IPC stream")
        rows += told.rows if message.type == "record batch" else 0
        size += told.bytes
        if max_rows is not None and rows > max_rows:
            raise BatchTooLarge(rows, max_rows)
        if size > max_bytes or 8 * rows > max_bytes:
            raise refusal("arrow_stream", f"is larger than {max_bytes} bytes once decompressed")
    if first:
        raise refusal("arrow_stream", "is empty")
    if source.tell() != len(buffer):
        raise refusal("arrow_stream", "goes on after its end")
    if source.tell() == end:
        # Without the marker a stream that lost its last batches could not be told from a whole one.
        raise refusal("arrow_stream", "has no end marker; close its writer")


def _check_schema(message: pa.ipc.Message) -> None:
    if message.type != "schema":
        raise refusal("arrow_stream", "does not begin with a schema")
    if is_big_endian(memoryview(message.metadata)):
        raise refusal("arrow_stream", "is big-endian; write it little-endian")


def _read_options(columns: Sequence[int] = (), *, aligned: bool = True) -> pa.ipc.IpcReadOptions:
    """Give the options to read some columns, by their places; all of them by default."""
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=list(columns))
    if aligned and hasattr(pa.ipc, "Alignment"):  # pyarrow before it had the option
        # Copies just the buffers that do not lie as their type needs; others remain views.
        options.ensure_alignment = pa.ipc.Alignment.DataTypeSpecific
    return options


def _read(buffer: pa.Buffer, layout: Layout | None) -> pa.RecordBatch | pa.Table:
    if layout is not None and len(buffer) >= LARGE_STREAM and (batch := _read_views(buffer, layout)) is not None:
        return batch
    batches, schema = _read_batches(buffer, _read_options())
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches, schema=schema)


def _read_views(buffer: pa.Buffer, layout: Layout) -> pa.RecordBatch | None:
    """Read a stream of one batch so that fixed-width columns are views of it wherever they lie; None where not so.

    A stream within a message begins at any byte, so seven times of eight its columns are not aligned. That matters to
    who computes on them, and nobody does on one that is of the wanted type and has no nulls: it is just passed on.
    """
    with pa.ipc.open_stream(pa.BufferReader(buffer)) as reader:
        schema = reader.schema
    wanted = {
        field.name: field.type
        for field, kind in zip(layout.schema, layout.kinds, strict=True)
        if kind is not None and pa.types.is_primitive(field.type)
    }
    views = [place for place, field in enumerate(schema) if wanted.get(field.name) == field.type]
    others = [place for place in range(len(schema)) if place not in views]
    if not views:
        return None
    batches, _ = _read_batches(buffer, _read_options(views, aligned=False))
    if len(batches) != 1 or any(column.null_count for column in batches[0].columns):
        return None
    columns = dict(zip(views, batches[0].columns, strict=True))
    if others:
        ((batch,), _) = _read_batches(buffer, _read_options(others))
        columns |= zip(others, batch.columns, strict=True)
    return pa.RecordBatch.from_arrays([columns[place] for place in range(len(schema))], schema=schema)


def _read_batches(buffer: pa.Buffer, options: pa.ipc.IpcReadOptions) -> tuple[list[pa.RecordBatch], pa.Schema]:
    with pa.ipc.open_stream(pa.BufferReader(buffer), options=options) as reader:
        _check_types(reader.schema)
        batches = list(reader)
        for batch in batches:
            # Whatever offsets and text a hostile stream has: nothing is computed on them before this.
            batch.validate(full=True)
        return batches, reader.schema


def _check_types(schema: pa.Schema) -> None:
    """Refuse types that are never taken, before pyarrow works on values of them: some that are damaged crash it."""
    faults = Faults()
    for field in schema:
        if not _is_known(field.type):
            faults.add(column_path(field.name), wanted.OTHER_TYPE)
    faults.raise_any()


def _is_known(type: pa.DataType) -> bool:
    """Tell whether pyarrow reads every value of a type, however a stream tells of them."""
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


def conform(batch: pa.RecordBatch | pa.Table, fields: Sequence[Field], faults: Faults) -> pa.RecordBatch:
    """Bring a batch of any columns to some fields.

    Args:
        batch: Valid; columns in any order.
        fields: What is wanted, such as the outputs of a signature.
        faults: Takes every fault; where it has any after the call the answer is not to be used.

    Returns:
        The columns in the order of the fields and with exactly the types of `fields_schema`.
    """
    return _conform(batch, Layout(tuple(fields)), faults)


def _conform(table: pa.RecordBatch | pa.Table, layout: Layout, faults: Faults) -> pa.RecordBatch:
    names = table.schema.names
    for name in dict.fromkeys(names):
        if name not in layout.by_name:
            faults.add(column_path(name), "is no column of this model")
        elif names.count(name) > 1:
            faults.add(column_path(name), "is there twice")
    arrays, present, types = [], [], layout.schema.types
    for place, field in enumerate(layout.fields):
        if field.name in names:
            present.append(place)
            array = table.column(names.index(field.name))
            exact = layout.kinds[place] is not None and array.type == types[place]
            if not exact or array.null_count or isinstance(array, pa.ChunkedArray):
                array = coerce(array, field.type, field.required, column_path(field.name), faults)
            arrays.append(array)
        elif field.required:
            faults.add(column_path(field.name), "is missing, but the column is required")
    if faults:
        return None
    return record_batch(arrays, layout.schema_of(present), table.num_rows)


def encode_stream(batch: pa.RecordBatch) -> pa.Buffer:
    """Write a batch as one Arrow IPC stream.

    Args:
        batch: Any batch.

    Returns:
        The stream with its end marker; `memoryview` of it, or `to_pybytes()`, goes on the wire.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def stream_parts(batch: pa.RecordBatch) -> list[bytes | pa.Buffer]:
    """Write a batch as one Arrow IPC stream, and copy none of its columns.

    Args:
        batch: Any batch.

    Returns:
        Parts that together are what `encode_stream` gives; those of columns are views of the batch.
    """
    parts = _Parts()
    with pa.ipc.new_stream(parts, batch.schema) as writer:
        writer.write_batch(batch)
    return list(parts)


class _Parts(list[bytes | pa.Buffer]):
    """A file whose content is what was written to it, part by part."""

    closed = False

    def write(self, part: bytes | pa.Buffer) -> int:
        """Keep a part."""
        self.append(part)
        return len(part)

    def flush(self) -> None:
        """Do nothing, as pyarrow calls it."""
