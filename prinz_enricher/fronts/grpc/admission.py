"""Which calls are let in, and which of them are in flight."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from google.rpc import status_pb2

from prinz_enricher.errors import Overloaded, ShuttingDown
from prinz_enricher.service.status import to_status

UNLIMITED = 1 << 62
_SMALL = 4096
"""Bytes up to which a request counts as a call alone: ten thousand of them hold little, and need no lock."""


class RequestBytes:
    """Counts the bytes of requests in flight; any thread may call it.

    Args:
        most: Bytes at most. One request is taken in any case while there is no other.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> int | None:
        """Count a request; returns what `give_back` is to be called with, None where there is no room for it."""
        if size <= _SMALL:
            return 0
        with self._lock:
            if self._held and self._held + size > self.most:
                return None
            self._held += size
        return size

    def give_back(self, taken: int) -> None:
        """Note that a request is gone."""
        if taken:
            with self._lock:
                self._held -= taken


class Admission:
    """Lets calls in up to a number, until it is told to take no more. One thread lets in; any thread lets out.

    Args:
        max_calls: Calls in flight at most.
        max_bytes: Bytes of their requests at most.

    Attributes:
        draining: Whether no more calls are let in.
    """

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self.draining = False
        self._max_calls = max_calls
        self._bytes = RequestBytes(max_bytes)
        self._open: dict[Hashable, int] = {}
        # Refusals come when there is least time: each is written once.
        self._overloaded = to_status(Overloaded(f"{max_calls} calls are in flight"))
        self._full = to_status(no_room(max_bytes))
        self._shutting_down = to_status(ShuttingDown())

    @property
    def in_flight(self) -> int:
        """How many calls are in flight."""
        return len(self._open)

    def enter(self, call: Hashable, size: int = 0) -> status_pb2.Status | None:
        """Let a call in, whose request has so many bytes; returns why not where it can't be."""
        if self.draining:
            return self._shutting_down
        if len(self._open) >= self._max_calls:
            return self._overloaded
        taken = self._bytes.take(size)
        if taken is None:
            return self._full
        self._open[call] = taken
        return None

    def leave(self, call: Hashable) -> None:
        """Note that a call has ended; once more does nothing."""
        self._bytes.give_back(self._open.pop(call, 0))


def no_room(most: int) -> Overloaded:
    """Make the refusal of a request for whose bytes there is no room."""
    return Overloaded(f"requests of {most} bytes are in flight")
