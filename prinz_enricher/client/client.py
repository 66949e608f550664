"""A synchronous client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import grpc
import pyarrow as pa

from prinz_enricher.batch import batch_from_rows, batch_to_rows, decode_columns, encode_columns, encode_stream
from prinz_enricher.client.errors import ServiceError, raise_service_error
from prinz_enricher.client.reference import ModelReference
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2
from prinz_enricher.signature import Signature, from_wire, to_value

Rows: TypeAlias = Sequence[Mapping[str, object]] | Mapping[str, Sequence[object]] | pa.RecordBatch | pa.Table
"""Rows to score: a list of records, columns of values, or Arrow."""

MANY_ROWS = 256
"""Rows from which they travel as an Arrow stream, which is quicker from there on."""

MAX_MESSAGE_BYTES = 2**31 - 1

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores, and which version gave them.

    Attributes:
        name: The registered model's name.
        version: The version that scored.
        batch: The outputs, a row for each row scored.
    """

    name: str
    version: str
    batch: pa.RecordBatch

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the outputs as a list of records."""
        return batch_to_rows(self.batch)


class Client:
    """Discovers, describes and scores models.

    Every method raises `ServiceError` where the service refuses, or is not there. A model is named by text, such as
    `wine`, `wine/3` or `wine@champion`, or by a `ModelReference`.

    Args:
        address: Where the service listens, such as `localhost:50051`.
        timeout: Seconds that one call may take.
    """

    def __init__(self, address: str, *, timeout: float = 60.0) -> None:
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ],
        )
        self._stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._timeout = timeout
        self._signatures: dict[ModelReference, Signature] = {}

    def __enter__(self) -> Self:
        """Use the client in a `with` statement, which closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def list_models(self, filter: str = "", *, full: bool = False) -> Iterator[model_pb2.Model]:
        """Yield the models by name, page by page.

        Args:
            filter: Which models, such as `name LIKE "wine%" AND tags.team = "cellar"`; empty means all.
            full: Whether each version's signature is wanted too.
        """
        view = pb.MODEL_VIEW_FULL if full else pb.MODEL_VIEW_BASIC
        token = ""
        while True:
            request = pb.ListModelsRequest(page_size=1000, page_token=token, filter=filter, view=view)
            page = self._call(self._stub.ListModels, request)
            yield from page.models
            token = page.next_page_token
            if not token:
                return

    def signature(self, model: str | ModelReference) -> tuple[ModelReference, Signature]:
        """Return the version a reference means now, and its signature."""
        reference = _reference(model)
        response = self._call(self._stub.GetSignature, pb.GetSignatureRequest(model=reference.to_message()))
        signature = from_wire(response.signature)
        self._signatures[reference] = signature
        return ModelReference(response.model.name, version=response.model.version), signature

    def score(
        self,
        model: str | ModelReference,
        rows: Rows,
        *,
        params: Mapping[str, object] | None = None,
        outputs: Sequence[str] = (),
        request_id: str = "",
    ) -> Scores:
        """Score rows.

        The signature is asked for once; where the model has another one since, it is asked for again.

        Args:
            model: Which version.
            rows: The rows, by the names of the signature's inputs.
            params: Parameters of the prediction; those left out have their defaults.
            outputs: Names of the outputs wanted; empty means all.
            request_id: The caller's name for the call, found again in the service's log.

        Returns:
            The scores: as many rows as there are in `rows`.

        Raises:
            InvalidInput: Values are of types that can't be sent for this signature.
        """
        reference = _reference(model)
        if reference not in self._signatures:
            self.signature(reference)
        try:
            return self._score(reference, rows, params or {}, outputs, request_id)
        except ServiceError as error:
            if error.reason != "SIGNATURE_CHANGED":
                raise
        self.signature(reference)
        return self._score(reference, rows, params or {}, outputs, request_id)

    def _score(
        self,
        reference: ModelReference,
        rows: Rows,
        params: Mapping[str, object],
        outputs: Sequence[str],
        request_id: str,
    ) -> Scores:
        signature = self._signatures[reference]
        request = pb.ScoreRequest(
            model=reference.to_message(),
            outputs=outputs,
            signature_digest=signature.digest,
            request_id=request_id,
            params={name: to_value(value) for name, value in params.items()},
        )
        batch = _to_batch(rows, signature)
        if isinstance(rows, pa.RecordBatch | pa.Table) or batch.num_rows >= MANY_ROWS:
            request.arrow_stream = encode_stream(batch).to_pybytes()
        else:
            request.columns.CopyFrom(encode_columns(batch, signature.inputs))
        response = self._call(self._stub.Score, request)
        if response.WhichOneof("output") == "arrow_stream":
            scores = pa.ipc.open_stream(response.arrow_stream).read_all().combine_chunks()
            answer = scores.to_batches()[0] if scores.num_rows else pa.RecordBatch.from_pylist([], scores.schema)
        else:
            wanted = tuple(field for field in signature.outputs if not outputs or field.name in outputs)
            answer = decode_columns(response.columns, Signature(inputs=wanted, outputs=()))
        return Scores(response.model.name, response.model.version, answer)

    def _call(self, method: Callable[..., _R], request: object) -> _R:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise_service_error(error)


def _reference(model: str | ModelReference) -> ModelReference:
    return model if isinstance(model, ModelReference) else ModelReference.parse(model)


def _to_batch(rows: Rows, signature: Signature) -> pa.RecordBatch:
    if isinstance(rows, pa.RecordBatch):
        return rows
    if isinstance(rows, pa.Table):
        batches = rows.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], rows.schema)
    return batch_from_rows(rows, signature.inputs)
