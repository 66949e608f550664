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
from prinz_enricher.batch.wire_parts import Part
from prinz_enricher.batch.wire_views import Views
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import (
    BatchTooLarge,
    Code,
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
from prinz_enricher.service.large_response import serialize_with_output
from prinz_enricher.service.status import to_status
from prinz_enricher.signature import Field, Signature

log = structlog.stdlib.get_logger(__name__)

MAX_REQUEST_ID = 256
"""Characters of a request_id."""

_OURS = (Code.INTERNAL, Code.FAILED_PRECONDITION)
"""Codes of errors that the operator, or the owner of a model, should know of."""

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
        views: Values of a large request, which its message is without.
    """

    def __init__(self, call: Call, request: pb.ScoreRequest, target: Target, views: Views | None = None) -> None:
        self._call = call
        self._request = request
        self._target = target
        self._views = views
        self._form = request.WhichOneof("input")
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
        told = _rows_told(request, self._form)
        # No rows cost nothing, and too many are refused for good.
        refusal = pool.refusal(self._target, told, self._call.deadline) if 0 < told <= limits.rows else None
        if refusal is not None:
            raise refusal
        faults = _Faults()
        outputs = faults.collect(lambda: codec.select_outputs(signature.outputs, request.outputs))
        params = faults.collect(lambda: codec.decode_params(request.params, signature))
        # This call lives until it is answered, and its values may be gone before.
        views, self._views = self._views or Views(), None
        rows = faults.collect(lambda: read_rows(request, signature, limits, views))
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
        # What a caller did wrong, or what was too much, is the caller's to know: a line for each would cost more than
        # the refusal, and most where there is least time.
        tell = log.info if error.code in _OURS else log.debug
        tell(
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
        try:
            form, parts = write_rows(wanted, self._outputs, self._form)
        except InvalidInput as error:
            # The writer serves callers too, whose input it is; here it is the model's answer that can't be told.
            first = error.violations[0]
            why = f"{first.field} {first.description}"
            raise OutputMismatch(self._target.name, self._target.version, why) from None
        return serialize_with_output(response, form, parts)


def read_rows(request: pb.ScoreRequest, signature: Signature, limits: Limits, views: Views) -> pa.RecordBatch:
    """Return the rows of a request, checked against the signature.

    Args:
        request: The message.
        signature: Of the model.
        limits: What there may be at most.
        views: The values that the message is without.

    Raises:
        InvalidInput: They do not fit it.
        InvalidRequest: There are none, or in a form that this request can't have.
        BatchTooLarge: There are too many.
    """
    form = request.WhichOneof("input")
    if form == "columns":
        _check_rows(request.columns.num_rows, limits.rows)
        return codec.decode_columns(request.columns, signature, views.columns)
    if form == "arrow_stream":
        stream = request.arrow_stream if views.data is None else views.data
        return codec.decode_stream(stream, signature, limits.rows, limits.bytes)
    if form == "dense":
        if not request.signature_digest:
            raise InvalidRequest(
                "signature_digest", "is required with dense rows, since their order is the signature's"
            )
        _check_rows(request.dense.num_rows, limits.rows)
        return codec.decode_dense(request.dense, signature, views.data)
    raise InvalidRequest("input", "is required: columns, arrow_stream or dense")


def write_rows(wanted: pa.RecordBatch, outputs: Sequence[Field], form: str | None) -> tuple[str, Sequence[Part]]:
    """Write the wanted outputs in the form of a request.

    Args:
        wanted: Of the outputs' types.
        outputs: What its columns are.
        form: The field of the request's input.

    Returns:
        The field of the response's output, and parts that together are it, serialised.

    Raises:
        InvalidInput: A value has no form on the wire.
    """
    if form == "arrow_stream":
        return form, codec.stream_parts(wanted)
    dense = codec.dense_parts(wanted) if form == "dense" else None
    return ("columns", codec.column_parts(wanted, outputs)) if dense is None else ("dense", dense)


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


def _rows_told(request: pb.ScoreRequest, form: str | None) -> int:
    """Return the rows of a request as it tells them; 1 where only its values do."""
    if form == "columns":
        return request.columns.num_rows
    return request.dense.num_rows if form == "dense" else 1


def _check_rows(rows: int, limit: int) -> None:
    if rows > limit:
        raise BatchTooLarge(rows, limit)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
