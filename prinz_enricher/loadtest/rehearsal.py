"""What is settled before a test: which version answers, and what it answers to each call of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pyarrow as pa
from google.protobuf.message import DecodeError

from prinz_enricher.batch import decode_columns, encode_stream
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.loadtest.comparison import same_response
from prinz_enricher.loadtest.errors import LoadTestError
from prinz_enricher.loadtest.prepared import Form, Mode, Prepared, encode_request, output_alone
from prinz_enricher.loadtest.reasons import failure_of_call
from prinz_enricher.loadtest.target import GET_SIGNATURE, SCORE, Target
from prinz_enricher.signature import Signature, from_wire

_LOADING_SECONDS: Final = 120.0
"""How long a first call may take: the model may have to be loaded for it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is called.

    Attributes:
        name: The registered model's name.
        version: The version that was meant when the test began; all calls name it.
        signature: Of it.
    """

    name: str
    version: str
    signature: Signature

    @property
    def message(self) -> model_pb2.ModelRef:
        """Its name in the contract's form."""
        return model_pb2.ModelRef(name=self.name, version=self.version)


def find_subject(target: Target, reference: model_pb2.ModelRef) -> Subject:
    """Ask every address which version is meant.

    Raises:
        LoadTestError: One is not there or refuses, or they do not agree.
    """
    found: dict[tuple[str, str], str] = {}
    subject: Subject | None = None
    for address in target.addresses:
        with target.channel(address) as channel:
            method: Any = channel.unary_unary(
                GET_SIGNATURE, pb.GetSignatureRequest.SerializeToString, pb.GetSignatureResponse.FromString
            )
            response = _call(method, pb.GetSignatureRequest(model=reference), target, address)
        signature = from_wire(response.signature)
        subject = Subject(response.model.name, response.model.version, signature)
        found[subject.version, signature.digest] = address
    if len(found) > 1:
        said = ", ".join(f"{address}: version {version}" for (version, _), address in found.items())
        raise LoadTestError(f"the servers do not have the same model ({said})")
    assert subject is not None  # noqa: S101 - there is at least one address
    return subject


def rehearse(
    target: Target, subject: Subject, rows: Sequence[pa.RecordBatch], mode: Mode, form: Form, *, scores: bool
) -> list[Prepared]:
    """Score each call of the pool by itself, so that it is known what is to come of it.

    Args:
        target: The server; its first address answers.
        subject: The model.
        rows: Of each call, with exactly the types of the signature's inputs.
        mode: How the test will call.
        form: The form of its messages.
        scores: Whether scores will be compared: then the model must give the same ones twice.

    Raises:
        LoadTestError: A call is refused, or the model gives the same rows other scores the second time.
    """
    address = target.addresses[0]
    pool = []
    with target.channel(address) as channel:
        method: Any = channel.unary_unary(SCORE)
        for place, batch in enumerate(rows):
            request = encode_request(batch, subject.message, subject.signature, form)
            response = _score(method, request, target, address)
            if place < 2 and scores and not same_response(response, _score(method, request, target, address)):
                raise LoadTestError(
                    "the model gives the same rows other scores the second time, so that answers can't be compared; "
                    "--check rows compares their number alone"
                )
            if mode is Mode.COALESCED:
                outputs = Signature(inputs=subject.signature.outputs, outputs=())
                expected = decode_columns(response.columns, outputs)
                prepared = Prepared(encode_stream(batch).to_pybytes(), encode_stream(expected).to_pybytes())
            else:
                prepared = Prepared(request, output_alone(response))
            pool.append(prepared)
    return pool


def _score(method: Any, request: bytes, target: Target, address: str) -> pb.ScoreResponse:
    try:
        return pb.ScoreResponse.FromString(_call(method, request, target, address))
    except DecodeError:
        raise LoadTestError(f"the server at {address} answers Score with what is no ScoreResponse") from None


def _call(method: Any, request: object, target: Target, address: str) -> Any:
    try:
        return method(request, timeout=max(target.timeout, _LOADING_SECONDS), metadata=target.metadata)
    except grpc.RpcError as error:
        failure = failure_of_call(error)
        hint = ""
        if failure.reason in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
            hint = f"\n  Is the service running at {address}? --address names another one."
        elif failure.reason in {"MODEL_ERROR", "OUTPUT_MISMATCH"}:
            hint = "\n  Rows made from the signature may not suit the model: --input names a file of rows."
        raise LoadTestError(f"{address}: {failure}{hint}") from None
