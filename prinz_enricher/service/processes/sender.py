"""Sends frames from any thread, and never waits: what the socket has no room for goes later, in a thread of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping, Sequence

import pyarrow as pa

from prinz_enricher.service.processes.frames import HEADER, MAGIC, Kind
from prinz_enricher.worker.batches import BatchWriter

_MOST_PARTS = 512
"""Below the least IOV_MAX that a system may have (1024)."""

_NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)

_NOTHING: Mapping[str, object] = {}

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Sender:
    """Sends frames, in the order of the calls.

    Args:
        sock: A connected stream socket of the Unix family; blocking.
        patience: Seconds after which a side that reads nothing is given up, and the connection ended; None for never.
    """

    def __init__(self, sock: socket.socket, patience: float | None = None) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._batches = BatchWriter()
        self._waiting: deque[memoryview] = deque()
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None
        if patience is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(patience), 0))

    def send(
        self,
        kind: Kind,
        *,
        id: int = 0,
        meta: Mapping[str, object] = _NOTHING,
        body: bytes = b"",
        batch: pa.RecordBatch | None = None,
    ) -> None:
        """Send one frame; one to a side that has gone is dropped.

        Args:
            kind: What it says.
            id: The id of the job or question it belongs to.
            meta: A JSON object.
            body: Its bytes.
            batch: A record batch in place of them.
        """
        text = _encode(meta).encode()
        with self._lock:
            if self._closed:
                return
            # In here: a batch is written without its schema where the one before it had the same.
            parts, schema_size = ([body], 0) if batch is None else self._batches.parts(batch)
            views = [memoryview(part).cast("B") for part in parts if len(part)]
            size = sum(map(len, views))
            head = HEADER.pack(MAGIC, kind, schema_size, id, len(text), size) + text
            left = [memoryview(head), *views]
            if not self._busy and not self._waiting:
                left = self._try_now(left)
            if left:
                self._waiting.extend(left)
                self._have_rest_sent()

    def close(self) -> None:
        """Send nothing more, and end the connection for both sides; the socket itself stays open."""
        with self._lock:
            self._end()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _try_now(self, views: list[memoryview]) -> list[memoryview]:
        """Send what the socket takes at once; returns the rest."""
        while views:
            try:
                sent = self._sock.sendmsg(views[:_MOST_PARTS], (), socket.MSG_DONTWAIT | _NO_SIGNAL)
            except BlockingIOError:
                break
            except OSError:
                self._end()
                return []
            views = _after(views, sent)
        return views

    def _have_rest_sent(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_rest, name="process-sender", daemon=True)
            self._thread.start()
        self._filled.notify()

    def _send_rest(self) -> None:
        while True:
            with self._lock:
                self._busy = False
                while not self._waiting and not self._closed:
                    self._filled.wait()
                if self._closed:
                    return
                views, self._busy = list(self._waiting), True
                self._waiting.clear()
            try:
                while views:
                    views = _after(views, self._sock.sendmsg(views[:_MOST_PARTS], (), _NO_SIGNAL))
            except OSError:
                # It has gone, or has not read for long.
                with self._lock:
                    self._end()
                return

    def _end(self) -> None:
        self._closed = True
        self._waiting.clear()
        self._filled.notify_all()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def _after(views: Sequence[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of buffers once some bytes of them were sent."""
    for place, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[place + 1 :]]
        sent -= len(view)
    return []
