"""Arrow IPC streams into checked record batches, and back.

Columns that are of the declared type already are views of the stream's memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from prinz_enricher.batch.arrow_message import batch_size, is_big_endian
from prinz_enricher.batch.coerce import coerce
from prinz_enricher.batch.columns import any_fields
from prinz_enricher.batch.faults import Faults, column_path, refusal
from prinz_enricher.batch.layout import Layout, input_layout, record_batch
from prinz_enricher.errors import BatchTooLarge
from prinz_enricher.signature import Field, Signature

MAX_STREAM_BYTES: Final = 1 << 31
"""How many bytes the buffers of a stream may have once decompressed, unless the caller says otherwise."""


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
        table = _read(buffer)
        # Names that are not UTF-8 show only here.
        names = dict.fromkeys(table.schema.names)
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError, OverflowError, MemoryError) as exc:
        raise refusal("arrow_stream", "is not a sound Arrow IPC stream") from exc
    faults = Faults()
    fields = signature.inputs or any_fields(names)
    batch = _conform(table, input_layout(signature) if signature.inputs else Layout(tuple(fields)), faults)
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


def _read_options() -> pa.ipc.IpcReadOptions:
    if not hasattr(pa.ipc, "Alignment"):  # pyarrow before it had the option
        return pa.ipc.IpcReadOptions(use_threads=False)
    # Copies just the buffers that do not lie as their type needs; others remain views.
    return pa.ipc.IpcReadOptions(use_threads=False, ensure_alignment=pa.ipc.Alignment.DataTypeSpecific)


def _read(buffer: pa.Buffer) -> pa.RecordBatch | pa.Table:
    with pa.ipc.open_stream(pa.BufferReader(buffer), options=_read_options()) as reader:
        batches = list(reader)
        for batch in batches:
            # Whatever offsets and text a hostile stream has: nothing is computed on them before this.
            batch.validate(full=True)
        if len(batches) == 1:
            return batches[0]
        return pa.Table.from_batches(batches, schema=reader.schema)


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
