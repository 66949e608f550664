"""Record batches as the bodies of frames: Arrow IPC messages, with the schema before the first of each.

Batches of doubles without nulls are read and written without Arrow, in a tenth of the time where rows are few. Their
messages are metadata, which describe the columns and the number of rows, and then the values, one column after the
other. Messages with the same metadata differ in nothing but the values.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa

from .faults import FrameError
from .frames import Frame

# An Arrow IPC message has its buffers at multiples of this from its start.
_ALIGNMENT = 8
# What a message begins with: -1, and the length of its metadata.
_PREFIX = struct.Struct("<iI")
_DOUBLE = 8
# Bytes of a batch from which copying it costs more than handing over each of its buffers.
_LARGE = 256 * 1024
# Bytes of a column, on average, up to which copying it costs less than that.
_SMALL_COLUMN = 4 * 1024
# Numbers of rows that are remembered of a schema.
_MOST_SHAPES = 512
# Bytes of metadata that are remembered of a schema: those of thousands of columns have some 100 KB each.
_MOST_BYTES = 2 << 20


def has_at_most(batch: pa.RecordBatch, size: int) -> bool:
    """Return whether a batch has at most so many bytes."""
    # `nbytes`, which counts the bytes of a slice alone, takes longer (24 µs for eleven columns) than writing a small
    # batch. The size of its whole buffers takes half a microsecond, and is never smaller.
    return bool(batch.get_total_buffer_size() <= size or batch.nbytes <= size)


class _Parts(list[pa.Buffer | bytes]):
    """A file that keeps what is written to it, part by part and without a copy."""

    closed = False

    def write(self, part: pa.Buffer | bytes) -> int:
        self.append(part)
        return len(part)

    def flush(self) -> None:
        """Do nothing: pyarrow calls it."""


class BatchWriter:
    """Turns record batches into bodies, without a copy of large ones, and remembers which schema the other side has."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        # The schema with one column of doubles that was sent last, and the metadata of its messages by number of rows.
        self._doubles: pa.Schema | None = None
        self._heads: dict[int, bytes] = {}

    def parts(self, batch: pa.RecordBatch) -> tuple[list[pa.Buffer | bytes], int]:
        """Return a batch as the parts of a body, and how many bytes of them are the schema (0: as before).

        The batch must be sent: the next one relies on its schema.
        """
        schema = batch.schema
        message = _message(batch)
        if self._schema is not None and (schema is self._schema or schema.equals(self._schema, check_metadata=True)):
            return message, 0
        head = schema.serialize()
        self._schema, self._doubles = schema, None
        return [head, bytes(-head.size % _ALIGNMENT), *message], head.size

    def parts_of_doubles(self, values: Any, schema: pa.Schema) -> tuple[list[pa.Buffer | bytes], int]:
        """Return a batch as `parts` does, by an ndarray that is its only column, and its schema."""
        if self._doubles is schema and 0 < values.nbytes <= _LARGE:
            return [(self._heads.get(len(values)) or self._head(len(values))) + values.tobytes()], 0
        parts = self.parts(pa.RecordBatch.from_arrays([pa.array(values, pa.float64())], schema=schema))
        self._doubles, self._heads = schema, {}
        return parts

    def _head(self, rows: int) -> bytes:
        column = pa.array(np.zeros(rows), pa.float64())
        written = pa.RecordBatch.from_arrays([column], schema=self._doubles).serialize()
        head = bytes(written[: written.size - _DOUBLE * rows])
        if len(self._heads) < _MOST_SHAPES:
            self._heads[rows] = head
        return head


def _message(batch: pa.RecordBatch) -> list[pa.Buffer | bytes]:
    """Return a batch as the parts of an Arrow IPC message: the same bytes as `batch.serialize()`."""
    if has_at_most(batch, max(_LARGE, _SMALL_COLUMN * batch.num_columns)):
        return [batch.serialize()]
    parts = _Parts()
    writer = pa.ipc.new_stream(parts, batch.schema)
    writer.write_batch(batch.slice(0, 0))
    # The schema and an empty batch, which the other side does not need.
    parts.clear()
    writer.write_batch(batch)
    return list(parts)


class BatchReader:
    """Turns bodies back into record batches that use the body's memory."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._only_doubles = False
        # Columns and rows, by the metadata of messages that Arrow has read and found to be doubles alone.
        self._shapes: dict[bytes, tuple[int, int]] = {}
        self._shapes_size = 0

    def array(self, frame: Frame) -> Any:
        """Read a batch of doubles, in the shape of one that was read before; None for any other, which `read` reads.

        The array is new, of shape (rows, columns), each column contiguous.
        """
        if frame.schema_size or (found := self._known_shape(frame.body)) is None:
            return None
        start, shape = found
        return np.frombuffer(frame.body, np.float64, offset=start).reshape(shape).copy().T

    def read(self, frame: Frame) -> pa.RecordBatch:
        """Read the batch of a frame; raises FrameError where it has none, or its schema was never sent."""
        start = frame.schema_size + (-frame.schema_size % _ALIGNMENT)
        try:
            if frame.schema_size:
                self._schema = pa.ipc.read_schema(frame.body.slice(0, frame.schema_size))
                self._only_doubles = {*self._schema.types} == {pa.float64()}
                self._shapes, self._shapes_size = {}, 0
            if self._schema is None or start > frame.body.size:
                raise FrameError("a batch came without its schema")
            message = frame.body.slice(start)
            batch = pa.ipc.read_record_batch(message, self._schema)
            # Any bytes are valid doubles.
            if self._known_shape(message) is None:
                batch.validate(full=True)
                self._learn_shape(message, batch)
        except (pa.ArrowException, OSError, EOFError, ValueError) as exc:
            raise FrameError(f"a frame holds no record batch ({type(exc).__name__})") from exc
        return batch

    def _known_shape(self, message: pa.Buffer) -> tuple[int, tuple[int, int]] | None:
        """Return where the values of a message with known metadata begin, and how many columns and rows they are."""
        if not self._shapes:
            return None
        head = _head(message)
        shape = self._shapes.get(head)
        if shape is None or message.size != len(head) + _DOUBLE * shape[0] * shape[1]:
            return None
        return len(head), shape

    def _learn_shape(self, message: pa.Buffer, batch: pa.RecordBatch) -> None:
        """Remember the metadata of a message where nothing but its values comes after them, column by column."""
        if not self._only_doubles or not batch.num_rows or len(self._shapes) >= _MOST_SHAPES:
            return
        head = _head(message)
        column_size = _DOUBLE * batch.num_rows
        if message.size != len(head) + column_size * batch.num_columns or self._shapes_size + len(head) > _MOST_BYTES:
            return
        for place, column in enumerate(batch.columns):
            validity, values = column.buffers()
            expected = message.address + len(head) + column_size * place
            if validity is not None or column.offset or values.address != expected:
                return
        self._shapes[head] = batch.num_columns, batch.num_rows
        self._shapes_size += len(head)


def _head(message: pa.Buffer) -> bytes:
    """Return a message up to its values; nothing where it is not a message."""
    if message.size < _PREFIX.size:
        return b""
    view = memoryview(message)
    marker, size = _PREFIX.unpack_from(view)
    return bytes(view[: _PREFIX.size + size]) if marker == -1 else b""
