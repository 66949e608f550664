"""How many bytes the grpcio front receives at once: gRPC takes in each request whole, before anybody knows its size."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.rpc import status_pb2

from prinz_enricher.errors import Overloaded
from prinz_enricher.fronts.grpc.admission import Admission, FrontLimits
from prinz_enricher.fronts.grpc.turns import Turns
from prinz_enricher.service.status import to_status

MAX_UNCOUNTED: Final = 32
"""Requests that are received at once without being counted, at most: small ones are there within microseconds."""

FIRST_WAIT: Final = 0.005
"""Seconds after which a request that is still coming counts, and again whenever it took twice as long."""

AT_ONCE: Final = 8
"""Requests of one caller that are read here at once. Large ones that come together would be whole together, and gRPC
copies each while nothing else runs."""

NEXT_SECONDS: Final = 0.02
"""Seconds after which one more is read of all that wait, though none has ended."""

COPIES: Final = 2
"""What a request or an answer takes, by its size: gRPC copies it, and the C library keeps for a while what is freed."""

BYTES_PER_SECOND: Final = 1 << 30
"""What comes in at most, where the system does not say how much did."""

_INTERFACES: Final = Path("/proc/net/dev")

_Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
Serve: TypeAlias = Callable[[bytes, _Context], Awaitable[bytes]]
Refuse: TypeAlias = Callable[[_Context, str, status_pb2.Status], Awaitable[bytes]]


@dataclass(slots=True, eq=False)
class _Reading:
    """A request that is coming, in the task that waits for it."""

    caller: Any
    began: float
    before: int
    task: Any = field(default_factory=asyncio.current_task)
    """None once it is over: a task that has ended with an error holds the request."""
    counted: bool = False
    refusal: status_pb2.Status | None = None


class Receiver(grpc.GenericRpcHandler):
    """Finds the handlers of unary calls, and bounds the bytes of the requests that are received at once.

    gRPC's handler of a unary call is quick, but receives the request first, and then says nothing until it has. So only
    a few go that way at once. Any more are read here as if each were a stream of one message. Those that come at the
    same time count together for what this machine has received since, and are refused before it is too much.

    Args:
        name: Of the service.
        methods: How each unary method is served.
        admission: Admits calls.
        limits: Bytes of a request, of all in flight, and the seconds that one may take to come.
        refuse: Refuses a call.
        caller_of: Returns what tells a caller from another.
    """

    def __init__(
        self,
        name: str,
        methods: Mapping[str, Serve],
        admission: Admission,
        limits: FrontLimits,
        refuse: Refuse,
        caller_of: Callable[[_Context], Any],
    ) -> None:
        self._admission = admission
        self._limits = limits
        self._refuse = refuse
        self._caller_of = caller_of
        self._loop = asyncio.get_running_loop()
        self._receiving: set[Any] = set()
        self._reading: Counter[Any] = Counter()
        self._turns = Turns(NEXT_SECONDS, lambda: not admission.is_half_full)
        # What is read here, by when it counts anew.
        self._due: list[tuple[float, int, _Reading]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._received = 0
        self._late = to_status(Overloaded(f"the request did not come within {limits.patience:g} seconds"))
        self._handlers = {f"/{name}/{method}": self._make_handlers(method, serve) for method, serve in methods.items()}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call, within the task of that call."""
        handlers = self._handlers.get(details.method)
        if handlers is None:
            return None
        most = min(MAX_UNCOUNTED, max(1, self._admission.limits.inflight_bytes // 8 // self._limits.message_bytes))
        if len(self._receiving) >= most:
            # Those who left before their request was there are noted by nobody.
            self._receiving = {task for task in self._receiving if not task.done()}
            if len(self._receiving) >= most:
                return handlers[1]
        self._receiving.add(asyncio.current_task())
        return handlers[0]

    def _make_handlers(self, method: str, serve: Serve) -> tuple[Any, Any]:
        async def serve_received(request: bytes, context: _Context) -> bytes:
            self._receiving.discard(asyncio.current_task())
            return await serve(request, context)

        async def receive(_: object, context: _Context) -> None:
            request = await self._receive(method, context)
            if request is not grpc.aio.EOF:
                answering = serve(request, context)
                # Nothing but the call holds it.
                del request
                await context.write(await answering)

        # Without serialisers the messages are bytes, as the port wants them.
        return grpc.unary_unary_rpc_method_handler(serve_received), grpc.stream_stream_rpc_method_handler(receive)

    async def _receive(self, method: str, context: _Context) -> Any:
        """Return a request, or refuse it."""
        caller = self._caller_of(context)
        if self._reading[caller] >= AT_ONCE:
            await self._turns.wait(caller)
        if self._timer is None:
            self._received = _received_bytes()
        reading = _Reading(caller, self._loop.time(), self._received)
        self._reading[caller] += 1
        self._count_later(reading, FIRST_WAIT)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if reading.refusal is None:
                raise
            reading.task.uncancel()
        finally:
            reading.task = None
            self._end(caller)
            if reading.counted:
                self._admission.leave(reading)
        return await self._refuse(context, method, reading.refusal)

    def _end(self, caller: Any) -> None:
        self._reading[caller] -= 1
        if not self._reading[caller]:
            del self._reading[caller]
        if not self._admission.is_half_full:
            self._turns.begin(caller)

    def _count_later(self, reading: _Reading, seconds: float) -> None:
        """Count a request once it has been coming for so long."""
        heapq.heappush(self._due, (reading.began + seconds, next(self._numbers), reading))
        if self._timer is None:
            self._timer = self._loop.call_later(FIRST_WAIT, self._count_due)

    def _count_due(self) -> None:
        self._timer = None
        self._received, now = _received_bytes(), self._loop.time()
        while self._due and self._due[0][0] <= now:
            reading = heapq.heappop(self._due)[2]
            if reading.task is None:
                continue
            seconds = now - reading.began
            if seconds > self._limits.patience:
                reading.refusal = self._late
            else:
                # As much again may come until it counts anew.
                share = 2 * (self._received - reading.before) // self._reading.total()
                size = COPIES * min(self._limits.message_bytes, share)
                if reading.counted:
                    reading.refusal = self._admission.resize(reading, size)
                else:
                    reading.refusal = self._admission.enter(reading, reading.caller, size)
                    reading.counted = reading.refusal is None
            if reading.refusal is None:
                self._count_later(reading, 2 * seconds)
            else:
                reading.task.cancel()
        if self._due and self._timer is None:
            self._timer = self._loop.call_later(FIRST_WAIT, self._count_due)


def _received_bytes() -> int:
    """Return how many bytes this machine has received from anywhere, by proc_net_dev(5), or as many as it may have."""
    try:
        lines = _INTERFACES.read_bytes().splitlines()[2:]
    except OSError:
        return int(time.monotonic() * BYTES_PER_SECOND)
    return sum(int(line.split(b":")[1].split()[0]) for line in lines)
