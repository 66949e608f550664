"""The front on grpc.aio: every RPC, health and reflection on one port, by an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from prinz_enricher.contract import enricher_service_pb2
from prinz_enricher.errors import InternalError, MessageTooLarge, Overloaded, ShuttingDown
from prinz_enricher.fronts.grpc.admission import Admission, FrontLimits
from prinz_enricher.fronts.grpc.call_batcher import CallBatcher
from prinz_enricher.fronts.grpc.reflection import add_reflection
from prinz_enricher.fronts.grpc.score_stream import ScoreStream
from prinz_enricher.service.calls import Call, CallHandler, FrontError, Source, SourceOpener
from prinz_enricher.service.status import to_status

SERVICE = enricher_service_pb2.DESCRIPTOR.services_by_name["EnricherService"]

LINGER = 0.5
"""Seconds that new calls still hear SHUTTING_DOWN, once those in flight have ended."""

MAX_WAITING = 256
"""Calls that wait for their hand-over: as many as a group has."""

_T = TypeVar("_T")
_Answer: TypeAlias = bytes | status_pb2.Status


class GrpcioFront:
    """Serves gRPC by `grpc.aio` at `host:port`, or at `unix:path` behind the native front."""

    def __init__(self, address: str, limits: FrontLimits) -> None:
        self._address = address
        self._limits = limits
        self._admission = Admission(limits)
        self._answers: deque[tuple[asyncio.Future[_Answer], _Answer]] = deque()
        self._scheduled = False
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

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run_loop(self) -> None:
        self._loop.run_forever()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> int:
        self._batcher = CallBatcher(self._handler, max(1, min(MAX_WAITING, self._limits.calls // 4)))
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._limits.message_bytes),
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
        limit = self._limits.message_bytes

        async def serve(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            arrived = time.monotonic()
            remaining: float | None = context.time_remaining()
            answer: asyncio.Future[_Answer] = self._loop.create_future()
            refusal = self._admission.enter(answer, len(request))
            if refusal is not None:
                return await _abort(context, refusal)
            deadline = None if remaining is None else arrived + remaining
            try:
                self._batcher.add(_UnaryCall(method, request, arrived, deadline, self, answer))
                result = await answer
            finally:
                # A caller that goes away cancels this coroutine, and with it the future that `cancelled` asks.
                answer.cancel()
                self._admission.leave(answer)
                self._note_idle()
            if isinstance(result, bytes) and len(result) > limit:
                result = to_status(MessageTooLarge("answer", len(result), limit))
            return result if isinstance(result, bytes) else await _abort(context, result)

        return serve

    def answer(self, answer: asyncio.Future[_Answer], result: _Answer) -> None:
        """Answer a unary call, from any thread; answers enter the loop together."""
        self._answers.append((answer, result))
        # Read after the answer is there, and reset before answers are read: none stays behind.
        if not self._scheduled:
            self._scheduled = True
            # The loop is closed once the front has drained; the caller has gone by then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._answer_all)

    def _answer_all(self) -> None:
        self._scheduled = False
        # Nobody else removes from it.
        while self._answers:
            answer, result = self._answers.popleft()
            if not answer.done():
                answer.set_result(result)

    def _server_stream(self, method: str) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[None]]:
        async def serve(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await self._admit_stream(context)
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
                    await asyncio.wait_for(context.write(item), self._limits.patience)
                except TimeoutError:
                    return to_status(Overloaded(f"the stream was not read for {self._limits.patience:g} seconds"))
            else:
                return item
        return to_status(ShuttingDown())

    async def _score_stream(self, _: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await self._admit_stream(context)
        stream = ScoreStream(context, self._admission, self._batcher, self._limits)
        self._score_streams.add(stream)
        try:
            end = await stream.serve()
        finally:
            self._score_streams.discard(stream)
            self._note_idle()
        if end is not None:
            await _abort(context, end)

    async def _admit_stream(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        if self._admission.draining:
            await _abort(context, to_status(ShuttingDown()))
        if len(self._streams) + len(self._score_streams) >= self._limits.calls:
            await _abort(context, to_status(Overloaded(f"{self._limits.calls} streams are open")))

    def _note_idle(self) -> None:
        if not (self._admission.in_flight or self._score_streams):
            self._idle.set()


@dataclass(slots=True, eq=False)
class _UnaryCall(Call):
    front: GrpcioFront
    answer: asyncio.Future[_Answer]

    def respond(self, message: bytes) -> None:
        self.front.answer(self.answer, message)

    def fail(self, status: status_pb2.Status) -> None:
        self.front.answer(self.answer, status)

    def cancelled(self) -> bool:
        return self.answer.cancelled()


_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], status: status_pb2.Status) -> bytes:
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, trailing_metadata=metadata)
    raise InternalError("abort")  # unreachable: abort always raises
