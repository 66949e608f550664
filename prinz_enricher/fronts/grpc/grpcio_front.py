"""The front on grpc.aio: every RPC, health and reflection on one port, by an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.config import ConnectionSettings, ServerSettings
from prinz_enricher.errors import Code, InternalError, MessageTooLarge, Overloaded, ShuttingDown
from prinz_enricher.fronts.grpc.admission import SMALL, Admission, FrontLimits, limits_of, max_connections
from prinz_enricher.fronts.grpc.authentication import (
    FrontSecurity,
    Verdict,
    certificate_of,
    gone,
    note_begin,
)
from prinz_enricher.fronts.grpc.call_batcher import CallBatcher
from prinz_enricher.fronts.grpc.counted_handlers import FLIGHT, HEALTH, SERVICE, CountingServer, served_methods
from prinz_enricher.fronts.grpc.flight import FlightExchange
from prinz_enricher.fronts.grpc.grpcio_security import CALLER, ModelHealth, TokenCheck, server_credentials
from prinz_enricher.fronts.grpc.receiving import COPIES, Receiver
from prinz_enricher.fronts.grpc.reflection import add_reflection
from prinz_enricher.fronts.grpc.score_stream import ScoreStream
from prinz_enricher.fronts.grpc.turns import Turns
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.calls import Call, CallHandler, CallLog, CallRecord, FrontError, Source, SourceOpener
from prinz_enricher.service.status import internal_failure, to_status, with_trace_id
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Metadata, Tracing

log = structlog.stdlib.get_logger(__name__)

LINGER = 0.5
"""Seconds that new calls still hear SHUTTING_DOWN, once those in flight have ended."""

MAX_WAITING = 256
"""Calls that wait for their hand-over: as many as a group has."""

STREAM_SECONDS = 0.002
"""Seconds from the begin of a stream to that of the next, by turns of callers: each takes a part of a millisecond."""

MAX_PENDING = 10_000

_T = TypeVar("_T")
_Answer: TypeAlias = bytes | status_pb2.Status


def _is_of_service(record: logging.LogRecord) -> bool:
    """Return whether grpc logs a fault of the service, not a caller who left while its answer was sent."""
    return not record.getMessage().startswith("ExecuteBatchError")


class GrpcioFront:
    """Serves gRPC by `grpc.aio` at `host:port`, and there and at the address `flight` Arrow Flight, if there is one.

    Behind the Rust front it serves all but the service's unary calls, by what `make_server` makes of the interceptors,
    which listens by itself; and it has the admission of that front.
    """

    def __init__(
        self,
        address: str,
        limits: FrontLimits,
        security: FrontSecurity = FrontSecurity(),  # noqa: B008
        series: Series | None = None,
        tracing: Tracing | None = None,
        *,
        flight: str | None = None,
        make_server: Callable[[Sequence[grpc.aio.ServerInterceptor]], Any] | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._flight = flight
        self._make_server = make_server
        self._tracing = tracing
        self._series = series or Series()
        self._address = address
        self._limits = limits
        self._security = security
        self._log: CallLog | None = None
        self._admission = admission or Admission(limits)
        self.grow = self._admission.grow
        """Counts bytes more for a call in flight."""
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
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_of_service)
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

    def change(self, settings: ServerSettings, rules: AccessRules, log: CallLog | None) -> None:
        """Go on with other numbers of calls and bytes in flight, other rules and another log."""
        self._admission.change(limits_of(settings))
        self._run(self._change(rules, log))

    def refusals(self) -> dict[str, int]:
        """Return nothing: grpc does not say what its limits have ended."""
        return {}

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
        self._stream_turns = Turns(STREAM_SECONDS)
        self._batcher = CallBatcher(self._handler, max(1, min(MAX_WAITING, self._limits.calls // 4)))
        callers = self._security.callers
        methods = served_methods(self._series, flight=self._flight is not None)
        interceptors = [] if callers is None else [TokenCheck(callers, self._refuse_call, methods)]
        self._server = (self._make_server or self._make_grpc_server)(interceptors)
        self._health = ModelHealth(callers, self._security.rules)
        counting = CountingServer(self._server, methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, counting)
        if self._make_server is None:
            counting.add_generic_rpc_handlers([self._unary_handlers()])
        counting.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE.full_name, self._stream_handlers())]
        )
        if self._flight is not None:
            service, method = FLIGHT.strip("/").split("/")
            exchange: Any = grpc.stream_stream_rpc_method_handler(partial(self._bidi_stream, FlightExchange, method))
            counting.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: exchange})])
        add_reflection(counting, [SERVICE.full_name, HEALTH.full_name])
        port = 0
        if self._make_server is None:
            port = self._listen(self._address)
            if self._flight is not None:
                note_flight(port if self._flight == self._address else self._listen(self._flight))
        await self._server.start()
        return port

    def _listen(self, address: str) -> int:
        certificates = self._security.certificates
        if certificates is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, server_credentials(certificates)))

    def _make_grpc_server(self, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
        return grpc.aio.server(
            interceptors=interceptors,
            options=[
                ("grpc.max_receive_message_length", self._limits.message_bytes),
                # Answers are measured here, for an error that says what is wrong.
                ("grpc.max_send_message_length", -1),
                # By default grpc refuses some calls with more than 8 KiB at random, and tokens may have as many.
                ("grpc.max_metadata_size", self._limits.connection.header_bytes),
                ("grpc.absolute_max_metadata_size", self._limits.connection.header_bytes),
                # Two services on one port by accident would each get half of the calls.
                ("grpc.so_reuseport", 0),
                # Calls that wait to be accepted; more are dropped as CANCELLED without a message, by default at random
                # from a thousand on. `max_calls` is the limit.
                ("grpc.server.max_pending_requests", max(MAX_PENDING, 2 * self._limits.calls)),
                ("grpc.server.max_pending_requests_hard_limit", max(MAX_PENDING, 2 * self._limits.calls)),
                *_connection_limits(self._limits.connection),
                # Calls may end then, within `age_grace`.
                ("grpc.max_connection_age_ms", min(int(self._limits.connection_seconds * 1000) or _NEVER, _NEVER)),
            ],
        )

    def _unary_handlers(self) -> Receiver:
        return Receiver(
            SERVICE.full_name,
            {method.name: self._unary(method.name) for method in SERVICE.methods if not _is_stream(method)},
            self._admission,
            self._limits,
            self._refuse_call,
            _key_of,
        )

    async def _change(self, rules: AccessRules, log: CallLog | None) -> None:
        self._health.change(rules)
        self._log = log

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

    def _stream_handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in SERVICE.methods:
            if method.client_streaming:
                serve = partial(self._bidi_stream, ScoreStream, method.name)
                handlers[method.name] = grpc.stream_stream_rpc_method_handler(serve)
            elif method.server_streaming:
                # Without serialisers the messages are bytes, as the port wants them.
                handlers[method.name] = grpc.unary_stream_rpc_method_handler(self._server_stream(method.name))
        return handlers

    def _unary(self, method: str) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]:
        async def serve(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            arrived = time.monotonic()
            remaining: float | None = context.time_remaining()
            caller = self._caller(context)
            if isinstance(caller, status_pb2.Status):
                return await self._refuse_call(context, method, caller)
            answer: asyncio.Future[_Answer] = self._loop.create_future()
            refusal = self._admission.enter(answer, caller or _key_of(context), len(request))
            deadline = None if remaining is None else arrived + remaining
            peer = "" if self._log is None else context.peer()
            call = _UnaryCall(method, request, arrived, deadline, self, answer, principal=caller, peer=peer)
            if self._tracing is not None:
                call.trace = self._tracing.begin(_metadata(context))
            # The error of a call that is refused holds these frames until garbage is collected.
            del request
            if refusal is not None:
                call.request = b""
                return await self._refuse_call(context, method, refusal, caller)
            result: _Answer | None = None
            try:
                result = note_begin(self._log, call)
                if result is None:
                    self._batcher.add(call)
                    result = await answer
            finally:
                # A caller that goes away cancels this coroutine, and with it the future that `cancelled` asks.
                answer.cancel()
                if call.end():
                    call.note_failure(result if isinstance(result, status_pb2.Status) else gone(call))
                if isinstance(result, bytes) and len(result) > SMALL:
                    # Once it is read.
                    _when_done(context, lambda: self._leave(answer))
                else:
                    self._leave(answer)
                if call.audit is not None:
                    call.audit.end(None if isinstance(result, bytes) else result or gone(call))
                if call.trace is not None:
                    call.end_trace(None if isinstance(result, bytes) else result or gone(call))
                call.request = b""
            return result if isinstance(result, bytes) else await _abort(context, result)

        return serve

    def _leave(self, answer: asyncio.Future[_Answer]) -> None:
        self._admission.leave(answer)
        self._note_idle()

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
        if self._tracing is not None and (trace := self._tracing.begin(_metadata(context))) is not None:
            # It has no span: refusals come when there is least time.
            status = with_trace_id(status, trace.id)
        if self._log is not None:
            self._log.refuse(method, principal, context.peer(), status)
        return await _abort(context, status)

    def answer(self, call: _UnaryCall, result: _Answer) -> bool:
        """Answer a unary call, from any thread; answers enter the loop together.

        Returns whether the caller gets this response, and not an error, nor has what came before.
        """
        if not call.end():
            return False
        answer = call.answer
        if isinstance(result, bytes):
            size, limit = len(result), self._limits.message_bytes
            if size > limit:
                result = to_status(MessageTooLarge("answer", size, limit))
            elif size > SMALL:
                result = self._admission.resize(answer, COPIES * size) or result
        responded = isinstance(result, bytes)
        if not isinstance(result, bytes):
            result = call.traced(result)
            call.note_failure(result)
        self._answers.append((answer, result))
        # Read after the answer is there, and reset before answers are read: none stays behind.
        if not self._scheduled:
            self._scheduled = True
            # The loop is closed once the front has drained; the caller has gone by then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._answer_all)
        return responded

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

            source: Source | status_pb2.Status | None = None
            self._streams.add(woken)
            try:
                source = self._open_source(method, request, wake, caller)
                end = source if isinstance(source, status_pb2.Status) else await self._feed(source, woken, context)
            except Exception as error:  # noqa: BLE001 - a fault of this service
                end = internal_failure(log, "stream failed", error, method=method)
            finally:
                # Before the status is sent, which waits for a caller that does not read.
                self._streams.discard(woken)
                if not isinstance(source, status_pb2.Status | None):
                    source.close()
                if record is not None:
                    record.end(end or gone())
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
                # Else it would hold its connection forever, with the certificates and the token of its begin.
                return to_status(ShuttingDown("The stream has reached the maximum age of a connection; open it again."))
            woken.clear()
            item = source.pull()
            if item is None:
                await woken.wait()
            elif isinstance(item, bytes):
                try:
                    # Where a caller leaves as its message is written, `wait_for` of Python 3.11 goes on without it.
                    async with asyncio.timeout(self._limits.patience):
                        await context.write(item)
                except TimeoutError:
                    return to_status(Overloaded(f"the stream was not read for {self._limits.patience:g} seconds"))
            else:
                return item
        return to_status(ShuttingDown())

    async def _bidi_stream(
        self, kind: type[ScoreStream], method: str, _: object, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        caller, record = await self._admit_stream(method, context)
        key = caller or _key_of(context)
        begin = None if self._tracing is None else partial(self._tracing.begin, _metadata(context))
        noted = partial(getattr, self, "_log")
        stream = kind(context, key, self._admission, self._batcher, self._limits, caller, noted, begin)
        self._score_streams.add(stream)
        end: status_pb2.Status | None = gone()
        try:
            end = await stream.serve()
        except Exception as error:  # noqa: BLE001 - a fault of this service
            end = internal_failure(log, "stream failed", error, method=method)
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
            raise InternalError("abort")  # unreachable: abort always raises
        key = caller or _key_of(context)
        refusal = self._admission.enter_stream(key)
        if refusal is not None:
            await self._refuse_call(context, method, refusal, caller)
        _when_done(context, lambda: self._admission.leave_stream(key))
        await self._stream_turns.wait(key)
        if self._log is None:
            return caller, None
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
    _ended: threading.Lock = field(default_factory=threading.Lock)

    def respond(self, message: bytes) -> bool:
        return self.front.answer(self, message)

    def fail(self, status: status_pb2.Status) -> None:
        self.front.answer(self, status)

    def end(self) -> bool:
        """Note that it ends; returns False where it did before."""
        return self._ended.acquire(blocking=False)

    def cancelled(self) -> bool:
        return self.answer.cancelled()

    def hold(self, size: int) -> None:
        self.front.grow(self.answer, size)


def note_flight(port: int) -> None:
    """Log where Arrow Flight is served beside the port of gRPC."""
    log.info("arrow flight listens", port=port)


def _connection_limits(settings: ConnectionSettings) -> list[tuple[str, int]]:
    """Return grpc's options that limit what a connection, and all of them, may take."""
    return [
        ("grpc.max_concurrent_streams", settings.streams),
        # It counts ended calls that are not cleared away yet, and so refuses those of a caller who waits at the
        # limit as it should: of 800 at a time three of four.
        ("grpc.http.overload_protection", 0),
        # What comes before anybody reads it: without this as much as the network carries, of each call.
        ("grpc.http2.bdp_probe", 0),
        # Connections that never begin, or do nothing, hold a file each; a good caller connects again.
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_seconds * 1000)),
        ("grpc.max_connection_idle_ms", int(settings.idle_seconds * 1000) or _NEVER),
        # Over this they are closed at once.
        ("grpc.max_allowed_incoming_connections", max_connections(settings)),
        ("grpc.max_connection_age_grace_ms", int(settings.age_grace * 1000) or _NEVER),
    ]


def _is_stream(method: Any) -> bool:
    return bool(method.client_streaming or method.server_streaming)


def _metadata(context: grpc.aio.ServicerContext[bytes, bytes]) -> Metadata:
    """Return the metadata of a call."""
    found: Any = context.invocation_metadata()
    return found or ()


def _key_of(context: grpc.aio.ServicerContext[bytes, bytes]) -> Hashable:
    """Return what tells a caller without a name from another: the connection."""
    peer = context.peer()
    # Those of a Unix socket have one address.
    return context if peer.startswith("unix:") else peer


def _when_done(context: Any, act: Callable[[], None]) -> None:
    """Act once a call has ended and its answer is read."""
    context.add_done_callback(lambda _: act())


_NEVER = 2**31 - 1
_RETRY_INFO = error_details_pb2.RetryInfo.DESCRIPTOR.full_name
_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], status: status_pb2.Status) -> bytes:
    await context.abort(_CODES[status.code], status.message, trailing_metadata=tuple(error_metadata(status)))
    raise InternalError("abort")  # unreachable: abort always raises


def error_metadata(status: status_pb2.Status) -> list[tuple[str, str | bytes]]:
    """Return the trailers of an error besides its code and message."""
    metadata: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if status.code == Code.RESOURCE_EXHAUSTED:
        for detail in status.details:
            if detail.type_url.endswith(_RETRY_INFO):
                # gRPC's own retries obey it (gRFC A6).
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                metadata.append(("grpc-retry-pushback-ms", str(delay.ToMilliseconds())))
    return metadata
