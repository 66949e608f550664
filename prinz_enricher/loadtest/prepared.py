"""Calls that are ready to be sent, made before the test so that the test itself encodes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
from google.protobuf import duration_pb2

from prinz_enricher.batch import dense_inputs, encode_columns, encode_dense, encode_stream
from prinz_enricher.batch.caller import caller_batch
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.loadtest.errors import LoadTestError
from prinz_enricher.signature import Signature


class Mode(StrEnum):
    """How rows travel.

    `UNARY`: a call of `Score` for each; `STREAM`: a message of `ScoreStream` for each; `COALESCED`: the asynchronous
    client, which puts calls together that are made while others are on their way; `ARROW`: a call of `Score` with an
    Arrow stream for each.
    """

    UNARY = "unary"
    STREAM = "stream"
    COALESCED = "coalesced"
    ARROW = "arrow"


class Form(StrEnum):
    """The form of the rows in a message."""

    COLUMNS = "columns"
    DENSE = "dense"
    ARROW = "arrow"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call, and what is to come of it.

    Attributes:
        request: A serialised `ScoreRequest`; in the mode COALESCED the rows, as an Arrow stream.
        expected: A serialised `ScoreResponse` of which nothing but the output is set.
    """

    request: bytes
    expected: bytes


def pool_size(rows: int) -> int:
    """Tell how many different calls a pool has for calls of so many rows: enough to tell answers apart, and bounded."""
    return max(2, min(128, 65_536 // rows))


def encode_request(batch: pa.RecordBatch, model: model_pb2.ModelRef, signature: Signature, form: Form) -> bytes:
    """Write rows as a serialised `ScoreRequest`.

    Args:
        batch: With exactly the types of `input_schema`.
        model: Which version.
        signature: Of it.
        form: In which form.

    Raises:
        LoadTestError: The rows can't be told in the form.
    """
    request = pb.ScoreRequest(model=model, signature_digest=signature.digest)
    match form:
        case Form.COLUMNS:
            request.columns.CopyFrom(encode_columns(batch, signature.inputs))
        case Form.ARROW:
            request.arrow_stream = encode_stream(caller_batch(batch)).to_pybytes()
        case Form.DENSE:
            dense = (
                encode_dense(batch) if dense_inputs(signature) and batch.num_columns == len(signature.inputs) else None
            )
            if dense is None:
                raise LoadTestError("the dense form can tell numbers and booleans only; --form columns can tell all")
            request.dense.CopyFrom(dense)
    return request.SerializeToString()


def output_alone(response: pb.ScoreResponse) -> bytes:
    """Serialise the scores of an answer without all else."""
    alone = pb.ScoreResponse()
    match response.WhichOneof("output"):
        case "columns":
            alone.columns.CopyFrom(response.columns)
        case "dense":
            alone.dense.CopyFrom(response.dense)
        case "arrow_stream":
            alone.arrow_stream = response.arrow_stream
    return alone.SerializeToString(deterministic=True)


def stream_message(request: bytes, timeout: float) -> bytes:
    """Write a serialised `ScoreRequest` as a `ScoreStreamRequest` that lacks its sequence, which goes before it."""
    limit = duration_pb2.Duration()
    limit.FromNanoseconds(int(timeout * 1e9))
    return pb.ScoreStreamRequest(request=pb.ScoreRequest.FromString(request), timeout=limit).SerializeToString()


def with_sequence(sequence: int, message: bytes) -> bytes:
    """Put the sequence before what `stream_message` wrote."""
    parts = bytearray(b"\x08")
    while sequence > 0x7F:
        parts.append(sequence & 0x7F | 0x80)
        sequence >>= 7
    parts.append(sequence)
    return bytes(parts) + message
