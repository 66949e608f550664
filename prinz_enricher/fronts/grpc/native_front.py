"""The front on pygrpc-native, which receives unary calls outside the GIL, many at a time; it has no TLS.

All other methods (streams, health, reflection) are forwarded over a Unix socket to a grpcio front.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from google.rpc import status_pb2
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from prinz_enricher.config import ServerSettings
from prinz_enricher.errors import MessageTooLarge
from prinz_enricher.fronts.grpc.admission import Admission, FrontLimits, limits_of
from prinz_enricher.fronts.grpc.authentication import (
    Callers,
    FrontSecurity,
    Verdict,
    authorization_of,
    gone,
    note_begin,
)
from prinz_enricher.fronts.grpc.counted_handlers import SERVICE
from prinz_enricher.fronts.grpc.grpcio_front import GrpcioFront
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.calls import Call, CallHandler, CallLog, FrontError, SourceOpener
from prinz_enricher.service.status import internal_failure, to_status
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pygrpc_native._native import DetailedEvent

log = structlog.stdlib.get_logger(__name__)

METHODS = tuple(method.name for method in SERVICE.methods if not (method.client_streaming or method.server_streaming))

_OK = status_pb2.Status()

MAX_EVENTS = 256
"""Calls that are received at once."""

MAX_STREAMS = 2**31 - 1
"""Open calls of one connection; `max_calls` is the limit, since its refusal says why."""


class NativeFront:
    """Serves gRPC by `pygrpc_native.NativeGrpcFront` at `host:port`."""

    def __init__(
        self,
        address: str,
        limits: FrontLimits,
        security: FrontSecurity = FrontSecurity(),  # noqa: B008
        series: Series | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._series = series or Series()
        self._address = address
        self._limits = limits
        self._security = security
        self._max_message_bytes = limits.message_bytes
        self._admission = Admission(limits)
        self.grow = self._admission.grow
        """Counts bytes more for a call in flight."""
        self.is_open = self._admission.is_open
        """Whether the call of a number is unanswered and its caller has not gone."""
        self._idle = threading.Event()
        self._calls: dict[int, _NativeCall] = {}
        # Calls whose tokens were verified are handed over by other threads.
        self._handing_over = threading.Lock()
        self._thread = threading.Thread(target=self._receive, name="native-front", daemon=True)

    def start(self, handler: CallHandler, open_source: SourceOpener, log: CallLog | None = None) -> int:
        """Listen, and hand every call to the handler; returns the port."""
        self._handler = handler
        self._log = log
        try:
            self._native = NativeGrpcFront(
                self._address,
                [(f"/{SERVICE.full_name}/{method}", False) for method in METHODS],
                call_details=True,
                max_concurrent_streams=MAX_STREAMS,
                reuse_port=False,
            )
        except OSError as error:
            raise FrontError(f"can't listen on {self._address}: {error}") from error
        # For this user alone: whoever can reach the socket can call the service.
        self._folder = Path(tempfile.mkdtemp(prefix="prinz-front-"))
        socket = self._folder / "grpcio.sock"
        limits = replace(self._limits, connection_seconds=0.0)
        self._fallback = GrpcioFront(f"unix:{socket}", limits, self._security, self._series, self._tracing)
        try:
            self._fallback.start(handler, open_source, log)
        except FrontError:
            self._native.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._methods = {method: self._series.methods[f"/{SERVICE.full_name}/{method}"] for method in METHODS}
        self._native.set_fallback(str(socket))
        self._native.start()
        self._thread.start()
        return self._native.bound_port

    def set_health(self, services: dict[str, bool]) -> None:
        """Set which services are SERVING (True) or NOT_SERVING (False)."""
        self._fallback.set_health(services)

    def change(self, settings: ServerSettings, rules: AccessRules, log: CallLog | None) -> None:
        """Go on with other numbers of calls and bytes in flight, other rules and another log."""
        self._admission.change(limits_of(settings))
        self._log = log
        self._fallback.change(settings, rules, log)

    def drain(self, grace: float) -> None:
        """Refuse new calls, wait up to `grace` seconds for those in flight, and stop listening."""
        if not self._thread.is_alive():
            return
        until = time.monotonic() + grace
        # From here on the end of the last call sets `_idle`.
        self._admission.draining = True
        self._fallback.refuse()
        if self._admission.in_flight:
            self._idle.wait(grace)
        # While the fallback lingers, callers that were just answered still hear SHUTTING_DOWN.
        self._fallback.drain(max(0.0, until - time.monotonic()))
        self._native.close()
        self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _receive(self) -> None:
        while (events := self._native.recv_batch_details(MAX_EVENTS)) is not None:
            try:
                self._hand_over(events)
            except Exception as error:  # noqa: BLE001 - without this thread no call would ever be received
                status = internal_failure(log, "calls failed", error, calls=len(events))
                for event in events:
                    self.fail(event[1], status)
            # The next receive may block for long; large requests must not live until then.
            del events

    def _hand_over(self, events: Sequence[DetailedEvent]) -> None:
        arrived = time.monotonic()
        for method, came in Counter([event[2] for event in events if event[0] == EVENT_CALL]).items():
            self._methods[METHODS[method]].start(came)
        callers = self._security.callers
        recent = {} if callers is None else callers.recent()
        calls: list[Call] = []
        # Their callers have gone, or their deadlines have passed: of a flood, before they are looked at.
        ended = {event[1] for event in events if event[0] != EVENT_CALL}
        for kind, number, method, request, _, details in events:
            if kind != EVENT_CALL:
                self._end(number)
            elif request is not None and details is not None:
                metadata, peer, remaining = details
                deadline = None if remaining is None else arrived + remaining
                call = _NativeCall(METHODS[method], request, arrived, deadline, self, number, peer=peer)
                if self._tracing is not None:
                    call.trace = self._tracing.begin(metadata)
                if number in ended and self._log is None:
                    self._methods[call.method].end(gone(call).code, 0.0)
                    continue
                if callers is not None:
                    authorization = authorization_of(metadata)
                    principal = recent.get(authorization) or self._authenticate(callers, call, authorization)
                    if principal is None:
                        # The call is another thread's by now.
                        continue
                    call.principal = principal
                if self._admit(call):
                    calls.append(call)
        if calls:
            with self._handing_over:
                self._handler(calls)

    def _authenticate(self, callers: Callers, call: _NativeCall, authorization: str | None) -> Principal | None:
        """Return who calls; None where the call was refused, or goes on when its token is verified."""
        verdict = callers.known(authorization)
        if isinstance(verdict, Principal):
            return verdict
        if verdict is not None:
            self._refuse(call, verdict)
        elif self._enter(call):
            callers.verify(authorization).add_done_callback(partial(self._verified, call))
        return None

    def _verified(self, call: _NativeCall, verified: Future[Verdict]) -> None:
        """Go on with a call whose token was verified; by another thread."""
        verdict = verified.result()
        if not isinstance(verdict, Principal):
            if self._end(call.number, verdict):
                self._send_refusal(call, verdict)
            return
        call.principal = verdict
        try:
            if not call.cancelled() and self._begin(call):
                with self._handing_over:
                    self._handler([call])
        except Exception as error:  # noqa: BLE001 - nobody else would answer the call
            call.fail(internal_failure(log, "calls failed", error, calls=1))

    def _admit(self, call: _NativeCall) -> bool:
        """Count a call as open; returns False after answering one that is refused."""
        return self._enter(call) and self._begin(call)

    def _enter(self, call: _NativeCall) -> bool:
        size = len(call.request)
        if size > self._max_message_bytes and not self._admission.draining:
            refusal = to_status(MessageTooLarge("request", size, self._max_message_bytes))
        else:
            refusal = self._admission.enter(call.number, call.principal or call.peer, size)
        if refusal is None:
            self._calls[call.number] = call
        else:
            self._refuse(call, refusal)
        return refusal is None

    def _begin(self, call: _NativeCall) -> bool:
        """Note a call that is open, where calls are noted; returns False after answering one that is refused."""
        refusal = note_begin(self._log, call)
        if refusal is not None:
            call.fail(refusal)
        return refusal is None

    def _refuse(self, call: _NativeCall, status: status_pb2.Status) -> None:
        """Answer a call that is not open."""
        self._methods[call.method].end(status.code, time.monotonic() - call.arrived)
        self._send_refusal(call, status)

    def _send_refusal(self, call: _NativeCall, status: status_pb2.Status) -> None:
        status = call.traced(status)
        if self._log is not None:
            self._log.refuse(call.method, call.principal, call.peer, status)
        self._send_failure(call.number, status)

    def respond_all(self, calls: Sequence[Call], messages: Sequence[bytes]) -> int:
        """Answer calls that came together, which are all of this front; returns how many had this answer."""
        pairs = zip(calls, messages, strict=True)
        answered = sum(
            [self.respond(call.number, message, 0) for call, message in pairs if isinstance(call, _NativeCall)]
        )
        if answered:
            self._methods[calls[0].method].end(0, time.monotonic() - calls[0].arrived, answered)
        return answered

    def respond(self, number: int, message: bytes, counts: int = 1) -> bool:
        """Answer a call, if it is open; returns whether it was, and the answer is not too large.

        It `counts` as one, or as none where it is counted with others.
        """
        if len(message) > self._max_message_bytes:
            self.fail(number, to_status(MessageTooLarge("answer", len(message), self._max_message_bytes)))
            return False
        was_open = self._end(number, _OK, counts)
        if was_open:
            self._native.respond(number, message)
        return was_open

    def fail(self, number: int, status: status_pb2.Status) -> None:
        """Answer a call with an error, if it is open."""
        call = self._calls.get(number)
        if call is not None:
            status = call.traced(status)
        if self._end(number, status):
            self._send_failure(number, status)

    def _end(self, number: int, status: status_pb2.Status | None = None, counts: int = 1) -> bool:
        """Count a call as ended, with this status, or because its caller has gone; returns whether it was open."""
        was_open = self._admission.leave(number)
        if was_open:
            call = self._calls.pop(number)
            status = gone(call) if status is None else status
            if counts:
                self._methods[call.method].end(status.code, time.monotonic() - call.arrived)
            if status is not _OK:
                call.note_failure(status)
            if call.audit is not None:
                call.audit.end(None if status is _OK else status)
            if call.trace is not None:
                call.end_trace(None if status is _OK else status)
        if self._admission.draining and not self._admission.in_flight:
            self._idle.set()
        return was_open

    def _send_failure(self, number: int, status: status_pb2.Status) -> None:
        # pygrpc-native lets nobody send `grpc-retry-pushback-ms`; RetryInfo says the same.
        details = [("grpc-status-details-bin", status.SerializeToString())]
        with contextlib.suppress(RuntimeError):
            self._native.fail(number, status.code, status.message, details)


@dataclass(slots=True, eq=False)
class _NativeCall(Call):
    front: NativeFront
    number: int

    def respond(self, message: bytes) -> bool:
        return self.front.respond(self.number, message)

    def respond_all(self, calls: Sequence[Call], messages: Sequence[bytes]) -> int:
        return self.front.respond_all(calls, messages)

    def fail(self, status: status_pb2.Status) -> None:
        self.front.fail(self.number, status)

    def cancelled(self) -> bool:
        return not self.front.is_open(self.number)

    def hold(self, size: int) -> None:
        self.front.grow(self.number, size)
