"""Which calls are admitted: bounds on calls in flight, and on the bytes of their requests."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from google.rpc import status_pb2

from prinz_enricher.errors import Overloaded, ShuttingDown
from prinz_enricher.service.status import to_status

UNLIMITED = 1 << 62
_SMALL = 4096
"""Bytes of requests that are not counted: ten thousand of them hold little, and need no lock."""


class RequestBytes:
    """Counts the bytes of requests in flight, from any thread, up to `limit`; a lone request is always admitted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._lock = threading.Lock()

    def acquire(self, size: int) -> int | None:
        """Count a request; returns what to `release` later, None where there is no room for it."""
        if size <= _SMALL:
            return 0
        with self._lock:
            if self._held and self._held + size > self.limit:
                return None
            self._held += size
        return size

    def release(self, acquired: int) -> None:
        """Count a request as gone."""
        if acquired:
            with self._lock:
                self._held -= acquired


class Admission:
    """Admits calls up to a number, until `draining` is set. One thread calls `enter`; any thread calls `leave`.

    Args:
        max_calls: Calls in flight.
        max_bytes: Bytes of their requests.
    """

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self.draining = False
        self._max_calls = max_calls
        self._bytes = RequestBytes(max_bytes)
        self._open: dict[Hashable, int] = {}
        # Refusals come when there is least time, so each is written once.
        self._overloaded = to_status(Overloaded(f"{max_calls} calls are in flight"))
        self._full = to_status(too_many_bytes(max_bytes))
        self._shutting_down = to_status(ShuttingDown())

    @property
    def in_flight(self) -> int:
        """The number of calls in flight."""
        return len(self._open)

    def enter(self, call: Hashable, size: int = 0) -> status_pb2.Status | None:
        """Admit a call with a request of `size` bytes; returns the refusal, if any."""
        if self.draining:
            return self._shutting_down
        if len(self._open) >= self._max_calls:
            return self._overloaded
        acquired = self._bytes.acquire(size)
        if acquired is None:
            return self._full
        self._open[call] = acquired
        return None

    def leave(self, call: Hashable) -> None:
        """Count a call as ended; a second time does nothing."""
        self._bytes.release(self._open.pop(call, 0))


def too_many_bytes(limit: int) -> Overloaded:
    """Return the error of a request for whose bytes there is no room."""
    return Overloaded(f"requests of {limit} bytes are in flight")
