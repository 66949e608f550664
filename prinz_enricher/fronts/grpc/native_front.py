"""The front on pygrpc-native, which receives unary calls outside the GIL, many at a time; it has no TLS.

All other methods (streams, health, reflection) are forwarded over a Unix socket to a grpcio front.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from google.rpc import status_pb2
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from prinz_enricher.fronts.grpc.batched_front import MAX_CALLS, METHODS, BatchedCall, BatchedFront
from prinz_enricher.fronts.grpc.counted_handlers import SERVICE
from prinz_enricher.fronts.grpc.grpcio_front import GrpcioFront
from prinz_enricher.service.calls import FrontError, SourceOpener

if TYPE_CHECKING:
    from pygrpc_native._native import DetailedEvent

    _Events: TypeAlias = Sequence[DetailedEvent]

MAX_STREAMS = 2**31 - 1
"""Open calls of one connection; `max_calls` is the limit, since its refusal says why."""


class NativeFront(BatchedFront["_Events"]):
    """Serves gRPC by `pygrpc_native.NativeGrpcFront` at `host:port`."""

    def _listen(self, open_source: SourceOpener) -> int:
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
        self.streams = GrpcioFront(f"unix:{socket}", limits, self._security, self._series, self._tracing)
        try:
            self.streams.start(self._handler, open_source, self._log)
        except FrontError:
            self._close()
            raise
        self._native.set_fallback(str(socket))
        self._native.start()
        return self._native.bound_port

    def _close(self) -> None:
        self._native.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _receive(self) -> _Events | None:
        return self._native.recv_batch_details(MAX_CALLS)

    def _take(self, batch: _Events) -> None:
        arrived = time.monotonic()
        self._count_started(event[2] for event in batch if event[0] == EVENT_CALL)
        # Their callers have gone, or their deadlines have passed.
        ended = {event[1] for event in batch if event[0] != EVENT_CALL}
        arrivals = []
        for kind, number, method, request, _, details in batch:
            if kind == EVENT_CALL and request is not None and details is not None:
                metadata, peer, remaining = details
                deadline = None if remaining is None else arrived + remaining
                arrivals.append(
                    (BatchedCall(METHODS[method], request, arrived, deadline, self, number, peer=peer), metadata)
                )
        self._begin_all(arrivals, ended)

    def _give_up(self, batch: _Events, status: status_pb2.Status) -> None:
        for event in batch:
            self.fail(event[1], status)

    def _send(self, numbers: Sequence[int], messages: Sequence[bytes]) -> None:
        for number, message in zip(numbers, messages, strict=True):
            self._native.respond(number, message)

    def _send_failure(self, number: int, status: status_pb2.Status) -> None:
        # pygrpc-native lets nobody send `grpc-retry-pushback-ms`; RetryInfo says the same.
        details = [("grpc-status-details-bin", status.SerializeToString())]
        with contextlib.suppress(RuntimeError):
            self._native.fail(number, status.code, status.message, details)
