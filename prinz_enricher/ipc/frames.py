"""Frames that a front and a worker exchange over a Unix socket.

A frame is a fixed header, a JSON object (`meta`) and bytes (`body`). A record batch travels in the body (`batches`).

A body goes through the socket where the other side is waiting for it. Where that side is computing, a large body would
have to wait, so it goes in sealed memory whose descriptor comes with the header. That costs more, since the pages are
new each time, but it keeps two sides from waiting for each other while a batch is sent ahead.

    LOAD    front → worker   what to load; body: the input schema, then the output schema
    STEP    worker → front   what it is doing meanwhile
    READY   worker → front   how it was loaded
    FAILED  worker → front   why it can't be loaded; the worker ends
    SCORE   front → worker   params and a batch
    SCORES  worker → front   the outputs and the seconds of the model call
    RAISED  worker → front   why there are no outputs
"""

from __future__ import annotations

import base64
import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from enum import IntEnum
from typing import Any, NamedTuple

import pyarrow as pa

from .faults import FrameError, FrameTooLarge
from .shared_memory import MOST_PARTS, ONE_DESCRIPTOR, SHARED_FROM, descriptors_in, mapped_memory, sealed_memory, skip

# Magic, kind, 1 for a body in shared memory, id, lengths of meta, of the schema in the body, and of the body.
_HEADER = struct.Struct("<4sBB2xQIIQ")
_MAGIC = b"PRZ1"

# As plain integers: with Python's own flags each of these takes longer than the call that they are for.
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_DONTWAIT = int(socket.MSG_DONTWAIT)
_CTRUNC = int(socket.MSG_CTRUNC)
_NOSIGNAL = int(getattr(socket, "MSG_NOSIGNAL", 0))

# Made once: json's own functions make a new one, or detect the encoding, each time.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class FrameKind(IntEnum):
    """What a frame says."""

    LOAD = 1
    READY = 2
    FAILED = 3
    SCORE = 4
    SCORES = 5
    RAISED = 6
    STEP = 7


_KINDS = {int(kind): kind for kind in FrameKind}


class Frame(NamedTuple):
    """One frame as it was received."""

    kind: FrameKind
    id: int  # of its job; 0 for none
    meta: dict[str, object]
    body: pa.Buffer  # in memory that nobody else writes to
    schema_size: int = 0  # bytes at the start of the body that are an Arrow schema


class FrameSocket:
    """A connected Unix stream socket on which frames are sent and received.

    The worker answers each frame of the front with one of its own. A side with an answer due must read, and send no
    frame that would have to wait. Sending and receiving may each be done by one thread at a time.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        max_meta: int = 4 << 20,
        max_body: int = 2 << 30,
        before_read: Callable[[], None] | None = None,
    ) -> None:
        """Take over a connected, blocking socket.

        A larger meta or body, in bytes, is an error before anything is sent or allocated. `before_read` is called
        before each read that may block, and may raise to stop waiting.
        """
        self._sock = sock
        self._max_meta = max_meta
        self._max_body = max_body
        self._before_read = before_read
        self._header = bytearray(_HEADER.size)
        self._sent = self._received = 0
        # The kernel counts its own bookkeeping as well.
        self._room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2

    def send(
        self,
        kind: FrameKind,
        meta: Mapping[str, object],
        *,
        id: int = 0,
        body: Sequence[pa.Buffer | bytes] = (),
        schema_size: int = 0,
        small_only: bool = False,
    ) -> bool:
        """Send one frame, whose body is given in parts; return whether it was sent.

        With `small_only` it is not where that would wait for the other side to read. Raises FrameTooLarge where it
        exceeds the limits, and nothing was sent; OSError where the other side has gone.
        """
        text = _encode(meta).encode()
        views = [view for view in (memoryview(part).cast("B") for part in body) if len(view)]
        size = sum(map(len, views))
        if len(text) > self._max_meta or size > self._max_body:
            raise FrameTooLarge("a frame is larger than the limit")
        sizes = (id, len(text), schema_size, size)
        # The other side has answered all, or waits for its own answer.
        reads = self._sent <= self._received
        room = size if reads or not small_only else self._room - _HEADER.size - len(text)
        if room < 0:
            return False
        if not reads and size >= SHARED_FROM and (descriptor := sealed_memory(views, size)) is not None:
            try:
                self._send_all([_HEADER.pack(_MAGIC, kind, 1, *sizes), text], descriptor)
                self._sent += 1
            except OSError as exc:
                # This user has too many descriptors in transit. It is raised before any byte is sent.
                if exc.errno != errno.ETOOMANYREFS:
                    raise
            else:
                return True
            finally:
                os.close(descriptor)
        if size > room:
            return False
        self._send_all([_HEADER.pack(_MAGIC, kind, 0, *sizes), text, *views])
        self._sent += 1
        return True

    def _send_all(self, parts: Sequence[bytes | memoryview], descriptor: int | None = None) -> None:
        views = [memoryview(part) for part in parts]
        control = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))]
        while views:
            skip(views, self._sock.sendmsg(views[:MOST_PARTS], control, _NOSIGNAL))
            # It went with the first bytes, however few these were.
            control = []

    def receive(self) -> Frame | None:
        """Wait for the next frame; None where the other side has closed between two frames.

        Raises FrameError where what came is not a frame, exceeds the limits, or ended too early; OSError where the
        connection broke.
        """
        came: list[int] = []
        try:
            return self._read(came) if self._fill([memoryview(self._header)], came) else None
        finally:
            # Mapped memory no longer needs its descriptor.
            for descriptor in came:
                os.close(descriptor)

    def _read(self, came: list[int]) -> Frame:
        magic, kind, shared, id_, meta_size, schema_size, size = _HEADER.unpack(self._header)
        if magic != _MAGIC or shared > 1 or self._header[6:8] != b"\0\0":
            raise FrameError("what came is not a frame")
        if meta_size > self._max_meta or size > self._max_body or schema_size > size:
            raise FrameError("a frame's lengths are beyond the limits")
        if len(came) != shared:
            raise FrameError("a frame came without its descriptor, or with one that it does not need")
        if (known := _KINDS.get(kind)) is None:
            raise FrameError(f"unknown kind of frame {kind}")
        text = bytearray(meta_size)
        if shared or not size:
            self._fill([memoryview(text)])
            body = mapped_memory(came[0], size) if shared else pa.allocate_buffer(0)
        else:
            body = pa.allocate_buffer(size)
            self._fill([memoryview(text), memoryview(body).cast("B")])
        try:
            meta = _decode(text.decode())
        except (ValueError, RecursionError):
            raise FrameError("a frame's meta is not JSON") from None
        if not isinstance(meta, dict):
            raise FrameError("a frame's meta is not a JSON object")
        self._received += 1
        return Frame(known, id_, meta, body, schema_size)

    def _fill(self, views: list[memoryview], came: list[int] | None = None) -> bool:
        """Fill buffers, and collect in `came` the descriptors received with them, where any may come.

        Returns False where the stream ended before its first byte, and descriptors were allowed.
        """
        begun = False
        control = 0 if came is None else ONE_DESCRIPTOR
        # Most often all is there already, and there is nothing to wait for.
        flags = _CLOEXEC if self._before_read is None else _CLOEXEC | _DONTWAIT
        while views:
            try:
                got, ancillary, received, _ = self._sock.recvmsg_into(views, control, flags)
            except BlockingIOError:
                if self._before_read is not None:
                    self._before_read()
                continue
            if came is not None:
                came += descriptors_in(ancillary)
            # The kernel has closed those that there was no room for.
            if received & _CTRUNC:
                raise FrameError("descriptors came that no frame needs")
            if not got:
                if came is not None and not begun:
                    return False
                raise FrameError("the stream ended in the middle of a frame")
            begun = True
            skip(views, got)
        return True

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket: the other side sees the end of the stream."""
        self._sock.close()

    def abandon(self) -> None:
        """Drop the connection in a forked process, unnoticed by the other side."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self._sock.fileno(), inheritable=False)
        os.close(null)


def encode_value(value: object) -> object:
    """Encode a parameter's value as JSON, which has neither bytes nor dates.

    It is None, a bool, int, float, str, bytes, datetime, date, or lists and string-keyed dicts of them; else TypeError.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, date):
        return {"datetime" if isinstance(value, datetime) else "date": value.isoformat()}
    if isinstance(value, list | tuple):
        return [encode_value(item) for item in value]
    if isinstance(value, Mapping):
        return {"record": [[str(key), encode_value(item)] for key, item in value.items()]}
    raise TypeError(f"a parameter can't be a {type(value).__name__}")


_DECODERS: dict[str, Callable[[Any], object]] = {
    "bytes": base64.b64decode,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "record": lambda items: {key: decode_value(item) for key, item in items},
}


def decode_value(value: object) -> object:
    """Decode what `encode_value` returned; raises FrameError for anything else."""
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        ((form, content),) = value.items()
        return _DECODERS[form](content)
    except (ValueError, TypeError, KeyError):
        raise FrameError("a parameter's value has no known form") from None
