"""A small gRPC server with the service's methods, which answers as a test tells it to."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import pyarrow as pa
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature, to_wire

SIGNATURE = Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), (Field("y", Scalar(ScalarKind.DOUBLE)),))

Answer = Callable[[int, pb.ScoreRequest], pb.ScoreResponse | status_pb2.Status | None]
"""What is answered to a call of this number, counted from 0: None for nothing at all."""


def doubled(_number: int, request: pb.ScoreRequest) -> pb.ScoreResponse:
    """Answer with twice the input."""
    response = pb.ScoreResponse()
    if request.HasField("arrow_stream"):
        values = pa.ipc.open_stream(request.arrow_stream).read_all().column("x").to_pylist()
    else:
        values = list(request.columns.columns[0].doubles.values)
    response.columns.num_rows = len(values)
    response.columns.columns.add(name="y").doubles.values.extend(2 * value for value in values)
    return response


def refusal(code: grpc.StatusCode, reason: str, retry_after: float | None = None) -> status_pb2.Status:
    """Make an error as the service has it."""
    status = status_pb2.Status(code=code.value[0], message="so it is")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="prinz.enricher"))
    if retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(retry_after * 1000))
        status.details.add().Pack(retry)
    return status


class ScoringServer(enricher_service_pb2_grpc.EnricherServiceServicer):
    """The server; ends with its context.

    Attributes:
        answer: What scorings are answered; may be changed at any time.
        admit: What a call with this `authorization` is refused with.
        trailers: What goes with each refusal.
        ended: Set once the server is to end: an answer that holds a call back waits for it.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.answer: Answer = doubled
        self.admit: Callable[[str | None], status_pb2.Status | None] = lambda _: None
        self.trailers: tuple[tuple[str, str], ...] = ()
        self.ended = threading.Event()
        self._calls = 0
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(16))
        enricher_service_pb2_grpc.add_EnricherServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]  # generated
        where = "127.0.0.1:0"
        secured = self._server.add_secure_port(where, credentials) if credentials else None
        self.port: int = secured or self._server.add_insecure_port(where)
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.stop(None).wait()

    def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """Tell of the one model."""
        self._admit(context)
        return pb.ListModelsResponse(models=[model_pb2.Model(name="double")])

    def GetSignature(self, request: pb.GetSignatureRequest, context: Any) -> pb.GetSignatureResponse:  # noqa: N802
        """Tell the one signature."""
        self._admit(context)
        response = pb.GetSignatureResponse(signature=to_wire(SIGNATURE))
        response.model.name, response.model.version = request.model.name, "1"
        return response

    def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: N802
        """Answer as told."""
        self._admit(context)
        answer = self.answer(self._number(), request)
        if answer is None:
            self.ended.wait()
            return pb.ScoreResponse()
        if isinstance(answer, pb.ScoreResponse):
            return answer
        return self._refuse(context, answer)

    def ScoreStream(self, requests: Iterator[pb.ScoreStreamRequest], context: Any) -> Iterator[pb.ScoreStreamResponse]:  # noqa: N802
        """Answer each message as told; of those that came together, the last one first."""
        self._admit(context)
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

    def _admit(self, context: Any) -> None:
        status = self.admit(dict(context.invocation_metadata()).get("authorization"))
        if status is not None:
            self._refuse(context, status)

    def _refuse(self, context: Any, status: status_pb2.Status) -> NoReturn:
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()), *self.trailers))
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        context.abort(code, status.message)
        raise AssertionError

    def _number(self) -> int:
        with self._lock:
            self._calls += 1
            return self._calls - 1


def _read(requests: Iterator[pb.ScoreStreamRequest], came: queue.Queue[pb.ScoreStreamRequest | None]) -> None:
    with contextlib.suppress(Exception):
        for message in requests:
            came.put(message)
    came.put(None)
