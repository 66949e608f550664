"""Which calls are admitted: bounds on calls in flight, and on the bytes of their requests."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

from google.rpc import status_pb2

from prinz_enricher.errors import Overloaded, ShuttingDown
from prinz_enricher.service.status import to_status

UNLIMITED = 1 << 62
_SMALL = 4096
"""Bytes of requests that are not counted: ten thousand of them hold little, and need no lock."""


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """Bounds of a front; calls beyond them are OVERLOADED.

    Attributes:
        message_bytes: Bytes of a request or an answer.
        calls: Unary calls and messages of streams in flight, and streams.
        inflight_bytes: Bytes of the requests of unary calls in flight.
        patience: Seconds that a message of a stream may wait for its caller to read.
        connection_seconds: Age of a connection at which new calls are sent to another; 0 for no limit.
    """

    message_bytes: int
    calls: int
    inflight_bytes: int = UNLIMITED
    patience: float = 60.0
    connection_seconds: float = 0.0


class Admission:
    """Admits calls up to the limits, until `draining` is set. One thread calls `enter`; any thread calls `leave`."""

    def __init__(self, limits: FrontLimits) -> None:
        self.draining = False
        self._limits = limits
        self._open: dict[Hashable, int] = {}
        # The lock is for the bytes.
        self._lock = threading.Lock()
        self._bytes = 0
        # Refusals come when there is least time, so each is written once.
        self._overloaded = to_status(Overloaded(f"{limits.calls} calls are in flight"))
        self._full = to_status(Overloaded(f"requests of {limits.inflight_bytes} bytes are in flight"))
        self._shutting_down = to_status(ShuttingDown())

    @property
    def in_flight(self) -> int:
        """The number of calls in flight."""
        return len(self._open)

    def is_open(self, call: Hashable) -> bool:
        """Return whether a call was admitted and has not ended."""
        return call in self._open

    def enter(self, call: Hashable, size: int = 0) -> status_pb2.Status | None:
        """Admit a call with a request of `size` bytes, a lone one of any size; returns the refusal, if any."""
        if self.draining:
            return self._shutting_down
        if len(self._open) >= self._limits.calls:
            return self._overloaded
        if size <= _SMALL:
            size = 0
        else:
            with self._lock:
                if self._bytes and self._bytes + size > self._limits.inflight_bytes:
                    return self._full
                self._bytes += size
        self._open[call] = size
        return None

    def leave(self, call: Hashable) -> bool:
        """Count a call as ended; returns whether it was open."""
        size = self._open.pop(call, None)
        if size:
            with self._lock:
                self._bytes -= size
        return size is not None
