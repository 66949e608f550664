"""The front on grpc.aio: every RPC, health and reflection on one port, by an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from prinz_enricher.contract import enricher_service_pb2
from prinz_enricher.errors import Code, InternalError, MessageTooLarge, Overloaded, ShuttingDown
from prinz_enricher.fronts.grpc.admission import Admission, FrontLimits
from prinz_enricher.fronts.grpc.call_batcher import CallBatcher
from prinz_enricher.fronts.grpc.callers import (
    FrontSecurity,
    Verdict,
    certificate_of,
    gone,
    note_begin,
)
from prinz_enricher.fronts.grpc.grpcio_security import CALLER, ModelHealth, TokenCheck, server_credentials
from prinz_enricher.fronts.grpc.reflection import add_reflection
from prinz_enricher.fronts.grpc.score_stream import ScoreStream
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.calls import Call, CallHandler, CallLog, CallRecord, FrontError, Source, SourceOpener
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

    def __init__(self, address: str, limits: FrontLimits, security: FrontSecurity = FrontSecurity()) -> None:  # noqa: B008
        self._address = address
        self._limits = limits
        self._security = security
        self._log: CallLog | None = None
        self._admission = Admission(limits)
        self._answers: deque[tuple[asyncio.Future[_Answer], _Answer]] = deque()
        self._scheduled = False
        self._health_set: dict[str, bool] = {}
        self._streams: set[asyncio.Event] = set()
        self._score_streams: set[ScoreStream] = set()
        self._idle = asyncio.Event()
        self._thread = threading.Thread(target=self._run_loop, name="grpcio-front", daemon=True)

    def start(self, handler: CallHandler, open_source: SourceOpener, log: CallLog | None = None) -> int:
        """Listen, and hand every call to the handler; returns the port."""
        self._handler = handler
        self._open_source = open_source
        self._log = log
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
        callers = self._security.callers
        self._server = grpc.aio.server(
            interceptors=[] if callers is None else [TokenCheck(callers, self._refuse_call)],
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
                # Calls may end then, however long they take: there is no limit by default (`max_connection_age_grace`).
                *(
                    [("grpc.max_connection_age_ms", int(age * 1000))]
                    if (age := self._limits.connection_seconds)
                    else []
                ),
            ],
        )
        self._health = (
            ModelHealth(callers, self._security.rules) if self._security.rules.restricted else HealthServicer()
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE.full_name, self._method_handlers())]
        )
        add_reflection(self._server, [SERVICE.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name])
        if self._security.certificates is None:
            port = self._server.add_insecure_port(self._address)
        else:
            port = self._server.add_secure_port(self._address, server_credentials(self._security.certificates))
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
            caller = self._caller(context)
            if isinstance(caller, status_pb2.Status):
                return await self._refuse_call(context, method, caller)
            answer: asyncio.Future[_Answer] = self._loop.create_future()
            refusal = self._admission.enter(answer, len(request))
            if refusal is not None:
                return await self._refuse_call(context, method, refusal, caller)
            deadline = None if remaining is None else arrived + remaining
            peer = "" if self._log is None else context.peer()
            call = _UnaryCall(method, request, arrived, deadline, self, answer, principal=caller, peer=peer)
            result: _Answer | None = None
            try:
                result = note_begin(self._log, call)
                if result is None:
                    self._batcher.add(call)
                    result = await answer
                if isinstance(result, bytes) and len(result) > limit:
                    result = to_status(MessageTooLarge("answer", len(result), limit))
            finally:
                # A caller that goes away cancels this coroutine, and with it the future that `cancelled` asks.
                answer.cancel()
                self._admission.leave(answer)
                self._note_idle()
                if call.audit is not None:
                    call.audit.end(None if isinstance(result, bytes) else result or gone(deadline))
            return result if isinstance(result, bytes) else await _abort(context, result)

        return serve

    def _caller(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> Verdict | None:
        """Return who calls; None where nobody is asked."""
        callers = self._security.callers
        if callers is None:
            return None
        # Whom no token has named, the certificate of the connection does: at once, and so without None.
        return CALLER.get(None) or callers.known(None, certificate_of(context.auth_context()))

    async def _refuse_call(
        self,
        context: grpc.aio.ServicerContext[bytes, bytes],
        method: str,
        status: status_pb2.Status,
        principal: Principal | None = None,
    ) -> bytes:
        if self._log is not None:
            self._log.refuse(method, principal, context.peer(), status)
        return await _abort(context, status)

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
            caller, record = await self._admit_stream(method, context)
            woken, end = asyncio.Event(), None

            def wake() -> None:
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(woken.set)

            source = self._open_source(method, request, wake, caller)
            self._streams.add(woken)
            try:
                end = source if isinstance(source, status_pb2.Status) else await self._feed(source, woken, context)
            finally:
                # Before the status is sent, which waits for a caller that does not read.
                self._streams.discard(woken)
                if not isinstance(source, status_pb2.Status):
                    source.close()
                if record is not None:
                    record.end(end or gone(None))
            await _abort(context, end)

        return serve

    async def _feed(
        self, source: Source, woken: asyncio.Event, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> status_pb2.Status:
        """Send the messages of a source as fast as the caller reads; returns the final status."""
        age = self._limits.connection_seconds
        until = self._loop.time() + age if age else math.inf
        timer = self._loop.call_later(age, woken.set) if age else None
        try:
            return await self._feed_until(until, source, woken, context)
        finally:
            if timer is not None:
                timer.cancel()

    async def _feed_until(
        self, until: float, source: Source, woken: asyncio.Event, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> status_pb2.Status:
        while not self._admission.draining:
            if self._loop.time() >= until:
                # Else it would hold its connection for ever, with the certificates and the token of its begin.
                return to_status(ShuttingDown("The stream has reached the maximum age of a connection; open it again."))
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
        caller, record = await self._admit_stream("ScoreStream", context)
        stream = ScoreStream(context, self._admission, self._batcher, self._limits, caller, self._log)
        self._score_streams.add(stream)
        end: status_pb2.Status | None = gone(None)
        try:
            end = await stream.serve()
        finally:
            self._score_streams.discard(stream)
            self._note_idle()
            if record is not None:
                record.end(end)
        if end is not None:
            await _abort(context, end)

    async def _admit_stream(
        self, method: str, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> tuple[Principal | None, CallRecord | None]:
        """Return who opens a stream, and what notes it; refuses one that is not admitted."""
        caller = self._caller(context)
        if isinstance(caller, status_pb2.Status):
            await self._refuse_call(context, method, caller)
        elif self._admission.draining:
            await self._refuse_call(context, method, to_status(ShuttingDown()), caller)
        elif len(self._streams) + len(self._score_streams) >= self._limits.calls:
            status = to_status(Overloaded(f"{self._limits.calls} streams are open"))
            await self._refuse_call(context, method, status, caller)
        elif self._log is None:
            return caller, None
        else:
            record = self._log.begin(method, caller, context.peer())
            if not isinstance(record, status_pb2.Status):
                return caller, record
            await _abort(context, record)
        raise InternalError("abort")  # unreachable: abort always raises

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


_RETRY_INFO = error_details_pb2.RetryInfo.DESCRIPTOR.full_name
_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], status: status_pb2.Status) -> bytes:
    metadata: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if status.code == Code.RESOURCE_EXHAUSTED:
        for detail in status.details:
            if detail.type_url.endswith(_RETRY_INFO):
                # gRPC's own retries obey it (gRFC A6).
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                metadata.append(("grpc-retry-pushback-ms", str(delay.ToMilliseconds())))
    await context.abort(_CODES[status.code], status.message, trailing_metadata=tuple(metadata))
    raise InternalError("abort")  # unreachable: abort always raises
