"""The frames that the main process and a front process send each other over a Unix socket.

A frame is a fixed header, a JSON object (`meta`) and bytes (`body`): a record batch as Arrow IPC, or a pickle. Only the
main process sends pickles: a front process faces the network, and what it sends is data to the main one, never code.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

import pyarrow as pa

from prinz_enricher.worker.frames import FrameError

MAGIC = b"PRP1"

HEADER = struct.Struct("<4sB3xIQQQ")
"""Magic, kind, length of the schema part of the body, id, length of meta, length of the body."""

MAX_META = 64 << 20
MAX_BODY = 1 << 40
"""Bytes; above what any batch or snapshot can have, so that a damaged length is seen before memory is taken for it."""

_CHUNK = 256 * 1024
"""Bytes that are received at once; many small frames come with one system call."""


class Kind(IntEnum):
    """What a frame says."""

    # From a front process.
    READY = 1
    """It listens."""
    SUBMIT = 2
    """A job."""
    CANCEL = 3
    """The callers of a job have gone."""
    LOAD = 4
    """A version is to be loaded."""
    WANT = 5
    """A signature is to be read before others."""
    USED = 6
    """An alias, or a default, was called."""
    SYNC = 7
    """Asks for `SYNCED` after all that the main process knows by now."""

    # From the main process.
    BEGIN = 32
    """All that is needed to begin; a pickle."""
    CATALOG = 33
    """The next snapshot; a pickle."""
    NEWS = 34
    """What else has changed; a pickle."""
    SCORES = 35
    """What a job, or one of its calls, came to."""
    FAILED = 36
    """Why a job, or one of its calls, has no scores."""
    SYNCED = 37
    """Answers `SYNC`."""
    DRAIN = 38
    """Take no new calls, finish those in flight, and end."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was received.

    Attributes:
        kind: What it says.
        id: The id of the job or question it belongs to; 0 for none.
        text: Its JSON.
        body: Its bytes, in memory that nobody else writes into.
        schema_size: How many bytes at the start of the body are an Arrow schema.
    """

    kind: Kind
    id: int
    text: bytes
    body: pa.Buffer
    schema_size: int

    @property
    def meta(self) -> dict[str, object]:
        """The JSON object of the frame.

        Raises:
            FrameError: There is none.
        """
        try:
            meta = json.loads(self.text)
        except (ValueError, RecursionError):
            raise FrameError("a frame's meta is no JSON") from None
        if not isinstance(meta, dict):
            raise FrameError("a frame's meta is no JSON object")
        return meta


class FrameReader:
    """Receives frames from a blocking stream socket. For one thread.

    Args:
        sock: The socket; it stays the caller's.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._chunk = bytearray(_CHUNK)
        self._start = self._end = 0

    def read(self) -> Frame | None:
        """Wait for the next frame.

        Returns:
            The frame; None where the other side has ended or the connection broke.

        Raises:
            FrameError: What came is no frame, or ended in the middle of one.
        """
        header = bytearray(HEADER.size)
        if not self._fill(memoryview(header)):
            return None
        magic, kind, schema_size, id, meta_size, size = HEADER.unpack(header)
        if magic != MAGIC or meta_size > MAX_META or size > MAX_BODY or schema_size > size:
            raise FrameError("what came is no frame")
        try:
            known = Kind(kind)
        except ValueError:
            raise FrameError(f"there is no kind of frame {kind}") from None
        text, body = bytearray(meta_size), pa.allocate_buffer(size)
        if not self._fill(memoryview(text)) or not self._fill(memoryview(body).cast("B")):
            raise FrameError("the stream ended in the middle of a frame")
        return Frame(known, id, bytes(text), body, schema_size)

    def _fill(self, view: memoryview) -> bool:
        """Fill a buffer; tells whether there was enough for it, or nothing at all where it is False.

        Raises:
            FrameError: The stream ended in the middle.
        """
        at, size = 0, len(view)
        while at < size:
            if self._start < self._end:
                some = min(size - at, self._end - self._start)
                view[at : at + some] = self._chunk[self._start : self._start + some]
                self._start += some
                at += some
                continue
            # What is larger than a chunk goes where it belongs without a copy.
            direct = size - at >= _CHUNK
            got = self._receive(view[at:] if direct else memoryview(self._chunk))
            if not got:
                if at:
                    raise FrameError("the stream ended in the middle of a frame")
                return False
            if direct:
                at += got
            else:
                self._start, self._end = 0, got
        return True

    def _receive(self, view: memoryview) -> int:
        try:
            return self._sock.recv_into(view)
        except OSError:
            # The other side was killed, or we have closed.
            return 0
