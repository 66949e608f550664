"""The front on grpc.aio: every RPC, health and reflection on one port, by an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from prinz_enricher.contract import enricher_service_pb2
from prinz_enricher.errors import InternalError, Overloaded, ShuttingDown
from prinz_enricher.fronts.grpc.admission import UNLIMITED, Admission
from prinz_enricher.fronts.grpc.call_batcher import CallBatcher
from prinz_enricher.fronts.grpc.reflection import add_reflection
from prinz_enricher.fronts.grpc.score_stream import ScoreStream
from prinz_enricher.fronts.grpc.unary_calls import UnaryCalls
from prinz_enricher.service.calls import CallHandler, FrontError, Source, SourceOpener
from prinz_enricher.service.status import to_status

SERVICE = enricher_service_pb2.DESCRIPTOR.services_by_name["EnricherService"]

LINGER = 0.5
"""Seconds that new calls still hear SHUTTING_DOWN, once those in flight have ended."""

MAX_WAITING = 256
"""Calls that wait for their hand-over: as many as a group has."""

PATIENCE = 60.0
"""Seconds after which a stream ends whose caller does not read."""

_T = TypeVar("_T")


class GrpcioFront:
    """Serves gRPC by `grpc.aio`.

    Args:
        address: Where to listen: `host:port`, or `unix:path` behind the native front.
        max_message_bytes: Bytes of a request or an answer.
        max_calls: Unary calls and messages of streams in flight, and streams; more are OVERLOADED.
        max_inflight_bytes: Bytes of the requests of unary calls in flight; more are OVERLOADED.
        patience: Seconds that a message of a stream may wait for its caller to read.
    """

    def __init__(
        self,
        address: str,
        *,
        max_message_bytes: int,
        max_calls: int,
        max_inflight_bytes: int = UNLIMITED,
        patience: float = PATIENCE,
    ) -> None:
        self._address = address
        self._patience = patience
        self._max_message_bytes = max_message_bytes
        self._max_calls = max_calls
        self._admission = Admission(max_calls, max_inflight_bytes)
        self._health_set: dict[str, bool] = {}
        self._streams: set[asyncio.Event] = set()
        self._score_streams: set[ScoreStream] = set()
        self._idle = asyncio.Event()
        self._thread = threading.Thread(target=self._run_loop, name="grpcio-front", daemon=True)

    def start(self, handler: CallHandler, open_source: SourceOpener) -> int:
        """Listen, and hand every call to the handler; returns the port."""
        self._handler = handler
        self._open_source = open_source
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        try:
            return self._run(self._start())
        except RuntimeError as error:
            self._end_loop()
            raise FrontError(
                f"can't listen on {self._address}: the port is in use, or the address is not local"
            ) from error

    def set_health(self, services: dict[str, bool]) -> None:
        """Set which services are SERVING (True) or NOT_SERVING (False). One thread calls it."""
        # The loop serves calls: it gets what has changed, of a thousand models one.
        gone = [name for name in self._health_set if name not in services]
        changed = {name: serving for name, serving in services.items() if self._health_set.get(name) is not serving}
        self._health_set = dict(services)
        if gone or changed:
            self._run(self._set_health(gone, changed))

    def refuse(self) -> None:
        """Refuse new calls, and end the streams that owe no answers; calls in flight go on."""
        self._run(self._refuse())

    def drain(self, grace: float) -> None:
        """Refuse new calls, wait up to `grace` seconds for those in flight, and stop listening."""
        if self._thread.is_alive():
            self._run(self._drain(grace))
            self._end_loop()

    def _run(self, work: Awaitable[_T]) -> _T:
        async def run() -> _T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _run_loop(self) -> None:
        self._loop.run_forever()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> int:
        self._batcher = CallBatcher(self._handler, max(1, min(MAX_WAITING, self._max_calls // 4)))
        self._unary_calls = UnaryCalls(self._admission, self._batcher, max_message_bytes=self._max_message_bytes)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                # Answers are measured here, for an error that says what is wrong.
                ("grpc.max_send_message_length", -1),
                # Two services on one port by accident would each get half of the calls.
                ("grpc.so_reuseport", 0),
                # Once about a thousand calls wait to be accepted, grpc drops some at random, as CANCELLED without a
                # message; `max_calls` is the limit.
                ("grpc.server.max_pending_requests", 2**31 - 1),
                ("grpc.server.max_pending_requests_hard_limit", 2**31 - 1),
            ]
        )
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE.full_name, self._method_handlers())]
        )
        add_reflection(self._server, [SERVICE.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name])
        port = self._server.add_insecure_port(self._address)
        await self._server.start()
        return port

    async def _refuse(self) -> None:
        # The server still listens while calls in flight end: its own stop would end new ones as CANCELLED, where
        # SHUTTING_DOWN sends the caller elsewhere.
        self._admission.draining = True
        for woken in self._streams:
            woken.set()
        for stream in self._score_streams:
            stream.refuse()

    async def _drain(self, grace: float) -> None:
        await self._refuse()
        self._idle.clear()
        self._note_idle()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        for stream in self._score_streams:
            stream.end(to_status(ShuttingDown()))
        # Callers that were just answered hear it too, when they send the next call.
        await asyncio.sleep(LINGER)
        await self._server.stop(LINGER)

    async def _set_health(self, gone: list[str], changed: dict[str, bool]) -> None:
        for name in gone:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        for name, serving in changed.items():
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(name, status)

    def _method_handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in SERVICE.methods:
            if method.client_streaming:
                handlers[method.name] = grpc.stream_stream_rpc_method_handler(self._score_stream)
            elif method.server_streaming:
                handlers[method.name] = grpc.unary_stream_rpc_method_handler(self._server_stream(method.name))
            else:
                # Without serialisers the messages are bytes, as the port wants them.
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(self._unary(method.name))
        return handlers

    def _unary(self, method: str) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]:
        async def serve(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            try:
                answer = await self._unary_calls.serve(method, request, context)
            finally:
                self._note_idle()
            return answer if isinstance(answer, bytes) else await _abort(context, answer)

        return serve

    def _server_stream(self, method: str) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[None]]:
        async def serve(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            refusal = self._refusal_of_stream()
            if refusal is not None:
                await _abort(context, refusal)
            woken = asyncio.Event()

            def wake() -> None:
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(woken.set)

            source = self._open_source(method, request, wake)
            if isinstance(source, status_pb2.Status):
                await _abort(context, source)
                return
            self._streams.add(woken)
            try:
                end = await self._feed(source, woken, context)
            finally:
                # Before the status is sent, which waits for a caller that does not read.
                self._streams.discard(woken)
                source.close()
            await _abort(context, end)

        return serve

    async def _feed(
        self, source: Source, woken: asyncio.Event, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> status_pb2.Status:
        """Send the messages of a source as fast as the caller reads; returns the final status."""
        while not self._admission.draining:
            woken.clear()
            item = source.pull()
            if item is None:
                await woken.wait()
            elif isinstance(item, bytes):
                try:
                    await asyncio.wait_for(context.write(item), self._patience)
                except TimeoutError:
                    return to_status(Overloaded(f"the stream was not read for {self._patience:g} seconds"))
            else:
                return item
        return to_status(ShuttingDown())

    async def _score_stream(self, _: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        refusal = self._refusal_of_stream()
        if refusal is not None:
            await _abort(context, refusal)
        stream = ScoreStream(
            context,
            self._admission,
            self._batcher,
            max_message_bytes=self._max_message_bytes,
            patience=self._patience,
        )
        self._score_streams.add(stream)
        try:
            end = await stream.serve()
        finally:
            self._score_streams.discard(stream)
            self._note_idle()
        if end is not None:
            await _abort(context, end)

    def _refusal_of_stream(self) -> status_pb2.Status | None:
        if self._admission.draining:
            return to_status(ShuttingDown())
        if len(self._streams) + len(self._score_streams) >= self._max_calls:
            return to_status(Overloaded(f"{self._max_calls} streams are open"))
        return None

    def _note_idle(self) -> None:
        if not (self._admission.in_flight or self._score_streams):
            self._idle.set()


_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], status: status_pb2.Status) -> bytes:
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, trailing_metadata=metadata)
    raise InternalError("abort")  # unreachable: abort always raises
