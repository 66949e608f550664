"""One `Score` call: its request read against the signature, handed to the pool, and its scores written back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import structlog
from google.protobuf.duration_pb2 import Duration

from prinz_enricher import batch as codec
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import (
    BatchTooLarge,
    DeadlineExceeded,
    EnricherError,
    InternalError,
    InvalidInput,
    InvalidRequest,
    OutputMismatch,
    SignatureChanged,
    Violation,
)
from prinz_enricher.scoring import Job, Scores, Target, WorkerPool
from prinz_enricher.service.front import Call
from prinz_enricher.service.large_response import serialize_with_stream
from prinz_enricher.service.status import to_status
from prinz_enricher.signature import Field, Signature

log = structlog.stdlib.get_logger(__name__)

MAX_REQUEST_ID = 256
"""Characters of a request_id."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may have at most.

    Attributes:
        rows: Rows.
        bytes: Bytes of an Arrow stream once it is decompressed, since a small one can become a very large one.
    """

    rows: int
    bytes: int


class ScoreCall:
    """A call on its way through the service.

    Args:
        call: The raw call.
        request: Its message.
        target: The version it resolved to.
        stream: The Arrow stream of a large request, which its message is without.
    """

    def __init__(self, call: Call, request: pb.ScoreRequest, target: Target, stream: memoryview | None = None) -> None:
        self._call = call
        self._request = request
        self._target = target
        self._stream = stream
        self._form = "arrow_stream" if stream is not None else request.WhichOneof("input")
        self._outputs: Sequence[Field] = ()

    def submit(self, pool: WorkerPool, limits: Limits) -> None:
        """Check the request, and hand its rows to the pool.

        Raises:
            EnricherError: The request is at fault; every fault of its input is told at once.
        """
        request, signature = self._request, self._target.signature
        if len(request.request_id) > MAX_REQUEST_ID:
            raise InvalidRequest("request_id", f"is longer than {MAX_REQUEST_ID} characters")
        if request.signature_digest and request.signature_digest != signature.digest:
            raise SignatureChanged(self._target.name, self._target.version, signature.digest)
        faults = _Faults()
        outputs = faults.collect(lambda: codec.select_outputs(signature.outputs, request.outputs))
        params = faults.collect(lambda: codec.decode_params(request.params, signature))
        stream, self._stream = self._stream, None
        rows = faults.collect(lambda: read_rows(request, signature, limits, stream))
        if outputs is None or params is None or rows is None:
            raise faults.error()
        self._outputs = outputs
        if self._call.deadline is not None and time.monotonic() >= self._call.deadline:
            raise DeadlineExceeded("queue")
        pool.submit(Job(self._target, rows, params, self._call.deadline, self._done, self._call.cancelled))

    def _done(self, outcome: Scores | EnricherError) -> None:
        try:
            if isinstance(outcome, EnricherError):
                self._fail(outcome)
            else:
                self._call.respond(self._response(outcome))
        except EnricherError as error:
            self._fail(error)
        except Exception:
            correlation_id = uuid.uuid4().hex
            log.exception("score failed", model=self._target.name, correlation_id=correlation_id)
            self._call.fail(to_status(InternalError(correlation_id)))

    def _fail(self, error: EnricherError) -> None:
        log.info(
            "score refused",
            model=self._target.name,
            version=self._target.version,
            reason=error.reason,
            request_id=self._request.request_id,
            **{key: value for key, value in error.metadata.items() if key == "correlation_id"},
        )
        self._call.fail(to_status(error))

    def _response(self, scores: Scores) -> bytes:
        response = pb.ScoreResponse(
            model=model_pb2.ModelRef(name=self._target.name, version=self._target.version),
            request_id=self._request.request_id,
            timing=pb.ScoreTiming(
                queue=_duration(scores.queue),
                compute=_duration(scores.compute),
                total=_duration(time.monotonic() - self._call.arrived),
                batch_rows=scores.batch_rows,
            ),
        )
        wanted = scores.batch.select([field.name for field in self._outputs])
        if self._form == "arrow_stream":
            return serialize_with_stream(response, codec.stream_parts(wanted))
        try:
            write_rows(response, wanted, self._outputs, self._form)
        except InvalidInput as error:
            # The writer serves callers too, whose input it is; here it is the model's answer that can't be told.
            first = error.violations[0]
            why = f"{first.field} {first.description}"
            raise OutputMismatch(self._target.name, self._target.version, why) from None
        return response.SerializeToString()


def read_rows(
    request: pb.ScoreRequest, signature: Signature, limits: Limits, stream: memoryview | None = None
) -> pa.RecordBatch:
    """Return the rows of a request, checked against the signature.

    Args:
        request: The message.
        signature: Of the model.
        limits: What there may be at most.
        stream: The Arrow stream where the message is without it.

    Raises:
        InvalidInput: They do not fit it.
        InvalidRequest: There are none, or in a form that this request can't have.
        BatchTooLarge: There are too many.
    """
    form = request.WhichOneof("input")
    if stream is not None:
        return codec.decode_stream(stream, signature, limits.rows, limits.bytes)
    if form == "columns":
        _check_rows(request.columns.num_rows, limits.rows)
        return codec.decode_columns(request.columns, signature)
    if form == "arrow_stream":
        return codec.decode_stream(request.arrow_stream, signature, limits.rows, limits.bytes)
    if form == "dense":
        if not request.signature_digest:
            raise InvalidRequest(
                "signature_digest", "is required with dense rows, since their order is the signature's"
            )
        _check_rows(request.dense.num_rows, limits.rows)
        return codec.decode_dense(request.dense, signature)
    raise InvalidRequest("input", "is required: columns, arrow_stream or dense")


def write_rows(response: pb.ScoreResponse, wanted: pa.RecordBatch, outputs: Sequence[Field], form: str | None) -> None:
    """Put the wanted outputs into a response, in the form of a request in columns or dense rows."""
    if form == "dense":
        dense = codec.encode_dense(wanted)
        if dense is not None:
            response.dense.CopyFrom(dense)
            return
    response.columns.CopyFrom(codec.encode_columns(wanted, outputs))


class _Faults:
    """Gathers the faults of several parts of a request, so that a caller sees them all at once."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []
        self._omitted = 0

    def collect(self, read: Callable[[], _T]) -> _T | None:
        """Return what `read` returns, or None after keeping its faults."""
        try:
            return read()
        except InvalidInput as error:
            self._violations += error.violations
            self._omitted += error.omitted
            return None

    def error(self) -> InvalidInput:
        """Return one error with every fault."""
        return InvalidInput(self._violations, omitted=self._omitted)


def _check_rows(rows: int, limit: int) -> None:
    if rows > limit:
        raise BatchTooLarge(rows, limit)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
