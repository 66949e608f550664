"""Record batches as the bodies of frames: as Arrow IPC.

A batch's schema is put before it only when it is another one than the batch before had on the same socket.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from .doubles import DoublesReader, DoublesWriter
from .faults import FrameError
from .frames import Frame

_ALIGNMENT = 8
"""An Arrow IPC message has its buffers at multiples of this from its start."""

_LARGE = 256 * 1024
"""Bytes of a batch from which copying it costs more than handing over each of its buffers."""

_SMALL_COLUMN = 4 * 1024
"""Bytes of a column, on average, up to which copying it costs less than that."""


def has_at_most(batch: pa.RecordBatch, size: int) -> bool:
    """Tell whether a batch has so many bytes at the most.

    What Arrow reckons exactly, the bytes of a slice among them, costs more than to write a small batch: of eleven
    columns 24 µs. Its buffers as a whole are told in half a one, and are never less.
    """
    # Before version 7 Arrow had but one of the two, the quick one.
    whole = getattr(batch, "get_total_buffer_size", None)
    return bool((whole is not None and whole() <= size) or batch.nbytes <= size)


class _Parts(list[pa.Buffer | bytes]):
    """A file whose content is what was written to it, part by part and without a copy."""

    closed = False

    def write(self, part: pa.Buffer | bytes) -> int:
        """Keep a part."""
        self.append(part)
        return len(part)

    def flush(self) -> None:
        """Do nothing, as pyarrow calls it."""


class BatchWriter:
    """Turns record batches into bodies, and knows which schema the other side has already.

    The buffers of a large batch are parts of the body as they are: no byte of them is copied on the way to the socket.
    """

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._doubles: DoublesWriter | None = None

    def parts(self, batch: pa.RecordBatch) -> tuple[list[pa.Buffer | bytes], int]:
        """Give a batch as the parts of a body, and how many bytes of them are the schema (0: as before).

        The batch must be sent: the next one relies on its schema.
        """
        schema = batch.schema
        message = _message(batch)
        if self._schema is not None and (schema is self._schema or schema.equals(self._schema, check_metadata=True)):
            return message, 0
        head = schema.serialize()
        self._schema = schema
        self._doubles = None
        return [head, bytes(-head.size % _ALIGNMENT), *message], head.size

    def parts_of_doubles(self, values: Any, schema: pa.Schema) -> tuple[list[pa.Buffer | bytes], int]:
        """Give a batch as `parts` does, by its only column.

        Args:
            values: An ndarray of doubles of one dimension.
            schema: Of the batch: one column of doubles.
        """
        known = self._doubles
        if known is not None and known.schema is schema and 0 < values.nbytes <= _LARGE:
            return [known.message(values)], 0
        told = self.parts(pa.RecordBatch.from_arrays([pa.array(values, pa.float64())], schema=schema))
        self._doubles = DoublesWriter(schema)
        return told


def _message(batch: pa.RecordBatch) -> list[pa.Buffer | bytes]:
    """Give a batch as the parts of an Arrow IPC message: the same bytes as `batch.serialize()`."""
    if has_at_most(batch, max(_LARGE, _SMALL_COLUMN * batch.num_columns)):
        return [batch.serialize()]
    parts = _Parts()
    writer = pa.ipc.new_stream(parts, batch.schema)
    writer.write_batch(batch.slice(0, 0))
    # The schema and an empty batch, which the other side has no use for.
    parts.clear()
    writer.write_batch(batch)
    return list(parts)


class BatchReader:
    """Turns bodies back into record batches that use the body's memory."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._doubles = DoublesReader()

    def array(self, frame: Frame) -> Any:
        """Read the batch of a frame as an array, where it has nothing but doubles, as one that was read before.

        Returns:
            A new array of shape (rows, columns), each column in one piece; None for any other batch: `read` takes it.
        """
        return None if frame.schema_size else self._doubles.read(frame.body)

    def read(self, frame: Frame) -> pa.RecordBatch:
        """Read the batch of a frame.

        Raises:
            FrameError: The body holds no record batch, or its schema was never sent.
        """
        start = frame.schema_size + (-frame.schema_size % _ALIGNMENT)
        try:
            if frame.schema_size:
                self._schema = pa.ipc.read_schema(frame.body.slice(0, frame.schema_size))
                self._doubles.begin(self._schema)
            if self._schema is None or start > frame.body.size:
                raise FrameError("a batch came without its schema")
            message = frame.body.slice(start)
            batch = pa.ipc.read_record_batch(message, self._schema)
            # Any bytes are doubles.
            if not self._doubles.knows(message):
                batch.validate(full=True)
                self._doubles.learn(message, batch)
        except (pa.ArrowException, OSError, EOFError, ValueError) as exc:
            raise FrameError(f"a frame holds no record batch ({type(exc).__name__})") from exc
        return batch
