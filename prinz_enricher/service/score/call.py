"""`Score` calls that are scored by one job are answered here, and a call by itself is checked and submitted.

The rows of a request may be calls of their own: scored together where the version allows it, else each alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog
from google.rpc import status_pb2

from prinz_enricher import batch as codec
from prinz_enricher.batch.read_bounds import ReadBounds
from prinz_enricher.batch.wire import Views
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import (
    BatchTooLarge,
    Code,
    DeadlineExceeded,
    EnricherError,
    InvalidInput,
    InvalidRequest,
    OutputMismatch,
    SignatureChanged,
    Violation,
)
from prinz_enricher.scoring.ports import Job, ScoreResult, Target, WorkerPool
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.calls import MAX_REQUEST_ID, Call, are_noted
from prinz_enricher.service.score.messages import (
    MAX_INDEPENDENT_ROWS,
    Limits,
    declared_rows,
    read_rows,
    response_metadata,
    write_response,
    write_responses,
)
from prinz_enricher.service.status import internal_failure, to_status
from prinz_enricher.signature import Field
from prinz_enricher.telemetry.request_log import Line, RequestLog
from prinz_enricher.telemetry.tracing import AnyTrace, CallTrace

log = structlog.stdlib.get_logger(__name__)

_OURS = (Code.INTERNAL, Code.FAILED_PRECONDITION)
"""Codes of errors that the operator, or the owner of a model, should see."""

_LARGE_ANSWER = 64 * 1024
"""Bytes of an answer that count before it is written."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """What calls ask, besides their rows; `form` is the field of the requests' input, and `log` gets their errors."""

    target: Target
    params: Mapping[str, object]
    outputs: Sequence[Field]
    form: str
    log: RequestLog | None = None


@dataclass(slots=True, eq=False)
class Answers:
    """Answers calls that ask the same, and are scored by one job: of as many rows each.

    Attributes:
        ids: The `request_id` of each call, in UTF-8.
        rows: Of each call.
        alone: Whether it is one call that came by itself.
        traces: Those of the calls that are in any.
    """

    spec: ScoreSpec
    calls: Sequence[Call]
    ids: Sequence[bytes]
    rows: int
    alone: bool = False
    traces: Sequence[AnyTrace] = ()

    def cancelled(self) -> bool:
        """Return whether all callers have gone."""
        return all(call.cancelled() for call in self.calls)

    def done(self, outcome: ScoreResult | EnricherError) -> None:
        """Answer the calls with the scores of their rows, or with an error."""
        try:
            if isinstance(outcome, EnricherError):
                self._fail(outcome)
                return
            responses = self._responses(outcome)
        except EnricherError as error:
            if isinstance(outcome, ScoreResult) and len(self.calls) > 1:
                # One of the responses can't be written: each call gets its own outcome.
                for place, (call, id) in enumerate(zip(self.calls, self.ids, strict=True)):
                    part = replace(outcome, batch=outcome.batch.slice(place * self.rows, self.rows))
                    Answers(self.spec, [call], [id], self.rows).done(part)
            else:
                self._fail(error)
        except Exception as error:  # noqa: BLE001 - a fault of this service
            fail_all(self.calls, internal_failure(log, "score failed", error, model=self.spec.target.name))
        else:
            first = self.calls[0]
            if are_noted(self.calls):
                for record in [call.audit for call in self.calls if call.audit is not None]:
                    record.queue, record.compute = outcome.queue, outcome.compute
            answered = first.respond_all(self.calls, responses)
            if answered and first.series is not None:
                seconds = time.monotonic() - first.arrived
                trace_id = next((one.id for one in self.traces if isinstance(one, CallTrace)), None)
                rows = answered * self.rows
                first.series.answered(answered, rows, outcome.queue, outcome.compute, seconds, trace_id)

    def _responses(self, scores: ScoreResult) -> list[bytes]:
        spec = self.spec
        target = spec.target
        # Calls of a group came together.
        common = response_metadata(target, scores, time.monotonic() - self.calls[0].arrived)
        wanted = scores.batch
        if wanted.num_rows != self.rows * len(self.calls):
            raise ValueError(f"{wanted.num_rows} rows of answers to {len(self.calls)} calls of {self.rows} rows")
        if len(spec.outputs) != wanted.num_columns or spec.outputs is not target.signature.outputs:
            wanted = wanted.select([field.name for field in spec.outputs])
        if (size := wanted.nbytes // len(self.calls)) > _LARGE_ANSWER:
            # Where there is no room for the answers, they are not written either.
            for call in self.calls:
                call.hold(size)
        try:
            if self.alone:
                return [write_response(wanted, spec.outputs, spec.form, common, self.ids[0])]
            return write_responses(wanted, spec.outputs, spec.form, common, self.ids)
        except InvalidInput as error:
            first = error.violations[0]
            raise OutputMismatch(target.name, target.version, f"{first.field} {first.description}") from None

    def _fail(self, error: EnricherError) -> None:
        target = self.spec.target
        if self.spec.log is not None and error.code in _OURS:
            line: Line = {"model": target.name, "version": target.version, "code": error.code.name}
            line |= {"reason": error.reason, "request_id": self.ids[0].decode(errors="replace")}
            line |= {"trace_id": self.calls[0].trace_id, "correlation_id": error.metadata.get("correlation_id", "")}
            self.spec.log.score_failed(line, len(self.calls))
        fail_all(self.calls, to_status(error))


def traces_of(calls: Sequence[Call], rows: int) -> list[AnyTrace]:
    """Return the traces of calls of so many rows each."""
    traces = [trace for call in calls if (trace := call.trace) is not None]
    for trace in traces:
        trace.rows = rows
    return traces


def fail_all(calls: Sequence[Call], status: status_pb2.Status) -> None:
    """Answer calls with an error."""
    for call in calls:
        call.fail(status)


def score_alone(
    call: Call,
    request: pb.ScoreRequest,
    target: Target,
    pool: WorkerPool,
    limits: Limits,
    quotas: Quotas,
    views: Views | None = None,
    bounds: ReadBounds | None = None,
    log: RequestLog | None = None,
) -> None:
    """Check a request, and submit its rows to the pool; `views` are the values that its message lacks.

    Raises EnricherError where the request is invalid, with all violations of its input, or over the caller's quota:
    that is charged before rows are read if their number is declared, as reading them is work too; and as `bounds` do.
    """
    signature, form = target.signature, request.WhichOneof("input") or ""
    if len(request.request_id) > MAX_REQUEST_ID:
        raise InvalidRequest("request_id", f"is longer than {MAX_REQUEST_ID} characters")
    if request.signature_digest and request.signature_digest != signature.digest:
        raise SignatureChanged(target.name, target.version, signature.digest)
    rows_declared = declared_rows(request, form)
    # No rows cost nothing, and too many are refused for good.
    if 0 < rows_declared <= limits.rows:
        refusal = pool.refusal(target, rows_declared, call.deadline)
        if refusal is not None:
            raise refusal
        if form != "arrow_stream":
            _charge(call, rows_declared, quotas)
    violations: list[Violation] = []
    omitted = 0

    def collect(read: Callable[[], _T]) -> _T | None:
        nonlocal omitted
        try:
            return read()
        except InvalidInput as error:
            violations.extend(error.violations)
            omitted += error.omitted
            return None

    outputs = collect(lambda: codec.select_outputs(signature.outputs, request.outputs))
    params = collect(lambda: codec.decode_params(request.params, signature, bounds))
    rows = collect(lambda: read_rows(request, signature, limits, views or Views(), bounds))
    if outputs is None or params is None or rows is None:
        raise InvalidInput(violations, omitted=omitted)
    if request.independent_rows and rows.num_rows > MAX_INDEPENDENT_ROWS:
        raise BatchTooLarge(rows.num_rows, MAX_INDEPENDENT_ROWS)
    if form == "arrow_stream":
        _charge(call, rows.num_rows, quotas)
    if call.deadline is not None and time.monotonic() >= call.deadline:
        raise DeadlineExceeded("queue")
    # These live until the call is answered; the values of its request need not.
    spec, traces = ScoreSpec(target, params, outputs, form, log), traces_of([call], rows.num_rows)
    answers = Answers(spec, [call], [request.request_id.encode()], rows.num_rows, alone=True, traces=traces)
    job = Job(target, rows, params, call.deadline, answers.done, call.cancelled, traces=traces, lone=call.lone)
    for part in split_rows(job) if request.independent_rows and rows.num_rows > 1 else (job,):
        pool.submit(part)


def _charge(call: Call, rows: int, quotas: Quotas) -> None:
    """Note the rows of a call, and take them from its caller's quota; raises QuotaExceeded."""
    if call.audit is not None:
        call.audit.rows = rows
    refusal = quotas.charge(call.principal, rows)
    if refusal is not None:
        raise refusal


_Rows = npt.NDArray[np.int64]
"""Rows by their places in the whole job."""


def split_rows(job: Job) -> list[Job]:
    """Return the jobs that together are a job whose rows are calls of their own.

    Rows are apart from the start where they would change what the model sees of each other. Where a row fails, the
    whole job does, as it would have if its rows had been scored together.
    """
    outcomes = _Outcomes(job)
    return [_job_of(job, rows, outcomes) for rows in _same_nulls(job.batch)]


def _job_of(job: Job, rows: _Rows, outcomes: _Outcomes) -> Job:
    batch = job.batch if len(rows) == job.batch.num_rows else job.batch.take(pa.array(rows))
    part = replace(job, batch=batch, done=partial(outcomes.done, rows), cancelled=outcomes.unwanted)

    def split_calls() -> list[Job]:
        return [
            replace(part, batch=batch.slice(place, 1), done=partial(outcomes.done, rows[place : place + 1]))
            for place in range(len(rows))
        ]

    return replace(part, calls=len(rows), split_calls=split_calls) if len(rows) > 1 else part


def _same_nulls(batch: pa.RecordBatch) -> Sequence[_Rows]:
    """Return groups of rows that have their nulls in the same columns.

    A column of whole numbers or booleans is another one to a model as soon as one of them is missing; a float that is
    missing is NaN.
    """
    missing = [
        column.is_null().to_numpy(zero_copy_only=False)
        for column in batch.columns
        if 0 < column.null_count < batch.num_rows
        and (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type))
    ]
    if not missing:
        return [np.arange(batch.num_rows)]
    _, pattern = np.unique(np.stack(missing, axis=1), axis=0, return_inverse=True)
    return [np.flatnonzero(pattern.ravel() == one) for one in range(int(pattern.max()) + 1)]


class _Outcomes:
    """Collects the outcome of each row, and answers the job: with all scores, or at once with the first error."""

    def __init__(self, job: Job) -> None:
        self._lock = threading.Lock()
        self._cancelled = job.cancelled
        self._done = job.done
        self._scores: list[tuple[_Rows, ScoreResult]] = []
        self._left = job.batch.num_rows
        self._answered = False

    def unwanted(self) -> bool:
        return self._answered or self._cancelled()

    def done(self, rows: _Rows, outcome: ScoreResult | EnricherError) -> None:
        with self._lock:
            if self._answered:
                return
            if isinstance(outcome, EnricherError):
                self._answered = True
                self._scores = []
            else:
                self._scores.append((rows, outcome))
                self._left -= len(rows)
                self._answered = not self._left
            answered = self._answered
        if answered:
            self._done(outcome if isinstance(outcome, EnricherError) else self._all())

    def _all(self) -> ScoreResult:
        scores = [one for _, one in self._scores]
        if len(scores) == 1:
            return scores[0]
        order = np.argsort(np.concatenate([rows for rows, _ in self._scores]))
        return ScoreResult(
            pa.concat_batches([one.batch for one in scores]).take(pa.array(order)),
            queue=max(one.queue for one in scores),
            # Their share of a model call that had rows of others in it as well.
            compute=sum(one.compute * one.batch.num_rows / max(1, one.batch_rows) for one in scores),
            batch_rows=max(one.batch_rows for one in scores),
        )
