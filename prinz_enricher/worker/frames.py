"""The frames that the front and a worker send each other over a Unix socket.

A frame is a fixed header, a JSON object (`meta`) and bytes (`body`). A record batch travels as Arrow IPC in the body;
its schema is put before it only when it is another one than the batch before had on the same socket.

    LOAD    front → worker   what to load; body: the input schema, then the output schema
    READY   worker → front   how it was loaded
    FAILED  worker → front   why it can't be loaded; the worker ends
    SCORE   front → worker   params and a batch
    SCORES  worker → front   the outputs and the seconds of the model call
    RAISED  worker → front   why there are no outputs
"""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import IntEnum

import pyarrow as pa

MAGIC = b"PRZ1"
_HEADER = struct.Struct("<4sB3xQIIQ")
"""Magic, kind, id, length of meta, length of the schema part of the body, length of the body."""

_ALIGNMENT = 8
"""An Arrow IPC message has its buffers at multiples of this from its start."""

_MOST_PARTS = 512
"""Below the least IOV_MAX that a system may have (1024)."""

_LARGE = 256 * 1024
"""Bytes of a batch from which copying it costs more than handing over each of its buffers."""


class FrameError(Exception):
    """The other side sent what is no frame, or ended in the middle of one."""


class Kind(IntEnum):
    """What a frame says."""

    LOAD = 1
    READY = 2
    FAILED = 3
    SCORE = 4
    SCORES = 5
    RAISED = 6


@dataclass(frozen=True, slots=True)
class Limits:
    """What a frame may hold, in bytes; more is an error before anything is allocated."""

    meta: int = 4 << 20
    body: int = 2 << 30


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was received.

    Attributes:
        kind: What it says.
        id: The id of the job it belongs to; 0 for none.
        meta: Its JSON object.
        body: Its bytes, in memory of their own.
        schema_size: How many bytes at the start of the body are an Arrow schema.
    """

    kind: Kind
    id: int
    meta: dict[str, object]
    body: pa.Buffer
    schema_size: int = 0


class FrameSocket:
    """A connected stream socket that frames are sent and received on.

    Sending and receiving may each be done by one thread at a time.
    """

    def __init__(
        self, sock: socket.socket, limits: Limits | None = None, *, before_read: Callable[[], None] | None = None
    ) -> None:
        """Take over a socket.

        Args:
            sock: A connected stream socket; blocking.
            limits: The largest frame that is sent or accepted.
            before_read: Called before each read that may block; may raise to give up waiting.
        """
        self._sock = sock
        self._limits = limits or Limits()
        self._before_read = before_read
        self._header = bytearray(_HEADER.size)

    def send(
        self,
        kind: Kind,
        meta: Mapping[str, object],
        *,
        id: int = 0,
        body: Sequence[pa.Buffer | bytes] = (),
        schema_size: int = 0,
    ) -> None:
        """Send one frame.

        Args:
            kind: What it says.
            meta: A JSON object.
            id: The id of the job it belongs to.
            body: Parts that together are the body.
            schema_size: How many bytes at the start of the body are an Arrow schema.

        Raises:
            FrameError: The frame is larger than the limits.
            OSError: The other side has gone.
        """
        text = json.dumps(meta, separators=(",", ":")).encode()
        size = sum(len(memoryview(part).cast("B")) for part in body)
        if len(text) > self._limits.meta or size > self._limits.body:
            raise FrameError("a frame is larger than the limit")
        header = _HEADER.pack(MAGIC, kind, id, len(text), schema_size, size)
        self._send_all([header, text, *body])

    def _send_all(self, parts: Sequence[pa.Buffer | bytes]) -> None:
        views = [view for view in (memoryview(part).cast("B") for part in parts) if len(view)]
        while views:
            sent = self._sock.sendmsg(views[:_MOST_PARTS], (), getattr(socket, "MSG_NOSIGNAL", 0))
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]

    def receive(self) -> Frame | None:
        """Wait for the next frame.

        Returns:
            The frame, or None where the other side has ended orderly.

        Raises:
            FrameError: What came is no frame, is larger than the limits, or ended too early.
            OSError: The connection broke.
        """
        if not self._fill(memoryview(self._header), may_end=True):
            return None
        magic, kind, id_, meta_size, schema_size, size = _HEADER.unpack(self._header)
        if magic != MAGIC or self._header[5:8] != b"\0\0\0":
            raise FrameError("what came is no frame")
        if meta_size > self._limits.meta or size > self._limits.body or schema_size > size:
            raise FrameError("a frame's lengths are beyond the limits")
        try:
            known = Kind(kind)
        except ValueError:
            raise FrameError(f"there is no kind of frame {kind}") from None
        text = bytearray(meta_size)
        self._fill(memoryview(text))
        body = pa.allocate_buffer(size)
        if size:
            self._fill(memoryview(body).cast("B"))
        try:
            meta = json.loads(text)
        except (ValueError, RecursionError):
            raise FrameError("a frame's meta is no JSON") from None
        if not isinstance(meta, dict):
            raise FrameError("a frame's meta is no JSON object")
        return Frame(known, id_, meta, body, schema_size)

    def _fill(self, view: memoryview, *, may_end: bool = False) -> bool:
        """Fill a buffer; False where the stream ended before its first byte and may do so."""
        at = 0
        while at < len(view):
            if self._before_read is not None:
                self._before_read()
            got = self._sock.recv_into(view[at:])
            if not got:
                if may_end and not at:
                    return False
                raise FrameError("the stream ended in the middle of a frame")
            at += got
        return True

    def fileno(self) -> int:
        """Tell the socket's file descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket: the other side sees the end of the stream."""
        self._sock.close()


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

    def parts(self, batch: pa.RecordBatch) -> tuple[list[pa.Buffer | bytes], int]:
        """Give a batch as the parts of a body, and how many bytes of them are the schema (0: as before).

        The batch must be sent: the next one relies on its schema.
        """
        schema = batch.schema
        if self._schema is not None and (schema is self._schema or schema.equals(self._schema, check_metadata=True)):
            return _message(batch), 0
        head = schema.serialize()
        self._schema = schema
        return [head, bytes(-head.size % _ALIGNMENT), *_message(batch)], head.size


def _message(batch: pa.RecordBatch) -> list[pa.Buffer | bytes]:
    """Give a batch as the parts of an Arrow IPC message: the same bytes as `batch.serialize()`."""
    if batch.nbytes < _LARGE:
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

    def read(self, frame: Frame) -> pa.RecordBatch:
        """Read the batch of a frame.

        Raises:
            FrameError: The body holds no record batch, or its schema was never sent.
        """
        start = frame.schema_size + (-frame.schema_size % _ALIGNMENT)
        try:
            if frame.schema_size:
                self._schema = pa.ipc.read_schema(frame.body.slice(0, frame.schema_size))
            if self._schema is None or start > frame.body.size:
                raise FrameError("a batch came without its schema")
            batch = pa.ipc.read_record_batch(frame.body.slice(start), self._schema)
            batch.validate(full=True)
        except (pa.ArrowException, OSError, EOFError, ValueError) as exc:
            raise FrameError(f"a frame holds no record batch ({type(exc).__name__})") from exc
        return batch


def encode_value(value: object) -> object:
    """Write a parameter's value as JSON that `decode_value` gives back unchanged.

    Args:
        value: None, bool, int, float, str, bytes, datetime, date, or lists and string-keyed dicts of them.

    Raises:
        TypeError: The value is none of these.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, date):
        return {"date": value.isoformat()}
    if isinstance(value, list | tuple):
        return [encode_value(item) for item in value]
    if isinstance(value, Mapping):
        return {"record": [[str(key), encode_value(item)] for key, item in value.items()]}
    raise TypeError(f"a parameter can't be a {type(value).__name__}")


def decode_value(value: object) -> object:
    """Read what `encode_value` wrote.

    Raises:
        FrameError: It did not write this.
    """
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        ((form, content),) = value.items()
        if form == "record":
            return {key: decode_value(item) for key, item in content}
        return _FORMS[form](content)
    except (ValueError, TypeError, KeyError):
        raise FrameError("a parameter's value is of no known form") from None


_FORMS: dict[str, Callable[[str], object]] = {
    "bytes": base64.b64decode,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
}
