"""Which calls are let in, and which of them are in flight."""

from __future__ import annotations

from collections.abc import Hashable

from google.rpc import status_pb2

from prinz_enricher.errors import Overloaded, ShuttingDown
from prinz_enricher.service.status import to_status


class Admission:
    """Lets calls in up to a number, until it is told to take no more. One thread lets in; any thread lets out.

    Args:
        max_calls: Calls in flight at most.

    Attributes:
        draining: Whether no more calls are let in.
    """

    def __init__(self, max_calls: int) -> None:
        self.draining = False
        self._max_calls = max_calls
        self._open: set[Hashable] = set()
        # Refusals come when there is least time: each is written once.
        self._overloaded = to_status(Overloaded(f"{max_calls} calls are in flight"))
        self._shutting_down = to_status(ShuttingDown())

    @property
    def in_flight(self) -> int:
        """How many calls are in flight."""
        return len(self._open)

    def enter(self, call: Hashable) -> status_pb2.Status | None:
        """Let a call in; returns why not where it can't be."""
        if self.draining:
            return self._shutting_down
        if len(self._open) >= self._max_calls:
            return self._overloaded
        self._open.add(call)
        return None

    def leave(self, call: Hashable) -> None:
        """Note that a call has ended; once more does nothing."""
        self._open.discard(call)
