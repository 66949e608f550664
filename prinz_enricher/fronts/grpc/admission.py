"""Which calls are admitted: bounds on calls in flight and on their bytes, of which no caller can keep others out."""

from __future__ import annotations

import resource
import threading
from collections.abc import Hashable
from dataclasses import dataclass

from google.rpc import status_pb2

from prinz_enricher.config import ConnectionSettings, ServerSettings
from prinz_enricher.errors import Overloaded, ShuttingDown
from prinz_enricher.provision.memory import default_budget
from prinz_enricher.service.status import to_status

UNLIMITED = 1 << 62
SMALL = 4096
"""Bytes of requests and answers that are not counted: ten thousand of them hold little."""

_MAX_INT = 2**31 - 1
_OTHER_FILES = 256
"""Files that the service needs besides connections: workers, models, the registry."""

_MAX_RESERVE = 64 * 1024 * 1024
"""Bytes over their limit for callers that have little in flight, at most."""


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """Bounds of a front; calls beyond them are OVERLOADED.

    Attributes:
        message_bytes: Bytes of a request or an answer.
        calls: Unary calls and messages of streams in flight, and streams.
        inflight_bytes: Bytes of requests in flight, of what those become, and of answers that are not read yet.
        patience: Seconds that a message of a stream may wait for its caller to read.
        connection_seconds: Age of a connection at which new calls are sent to another; 0 for no limit.
        connection: What one connection, and all of them, may take besides.
    """

    message_bytes: int
    calls: int
    inflight_bytes: int = UNLIMITED
    patience: float = 60.0
    connection_seconds: float = 0.0
    connection: ConnectionSettings = ConnectionSettings()  # noqa: RUF009 - it is frozen


def limits_of(settings: ServerSettings) -> FrontLimits:
    """Return the bounds that settings say."""
    inflight_bytes = settings.max_inflight_bytes or default_budget(0.25) or UNLIMITED
    age = settings.max_connection_age
    return FrontLimits(
        settings.max_message_bytes,
        settings.max_calls,
        inflight_bytes,
        connection_seconds=age,
        connection=settings.connection,
    )


def max_connections(settings: ConnectionSettings) -> int:
    """Return how many connections there may be: without files left, new callers would wait without an answer."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    by_files = min(_MAX_INT, max(files - _OTHER_FILES, files // 2)) if files > 0 else _MAX_INT
    return min(by_files, settings.max_connections or by_files)


class FairLimit:
    """A limit on what all callers have of something; once it is reached, those with little get a reserve beyond it.

    Each caller's part of the reserve is what is left to one more, so nobody can take it all. Any thread calls.

    Args:
        limit: What all may have; one that has it alone may exceed it.
        reserve: What those with little may have beyond it.
    """

    def __init__(self, limit: int, reserve: int) -> None:
        self.total = 0
        self.change(limit, reserve)
        self._lock = threading.Lock()
        self._taken: dict[Hashable, int] = {}

    def change(self, limit: int, reserve: int) -> None:
        """Go on with another limit; who has more than that keeps it."""
        self._limit, self._reserve = limit, reserve

    @property
    def is_half_taken(self) -> bool:
        """Whether half of the limit is reached."""
        return 2 * self.total >= self._limit

    def take(self, caller: Hashable, amount: int = 1, held: int = 0) -> bool:
        """Note that a caller has more, besides what it has `held` of the same thing; returns False where it may not."""
        with self._lock:
            total, taken = self.total + amount, self._taken.get(caller, 0) + amount
            if total > self._limit and self.total > held:
                share = self._reserve // (len(self._taken) + (caller not in self._taken))
                if taken > share or total > self._limit + self._reserve:
                    return False
            self.total = total
            self._taken[caller] = taken
        return True

    def release(self, caller: Hashable, amount: int = 1) -> None:
        """Note that a caller has less."""
        with self._lock:
            self.total -= amount
            left = self._taken[caller] - amount
            if left:
                self._taken[caller] = left
            else:
                del self._taken[caller]


class Admission:
    """Admits calls and streams up to the limits, until `draining` is set. Any thread may call.

    A caller is whatever tells one from another, such as the address of a connection.
    """

    def __init__(self, limits: FrontLimits) -> None:
        self.draining = False
        self._idle = threading.Event()
        self._open: dict[Hashable, tuple[Hashable, int]] = {}
        self._lock = threading.Lock()
        self._calls, self._streams, self._bytes = (FairLimit(0, 0) for _ in range(3))
        self.change(limits)
        self._shutting_down = to_status(ShuttingDown())

    def change(self, limits: FrontLimits) -> None:
        """Go on with other limits; what is in flight stays."""
        self.limits = limits
        self._calls.change(limits.calls, limits.calls // 4)
        self._streams.change(limits.calls, limits.calls // 4)
        self._bytes.change(limits.inflight_bytes, min(limits.inflight_bytes // 4, _MAX_RESERVE))
        # Refusals come when there is least time, so each is written once.
        self._overloaded = to_status(Overloaded(f"{limits.calls} calls are in flight"))
        self._many_streams = to_status(Overloaded(f"{limits.calls} streams are open"))
        self._full_reason = f"requests and answers of {limits.inflight_bytes} bytes are in flight"
        self._full = to_status(Overloaded(self._full_reason))
        self._unread = to_status(Overloaded(f"answers of {limits.inflight_bytes} bytes are not read yet"))

    @property
    def in_flight(self) -> int:
        """The number of calls in flight."""
        return len(self._open)

    @property
    def is_half_full(self) -> bool:
        """Whether half of the bytes in flight that there may be are taken."""
        return self._bytes.is_half_taken

    def wait_idle(self, seconds: float) -> None:
        """Wait so long at most until no call is in flight, while it drains."""
        if self._open:
            self._idle.wait(seconds)

    def enter(self, call: Hashable, caller: Hashable, size: int = 0) -> status_pb2.Status | None:
        """Admit a call with a request of `size` bytes, a lone one of any size; returns the refusal, if any."""
        if self.draining:
            return self._shutting_down
        if not self._calls.take(caller):
            return self._overloaded
        if size <= SMALL:
            size = 0
        elif not self._bytes.take(caller, size):
            self._calls.release(caller)
            return self._full
        self._open[call] = caller, size
        return None

    def resize(self, call: Hashable, size: int) -> status_pb2.Status | None:
        """Admit other bytes of a call than it has, any number of a lone one; returns the refusal, if any."""
        with self._lock:
            caller, request_size = self._open.get(call, (None, 0))
            if caller is None:
                return None
            if request_size:
                self._bytes.release(caller, request_size)
            refusal = self.hold(caller, size)
            self._open[call] = caller, size if refusal is None and size > SMALL else 0
        return refusal

    def grow(self, call: Hashable, size: int) -> None:
        """Count so many bytes more for a call until it ends, from any thread; a lone one may take any number.

        Raises Overloaded where there is no room for them.
        """
        with self._lock:
            if (found := self._open.get(call)) is None:
                return
            caller, held = found
            if not self._bytes.take(caller, size, held):
                raise Overloaded(self._full_reason)
            self._open[call] = caller, held + size

    def leave(self, call: Hashable) -> bool:
        """Count a call as ended; returns whether it was open."""
        with self._lock:
            caller, size = self._open.pop(call, (None, 0))
        if caller is None:
            return False
        self._calls.release(caller)
        if size:
            self._bytes.release(caller, size)
        if self.draining and not self._open:
            self._idle.set()
        return True

    def enter_stream(self, caller: Hashable) -> status_pb2.Status | None:
        """Admit a stream; returns the refusal, if any."""
        if self.draining:
            return self._shutting_down
        return None if self._streams.take(caller) else self._many_streams

    def leave_stream(self, caller: Hashable) -> None:
        """Count a stream as ended."""
        self._streams.release(caller)

    def hold(self, caller: Hashable, size: int) -> status_pb2.Status | None:
        """Admit an answer of `size` bytes until it is read, a lone one of any size; returns the refusal, if any."""
        return None if size <= SMALL or self._bytes.take(caller, size) else self._unread

    def drop(self, caller: Hashable, size: int) -> None:
        """Count an answer as read, or as given up."""
        if size > SMALL:
            self._bytes.release(caller, size)
