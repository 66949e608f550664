"""A small gRPC server with the service's methods, which answers as a test tells it to."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature, to_wire

SIGNATURE = Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), (Field("y", Scalar(ScalarKind.DOUBLE)),))

Answer = Callable[[int, pb.ScoreRequest], pb.ScoreResponse | status_pb2.Status | None]
"""What is answered to a call of this number, counted from 0: None for nothing at all."""


def doubled(_number: int, request: pb.ScoreRequest) -> pb.ScoreResponse:
    """Answer with twice the input."""
    response = pb.ScoreResponse()
    response.columns.num_rows = request.columns.num_rows
    values = [2 * value for value in request.columns.columns[0].doubles.values]
    response.columns.columns.add(name="y").doubles.values.extend(values)
    return response


def refusal(code: grpc.StatusCode, reason: str) -> status_pb2.Status:
    """Make an error as the service has it."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="prinz.enricher"))
    return status_pb2.Status(code=code.value[0], message="so it is", details=[detail])


class ScoringServer(enricher_service_pb2_grpc.EnricherServiceServicer):
    """The server; ends with its context.

    Attributes:
        answer: What calls are answered; may be changed at any time.
        ended: Set once the server is to end: an answer that holds a call back waits for it.
    """

    def __init__(self) -> None:
        self.answer: Answer = doubled
        self.ended = threading.Event()
        self._calls = 0
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(16))
        enricher_service_pb2_grpc.add_EnricherServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]  # generated
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.stop(None).wait()

    def GetSignature(self, request: pb.GetSignatureRequest, context: Any) -> pb.GetSignatureResponse:  # noqa: N802
        """Tell the one signature."""
        response = pb.GetSignatureResponse(signature=to_wire(SIGNATURE))
        response.model.name, response.model.version = request.model.name, "1"
        return response

    def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: N802
        """Answer as told."""
        answer = self.answer(self._number(), request)
        if answer is None:
            self.ended.wait()
            return pb.ScoreResponse()
        if isinstance(answer, pb.ScoreResponse):
            return answer
        context.set_trailing_metadata((("grpc-status-details-bin", answer.SerializeToString()),))
        code = next(code for code in grpc.StatusCode if code.value[0] == answer.code)
        context.abort(code, answer.message)
        raise AssertionError

    def ScoreStream(self, requests: Iterator[pb.ScoreStreamRequest], context: Any) -> Iterator[pb.ScoreStreamResponse]:  # noqa: N802
        """Answer each message as told; of those that came together, the last one first."""
        came: queue.Queue[pb.ScoreStreamRequest | None] = queue.Queue()
        threading.Thread(target=_read, args=(requests, came), daemon=True).start()
        while True:
            messages = [came.get()]
            while not came.empty():
                messages.append(came.get())
            for message in reversed(messages):
                if message is None:
                    return
                assert message.timeout.ToNanoseconds() > 0
                answer = self.answer(self._number(), message.request)
                if isinstance(answer, pb.ScoreResponse):
                    yield pb.ScoreStreamResponse(sequence=message.sequence, response=answer)
                elif answer is not None:
                    yield pb.ScoreStreamResponse(sequence=message.sequence, status=answer)

    def _number(self) -> int:
        with self._lock:
            self._calls += 1
            return self._calls - 1


def _read(requests: Iterator[pb.ScoreStreamRequest], came: queue.Queue[pb.ScoreStreamRequest | None]) -> None:
    with contextlib.suppress(Exception):
        for message in requests:
            came.put(message)
    came.put(None)
