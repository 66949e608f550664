"""A stream whose messages are written by other threads than the one that sends them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import structlog
from google.rpc import status_pb2

from prinz_enricher.errors import ShuttingDown
from prinz_enricher.service.calls import Source
from prinz_enricher.service.status import internal_failure, to_status

log = structlog.stdlib.get_logger(__name__)

_AHEAD_BYTES = 64 * 1024
"""How far the messages are ahead of the caller: by so many bytes, and a message."""


class BackgroundSource:
    """Pulls another source on threads, so that a large message holds up no other stream.

    `open_source` opens that source with what wakes this one; its errors are raised here. `wake` is called when there is
    something to pull.
    """

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        open_source: Callable[[Callable[[], None]], Source],
        wake: Callable[[], None],
    ) -> None:
        self._threads = threads
        self._wake = wake
        self._lock = Lock()
        self._ready: deque[bytes | status_pb2.Status] = deque()
        self._is_working = False
        self._closed = Event()
        self._has_more = True
        self._source = open_source(self._note)

    def pull(self) -> bytes | status_pb2.Status | None:
        """Return the next message; None where there is none yet."""
        with self._lock:
            item = self._ready.popleft() if self._ready else None
            if self._ready or self._is_working or not self._has_more:
                return item
            self._is_working = True
        try:
            self._threads.submit(self._work)
        except RuntimeError:
            # The service ends.
            return item or to_status(ShuttingDown())
        return item

    def close(self) -> None:
        """End the stream."""
        self._closed.set()
        self._source.close()

    def _note(self) -> None:
        with self._lock:
            self._has_more = True
        self._wake()

    def _work(self) -> None:
        """Write some messages."""
        with self._lock:
            self._has_more = False
        has_more, left = True, _AHEAD_BYTES
        while left > 0 and not self._closed.is_set():
            item: bytes | status_pb2.Status | None
            try:
                item = self._source.pull()
            except Exception as error:  # noqa: BLE001 - a fault of this service, or of a stream that is just closed
                item = None if self._closed.is_set() else internal_failure(log, "stream failed", error)
            if item is None:
                has_more = False
                break
            left -= len(item) if isinstance(item, bytes) else _AHEAD_BYTES
            with self._lock:
                self._ready.append(item)
        with self._lock:
            self._is_working = False
            self._has_more = self._has_more or has_more
            wakes = bool(self._ready) or self._has_more
        if wakes:
            self._wake()
