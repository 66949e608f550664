"""A service that does what a test says, on a real port: it holds its answers back, refuses, and notes what comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from prinz_enricher.batch import decode_columns
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import EnricherError, SignatureChanged
from prinz_enricher.service.status import to_status
from prinz_enricher.signature import Field, Param, Scalar, ScalarKind, Signature, to_wire
from tests.support.deadline import wait_until

NUMBER = Scalar(ScalarKind.DOUBLE)
SIGNATURE = Signature(
    (Field("x", NUMBER), Field("note", Scalar(ScalarKind.STRING), required=False)),
    (Field("y", NUMBER),),
    (Param("p", NUMBER, 0.0), Param("when", Scalar(ScalarKind.DATETIME), None)),
)
Refuse = Callable[[pb.ScoreRequest], EnricherError | grpc.StatusCode | None]


@dataclass
class StandIn:
    """Scores `y = 2 x`.

    Attributes:
        port: Where it listens.
        signature: Of its only model, as it is now.
        requests: The scorings that came, in their order.
        metadata: What came with each.
        signatures: How often it was asked for the signature.
        held: Whether answers wait for `go`.
        refuse: Says which scorings are refused, and why.
    """

    port: int = 0
    signature: Signature = SIGNATURE
    requests: list[pb.ScoreRequest] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    signatures: int = 0
    held: bool = False
    refuse: Refuse = lambda _: None
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def go(self, answers: int = 1) -> None:
        """Let answers go that are held back."""
        self._go.release(answers)

    def wait_for(self, requests: int) -> None:
        """Wait until so many scorings have come."""
        wait_until(lambda: len(self.requests) >= requests)

    def rows(self) -> list[int]:
        """Return of each scoring how many rows it had."""
        return [request.columns.num_rows for request in self.requests]

    def get_signature(self, _: pb.GetSignatureRequest, __: grpc.ServicerContext) -> pb.GetSignatureResponse:
        """Answer GetSignature."""
        self.signatures += 1
        return pb.GetSignatureResponse(
            model=model_pb2.ModelRef(name="twice", version="1"), signature=to_wire(self.signature)
        )

    def score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
        """Answer Score."""
        with self._lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
        if self.held:
            assert self._go.acquire(timeout=60)
        refusal = self.refuse(request)
        if request.signature_digest != self.signature.digest:
            refusal = SignatureChanged("twice", "1", self.signature.digest)
        if isinstance(refusal, grpc.StatusCode):
            context.abort(refusal, "so says the test")
        if refusal is not None:
            status = to_status(refusal)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
            context.abort(code, status.message)
        batch = decode_columns(request.columns, self.signature)
        doubled = [2 * x for x in batch.column("x").to_pylist()]
        answer = pb.ScoreResponse(model=model_pb2.ModelRef(name="twice", version="1"), request_id=request.request_id)
        answer.columns.num_rows = batch.num_rows
        answer.columns.columns.add(name="y").doubles.values.extend(doubled)
        return answer


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """The service, with 64 threads."""
    service = StandIn()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "GetSignature": grpc.unary_unary_rpc_method_handler(
            service.get_signature,
            request_deserializer=pb.GetSignatureRequest.FromString,
            response_serializer=pb.GetSignatureResponse.SerializeToString,
        ),
        "Score": grpc.unary_unary_rpc_method_handler(
            service.score,
            request_deserializer=pb.ScoreRequest.FromString,
            response_serializer=pb.ScoreResponse.SerializeToString,
        ),
    }
    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", 64 * 1024)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("prinz.enricher.v1.EnricherService", handlers)]
    )
    service.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield service
    finally:
        service.go(1000)
        server.stop(0).wait(30)
