"""What fronts have in common that receive unary calls outside the GIL, many at a time: how they go in, and come out."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import structlog
from google.rpc import status_pb2

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
from prinz_enricher.security.principal import ClientCertificate, Principal
from prinz_enricher.service.calls import Call, CallHandler, CallLog, SourceOpener
from prinz_enricher.service.status import internal_failure, to_status
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Metadata, Tracing

log = structlog.stdlib.get_logger(__name__)

METHODS = tuple(method.name for method in SERVICE.methods if not (method.client_streaming or method.server_streaming))
OK = status_pb2.Status()

MAX_CALLS = 256
"""Calls that are received at once."""

_Batch = TypeVar("_Batch")


class BatchedFront(ABC, Generic[_Batch]):
    """A front whose thread receives unary calls in batches, and whose other methods a `GrpcioFront` serves."""

    streams: GrpcioFront
    """Serves everything but the unary calls of the service."""

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
        self._log: CallLog | None = None
        self._calls: dict[int, BatchedCall] = {}
        # Calls whose tokens were verified are handed over by other threads.
        self._handing_over = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="batched-front", daemon=True)

    def start(self, handler: CallHandler, open_source: SourceOpener, log: CallLog | None = None) -> int:
        """Listen, and hand every call to the handler; returns the port."""
        self._handler = handler
        self._log = log
        port = self._listen(open_source)
        self._methods = {method: self._series.methods[f"/{SERVICE.full_name}/{method}"] for method in METHODS}
        self._thread.start()
        return port

    def set_health(self, services: dict[str, bool]) -> None:
        """Set which services are SERVING (True) or NOT_SERVING (False)."""
        self.streams.set_health(services)

    def change(self, settings: ServerSettings, rules: AccessRules, log: CallLog | None) -> None:
        """Go on with other numbers of calls and bytes in flight, other rules and another log."""
        self._admission.change(limits_of(settings))
        self._log = log
        self.streams.change(settings, rules, log)

    def refusals(self) -> dict[str, int]:
        """Return how many connections, or answers, each limit on them has ended; empty where that is not known."""
        return {}

    def drain(self, grace: float) -> None:
        """Refuse new calls, wait up to `grace` seconds for those in flight, and stop listening."""
        if not self._thread.is_alive():
            return
        until = time.monotonic() + grace
        self._admission.draining = True
        self.streams.refuse()
        self._admission.wait_idle(grace)
        # While it lingers, callers that were just answered still hear SHUTTING_DOWN.
        self.streams.drain(max(0.0, until - time.monotonic()))
        self._close()
        self._thread.join()

    @abstractmethod
    def _listen(self, open_source: SourceOpener) -> int:
        """Listen, serve everything but unary calls, and return the port."""

    @abstractmethod
    def _receive(self) -> _Batch | None:
        """Wait for what comes; None when nothing comes any more."""

    @abstractmethod
    def _take(self, batch: _Batch) -> None:
        """Begin and end the calls of a batch."""

    @abstractmethod
    def _give_up(self, batch: _Batch, status: status_pb2.Status) -> None:
        """Answer the calls of a batch that could not be begun."""

    @abstractmethod
    def _send(self, numbers: Sequence[int], messages: Sequence[bytes]) -> None:
        """Answer calls."""

    @abstractmethod
    def _send_failure(self, number: int, status: status_pb2.Status) -> None:
        """Answer a call with an error."""

    @abstractmethod
    def _close(self) -> None:
        """Stop listening."""

    def is_open(self, number: int) -> bool:
        """Return whether a call is unanswered and its caller has not gone."""
        return number in self._calls

    def _run(self) -> None:
        while (batch := self._receive()) is not None:
            try:
                self._take(batch)
            except Exception as error:  # noqa: BLE001 - without this thread no call would ever be received
                self._give_up(batch, internal_failure(log, "calls failed", error))
            # The next receive may block for long; large requests must not live until then.
            del batch

    def _begin_all(self, arrivals: Iterable[tuple[BatchedCall, Metadata]], ended: Collection[int]) -> None:
        """Hand over the calls that are admitted, and end those whose callers have gone, whenever they came."""
        callers = self._security.callers
        recent = {} if callers is None else callers.recent()
        calls: list[Call] = []
        for call, metadata in arrivals:
            if self._tracing is not None:
                call.trace = self._tracing.begin(metadata)
            if call.number in ended and self._log is None:
                # Of a flood, before more is asked of it.
                self._methods[call.method].end(gone(call).code, 0.0)
                continue
            if callers is not None:
                authorization = authorization_of(metadata)
                principal = recent.get(authorization) or self._authenticate(callers, call, authorization)
                if principal is None:
                    # The call is another thread's by now.
                    continue
                call.principal = principal
            if self._enter(call) and self._begin(call):
                calls.append(call)
        for number in ended:
            self._end(number)
        if calls:
            with self._handing_over:
                self._handler(calls)

    def _count_started(self, methods: Iterable[int]) -> None:
        for method, came in Counter(methods).items():
            self._methods[METHODS[method]].start(came)

    def _authenticate(self, callers: Callers, call: BatchedCall, authorization: str | None) -> Principal | None:
        """Return who calls; None where the call was refused, or goes on when its token is verified."""
        verdict = callers.known(authorization, call.certificate)
        if isinstance(verdict, Principal):
            return verdict
        if verdict is not None:
            self._refuse(call, verdict)
        elif self._enter(call):
            callers.verify(authorization).add_done_callback(partial(self._verified, call))
        return None

    def _verified(self, call: BatchedCall, verified: Future[Verdict]) -> None:
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

    def _enter(self, call: BatchedCall) -> bool:
        """Count a call as open; returns False after answering one that is refused."""
        refusal = call.fault
        if refusal is None:
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

    def _begin(self, call: BatchedCall) -> bool:
        """Note a call that is open, where calls are noted; returns False after answering one that is refused."""
        refusal = note_begin(self._log, call)
        if refusal is not None:
            call.fail(refusal)
        return refusal is None

    def _refuse(self, call: BatchedCall, status: status_pb2.Status) -> None:
        """Answer a call that is not open."""
        self._methods[call.method].end(status.code, time.monotonic() - call.arrived)
        self._send_refusal(call, status)

    def _send_refusal(self, call: BatchedCall, status: status_pb2.Status) -> None:
        status = call.traced(status)
        if self._log is not None:
            self._log.refuse(call.method, call.principal, call.peer, status)
        self._send_failure(call.number, status)

    def respond_all(self, calls: Sequence[Call], messages: Sequence[bytes]) -> int:
        """Answer calls that came together, which are all of this front; returns how many had this answer."""
        numbers, answers = [], []
        for call, message in zip(calls, messages, strict=True):
            if isinstance(call, BatchedCall) and self._may_answer(call.number, message):
                numbers.append(call.number)
                answers.append(message)
        if numbers:
            self._send(numbers, answers)
            self._methods[calls[0].method].end(0, time.monotonic() - calls[0].arrived, len(numbers))
        return len(numbers)

    def respond(self, number: int, message: bytes) -> bool:
        """Answer a call, if it is open; returns whether it was, and the answer is not refused."""
        call = self._calls.get(number)
        if call is None or not self._may_answer(number, message):
            return False
        self._methods[call.method].end(0, time.monotonic() - call.arrived)
        self._send([number], [message])
        return True

    def _may_answer(self, number: int, message: bytes) -> bool:
        """Count a call as answered; returns False after answering one whose answer is refused, or that is not open."""
        if len(message) > self._max_message_bytes:
            self.fail(number, to_status(MessageTooLarge("answer", len(message), self._max_message_bytes)))
            return False
        return self._end(number, OK, counts=False)

    def fail(self, number: int, status: status_pb2.Status) -> None:
        """Answer a call with an error, if it is open."""
        call = self._calls.get(number)
        if call is not None:
            status = call.traced(status)
        if self._end(number, status):
            self._send_failure(number, status)

    def _end(
        self, number: int, status: status_pb2.Status | None = None, *, counts: bool = True, leaves: bool = True
    ) -> bool:
        """Count a call as ended, with this status, or because its caller has gone; returns whether it was open.

        It `counts` here, or with others; and it `leaves` the admission, or does so once its answer is read.
        """
        call = self._calls.pop(number, None)
        if call is None:
            return False
        if leaves:
            self._admission.leave(number)
        status = gone(call) if status is None else status
        if counts:
            self._methods[call.method].end(status.code, time.monotonic() - call.arrived)
        if status is not OK:
            call.note_failure(status)
        if call.audit is not None:
            call.audit.end(None if status is OK else status)
        if call.trace is not None:
            call.end_trace(None if status is OK else status)
        return True


@dataclass(slots=True, eq=False)
class BatchedCall(Call):
    """A unary call.

    Attributes:
        certificate: Of the client, which its connection has.
        fault: Why the request was not received, and so why the call is refused; None where it was.
    """

    front: BatchedFront[Any]
    number: int
    certificate: ClientCertificate | None = field(default=None, kw_only=True)
    fault: status_pb2.Status | None = field(default=None, kw_only=True)

    def respond(self, message: bytes) -> bool:
        """Answer with a message."""
        return self.front.respond(self.number, message)

    def respond_all(self, calls: Sequence[Call], messages: Sequence[bytes]) -> int:
        """Answer calls that came together."""
        return self.front.respond_all(calls, messages)

    def fail(self, status: status_pb2.Status) -> None:
        """Answer with an error."""
        self.front.fail(self.number, status)

    def cancelled(self) -> bool:
        """Return whether the caller has gone."""
        return not self.front.is_open(self.number)

    def hold(self, size: int) -> None:
        """Count so many bytes more."""
        self.front.grow(self.number, size)
