"""The front on pygrpc-native, which receives unary calls outside the GIL, many at a time; it has no TLS.

All other methods (streams, health, reflection) are forwarded over a Unix socket to a grpcio front.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from google.rpc import status_pb2
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from prinz_enricher.errors import MessageTooLarge, Overloaded, ShuttingDown
from prinz_enricher.fronts.grpc.admission import UNLIMITED, RequestBytes, too_many_bytes
from prinz_enricher.fronts.grpc.grpcio_front import PATIENCE, SERVICE, GrpcioFront
from prinz_enricher.service.calls import Call, CallHandler, FrontError, SourceOpener
from prinz_enricher.service.status import internal_failure, to_status

if TYPE_CHECKING:
    from pygrpc_native._native import DetailedEvent

log = structlog.stdlib.get_logger(__name__)

METHODS = tuple(method.name for method in SERVICE.methods if not (method.client_streaming or method.server_streaming))

MAX_EVENTS = 256
"""Calls that are received at once."""

MAX_STREAMS = 2**31 - 1
"""Open calls of one connection; `max_calls` is the limit, since its refusal says why."""


class NativeFront:
    """Serves gRPC by `pygrpc_native.NativeGrpcFront`.

    Args:
        address: Where to listen, as `host:port`.
        max_message_bytes: Bytes of a request or an answer.
        max_calls: Unary calls in flight; more are OVERLOADED.
        max_inflight_bytes: Bytes of their requests; more are OVERLOADED.
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
        self._bytes = RequestBytes(max_inflight_bytes)
        self._open: dict[int, int] = {}
        self._idle = threading.Event()
        self._draining = False
        self._thread = threading.Thread(target=self._receive, name="native-front", daemon=True)

    def start(self, handler: CallHandler, open_source: SourceOpener) -> int:
        """Listen, and hand every call to the handler; returns the port."""
        self._handler = handler
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
        self._fallback = GrpcioFront(
            f"unix:{socket}",
            max_message_bytes=self._max_message_bytes,
            max_calls=self._max_calls,
            patience=self._patience,
        )
        try:
            self._fallback.start(handler, open_source)
        except FrontError:
            self._native.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._native.set_fallback(str(socket))
        self._native.start()
        self._thread.start()
        return self._native.bound_port

    def set_health(self, services: dict[str, bool]) -> None:
        """Set which services are SERVING (True) or NOT_SERVING (False)."""
        self._fallback.set_health(services)

    def drain(self, grace: float) -> None:
        """Refuse new calls, wait up to `grace` seconds for those in flight, and stop listening."""
        if not self._thread.is_alive():
            return
        until = time.monotonic() + grace
        # From here on the end of the last call sets `_idle`.
        self._draining = True
        self._fallback.refuse()
        if self._open:
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
        calls: list[Call] = []
        for kind, number, method, request, _, details in events:
            if kind != EVENT_CALL:
                # The caller has gone, or its deadline has passed.
                self._end(number)
            elif request is not None and details is not None and self._admit(number, request):
                remaining = details[2]
                deadline = None if remaining is None else arrived + remaining
                calls.append(_NativeCall(self, number, METHODS[method], request, arrived, deadline))
        if calls:
            self._handler(calls)

    def _admit(self, number: int, request: bytes) -> bool:
        """Count a call as open; returns False after answering one that is refused."""
        refusal, acquired = None, self._bytes.acquire(0)
        if self._draining:
            refusal = to_status(ShuttingDown())
        elif len(request) > self._max_message_bytes:
            refusal = to_status(MessageTooLarge("request", len(request), self._max_message_bytes))
        elif len(self._open) >= self._max_calls:
            refusal = to_status(Overloaded(f"{self._max_calls} calls are in flight"))
        elif (acquired := self._bytes.acquire(len(request))) is None:
            refusal = to_status(too_many_bytes(self._bytes.limit))
        if refusal is not None:
            self._send_failure(number, refusal)
            return False
        self._open[number] = acquired or 0
        return True

    def is_open(self, number: int) -> bool:
        """Return whether a call is unanswered and its caller has not gone."""
        return number in self._open

    def respond(self, number: int, message: bytes) -> None:
        """Answer a call, if it is open."""
        if len(message) > self._max_message_bytes:
            self.fail(number, to_status(MessageTooLarge("answer", len(message), self._max_message_bytes)))
        elif self._end(number):
            self._native.respond(number, message)

    def fail(self, number: int, status: status_pb2.Status) -> None:
        """Answer a call with an error, if it is open."""
        if self._end(number):
            self._send_failure(number, status)

    def _end(self, number: int) -> bool:
        """Count a call as ended; returns whether it was open."""
        acquired = self._open.pop(number, None)
        if acquired is None:
            return False
        self._bytes.release(acquired)
        if self._draining and not self._open:
            self._idle.set()
        return True

    def _send_failure(self, number: int, status: status_pb2.Status) -> None:
        details = [("grpc-status-details-bin", status.SerializeToString())]
        with contextlib.suppress(RuntimeError):
            self._native.fail(number, status.code, status.message, details)


class _NativeCall(Call):
    """A call by its number; methods instead of three closures for each call."""

    __slots__ = ("_front", "_number")

    def __init__(
        self, front: NativeFront, number: int, method: str, request: bytes, arrived: float, deadline: float | None
    ) -> None:
        self._front = front
        self._number = number
        self.method = method
        self.request = request
        self.arrived = arrived
        self.deadline = deadline

    def respond(self, message: bytes) -> None:
        self._front.respond(self._number, message)

    def fail(self, status: status_pb2.Status) -> None:
        self._front.fail(self._number, status)

    def cancelled(self) -> bool:
        return not self._front.is_open(self._number)
