"""One `Score` call: its request read against the signature, handed to the pool, and its scores written back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from prinz_enricher import batch as codec
from prinz_enricher.batch.wire_views import Views
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import (
    BatchTooLarge,
    DeadlineExceeded,
    EnricherError,
    InternalError,
    InvalidInput,
    InvalidRequest,
    SignatureChanged,
    Violation,
)
from prinz_enricher.scoring import Job, Scores, Target, WorkerPool
from prinz_enricher.service.ports import Call
from prinz_enricher.service.score.apart import independent
from prinz_enricher.service.score.forms import MOST_INDEPENDENT, Limits, read_rows, rows_told, write_rows
from prinz_enricher.service.score.large_response import with_output
from prinz_enricher.service.score.telling import tell, tell_refusal, unwritable
from prinz_enricher.service.status import to_status
from prinz_enricher.signature import Field

log = structlog.stdlib.get_logger(__name__)

MAX_REQUEST_ID = 256
"""Characters of a request_id."""

_T = TypeVar("_T")


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
        told = rows_told(request, self._form)
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
        if request.independent_rows and rows.num_rows > MOST_INDEPENDENT:
            raise BatchTooLarge(rows.num_rows, MOST_INDEPENDENT)
        if self._call.deadline is not None and time.monotonic() >= self._call.deadline:
            raise DeadlineExceeded("queue")
        job = Job(self._target, rows, params, self._call.deadline, self._done, self._call.cancelled)
        for part in independent(job) if request.independent_rows and rows.num_rows > 1 else (job,):
            pool.submit(part)

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
        tell_refusal(self._target, error, self._request.request_id)
        self._call.fail(to_status(error))

    def _response(self, scores: Scores) -> bytes:
        told = tell(self._target, scores, time.monotonic() - self._call.arrived)
        if self._request.request_id:
            told += pb.ScoreResponse(request_id=self._request.request_id).SerializeToString()
        wanted = scores.batch.select([field.name for field in self._outputs])
        try:
            form, parts = write_rows(wanted, self._outputs, self._form)
        except InvalidInput as error:
            raise unwritable(self._target, error) from None
        return with_output(told, form, parts)


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
