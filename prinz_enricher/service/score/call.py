"""One `Score` call by itself: its request checked against the signature, scored by the pool, its scores written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from prinz_enricher import batch as codec
from prinz_enricher.batch.wire import Views
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import (
    BatchTooLarge,
    DeadlineExceeded,
    EnricherError,
    InvalidInput,
    InvalidRequest,
    SignatureChanged,
    Violation,
)
from prinz_enricher.scoring import Job, Scores, Target, WorkerPool
from prinz_enricher.service.calls import Call
from prinz_enricher.service.score.independent_rows import split_rows
from prinz_enricher.service.score.payload import (
    MAX_INDEPENDENT_ROWS,
    Limits,
    append_output,
    declared_rows,
    read_rows,
    write_rows,
)
from prinz_enricher.service.score.response import log_rejection, output_mismatch, response_metadata
from prinz_enricher.service.status import internal_failure, to_status
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
        target: The version that scores it.
        views: Values of a large request that its message lacks.
    """

    def __init__(self, call: Call, request: pb.ScoreRequest, target: Target, views: Views | None = None) -> None:
        self._call = call
        self._request = request
        self._target = target
        self._views = views
        self._form = request.WhichOneof("input")
        self._outputs: Sequence[Field] = ()

    def submit(self, pool: WorkerPool, limits: Limits) -> None:
        """Check the request, and submit its rows to the pool.

        Raises:
            EnricherError: The request is invalid; all violations of its input are in one error.
        """
        request, signature = self._request, self._target.signature
        if len(request.request_id) > MAX_REQUEST_ID:
            raise InvalidRequest("request_id", f"is longer than {MAX_REQUEST_ID} characters")
        if request.signature_digest and request.signature_digest != signature.digest:
            raise SignatureChanged(self._target.name, self._target.version, signature.digest)
        rows_declared = declared_rows(request, self._form)
        # No rows cost nothing, and too many are refused for good.
        if 0 < rows_declared <= limits.rows:
            refusal = pool.refusal(self._target, rows_declared, self._call.deadline)
            if refusal is not None:
                raise refusal
        violations = _Violations()
        outputs = violations.collect(lambda: codec.select_outputs(signature.outputs, request.outputs))
        params = violations.collect(lambda: codec.decode_params(request.params, signature))
        # This call lives until it is answered; its values need not.
        views, self._views = self._views or Views(), None
        rows = violations.collect(lambda: read_rows(request, signature, limits, views))
        if outputs is None or params is None or rows is None:
            raise violations.error()
        self._outputs = outputs
        if request.independent_rows and rows.num_rows > MAX_INDEPENDENT_ROWS:
            raise BatchTooLarge(rows.num_rows, MAX_INDEPENDENT_ROWS)
        if self._call.deadline is not None and time.monotonic() >= self._call.deadline:
            raise DeadlineExceeded("queue")
        job = Job(self._target, rows, params, self._call.deadline, self._done, self._call.cancelled)
        for part in split_rows(job) if request.independent_rows and rows.num_rows > 1 else (job,):
            pool.submit(part)

    def _done(self, outcome: Scores | EnricherError) -> None:
        try:
            if isinstance(outcome, EnricherError):
                self._fail(outcome)
            else:
                self._call.respond(self._response(outcome))
        except EnricherError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a fault of this service
            self._call.fail(internal_failure(log, "score failed", error, model=self._target.name))

    def _fail(self, error: EnricherError) -> None:
        log_rejection(self._target, error, self._request.request_id)
        self._call.fail(to_status(error))

    def _response(self, scores: Scores) -> bytes:
        response = response_metadata(self._target, scores, time.monotonic() - self._call.arrived)
        if self._request.request_id:
            response += pb.ScoreResponse(request_id=self._request.request_id).SerializeToString()
        wanted = scores.batch.select([field.name for field in self._outputs])
        try:
            form, parts = write_rows(wanted, self._outputs, self._form)
        except InvalidInput as error:
            raise output_mismatch(self._target, error) from None
        return append_output(response, form, parts)


class _Violations:
    """Collects the violations of several parts of a request, so that a caller sees all of them at once."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []
        self._omitted = 0

    def collect(self, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except InvalidInput as error:
            self._violations += error.violations
            self._omitted += error.omitted
            return None

    def error(self) -> InvalidInput:
        return InvalidInput(self._violations, omitted=self._omitted)
