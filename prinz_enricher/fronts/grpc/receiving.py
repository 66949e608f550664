"""How many requests the grpcio front receives at once: gRPC takes in each whole, before anybody knows its size."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.rpc import status_pb2

from prinz_enricher.fronts.grpc.admission import Admission

MAX_UNCOUNTED: Final = 32
"""Requests that are received at once without being counted, at most: small ones are there within microseconds."""

FIRST_WAIT: Final = 0.05
"""Seconds after which a request that is still coming counts, as FIRST_BYTES; whenever it took twice as long, as twice
as many, up to the largest size."""

COPIES: Final = 3
"""What a request takes, by its size, while gRPC puts it together."""

FIRST_BYTES: Final = 2 * 1024 * 1024

_Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
Serve: TypeAlias = Callable[[bytes, _Context], Awaitable[bytes]]
Refuse: TypeAlias = Callable[[_Context, str, status_pb2.Status], Awaitable[bytes]]


class Receiver(grpc.GenericRpcHandler):
    """Finds the handlers of unary calls, and bounds the bytes of the requests that are received at once.

    gRPC's handler of a unary call is quick, but receives the request first, and then says nothing until it has. So only
    a few go that way at once. Any more are read here as if each were a stream of one message, and the longer that
    takes, the larger a request is admitted, or refused before it is in memory.

    Args:
        name: Of the service.
        methods: How each unary method is served.
        admission: Admits calls.
        message_bytes: Bytes of a request at most.
        inflight_bytes: Bytes of all requests in flight at most.
        refuse: Refuses a call.
        caller_of: Returns what tells a caller from another.
    """

    def __init__(
        self,
        name: str,
        methods: Mapping[str, Serve],
        admission: Admission,
        message_bytes: int,
        inflight_bytes: int,
        refuse: Refuse,
        caller_of: Callable[[_Context], Any],
    ) -> None:
        self._admission = admission
        self._message_bytes = message_bytes
        self._most = min(MAX_UNCOUNTED, max(1, inflight_bytes // 8 // message_bytes))
        self._refuse = refuse
        self._caller_of = caller_of
        self._receiving: set[Any] = set()
        self._handlers = {f"/{name}/{method}": self._make_handlers(method, serve) for method, serve in methods.items()}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call, within the task of that call."""
        handlers = self._handlers.get(details.method)
        if handlers is None:
            return None
        if len(self._receiving) >= self._most:
            # Those who left before their request was there are noted by nobody.
            self._receiving = {task for task in self._receiving if not task.done()}
            if len(self._receiving) >= self._most:
                return handlers[1]
        self._receiving.add(asyncio.current_task())
        return handlers[0]

    def _make_handlers(self, method: str, serve: Serve) -> tuple[Any, Any]:
        async def serve_received(request: bytes, context: _Context) -> bytes:
            self._receiving.discard(asyncio.current_task())
            return await serve(request, context)

        async def receive(_: object, context: _Context) -> None:
            reading: Any = asyncio.ensure_future(context.read())
            try:
                refusal = await self._admit(reading, context)
                if refusal is not None:
                    reading.cancel()
                    await self._refuse(context, method, refusal)
                request = await reading
            finally:
                reading.cancel()
                self._admission.leave(reading)
            if request is not grpc.aio.EOF:
                await context.write(await serve(request, context))

        # Without serialisers the messages are bytes, as the port wants them.
        return grpc.unary_unary_rpc_method_handler(serve_received), grpc.stream_stream_rpc_method_handler(receive)

    async def _admit(self, reading: asyncio.Future[bytes], context: _Context) -> status_pb2.Status | None:
        """Wait until a request is there, or refused."""
        wait, size = FIRST_WAIT, min(FIRST_BYTES, COPIES * self._message_bytes)
        refusal = None
        while refusal is None and not (await asyncio.wait({reading}, timeout=wait))[0]:
            if wait == FIRST_WAIT:
                refusal = self._admission.enter(reading, self._caller_of(context), size)
            else:
                size = min(2 * size, COPIES * self._message_bytes)
                refusal = self._admission.resize(reading, size)
            wait *= 2
        return refusal
