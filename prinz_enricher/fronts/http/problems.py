"""Errors in the forms of HTTP: problem+json (RFC 9457), and the short ones that some clients want."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from typing import Final

from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.batch.json_answers import write
from prinz_enricher.errors import Code

HTTP_STATUSES: Final = {
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 409,
    Code.OUT_OF_RANGE: 409,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
"""By gRPC's code, unless the reason has a status of its own."""

REASONS: Final = {"INVALID_INPUT": 422, "BATCH_TOO_LARGE": 413, "DECODED_TOO_LARGE": 413, "MESSAGE_TOO_LARGE": 413}

PROBLEM: Final = "problem"
NUSSKNACKER: Final = "nussknacker"
INVOCATIONS: Final = "invocations"

_FEW: Final = 3
"""Faults that Nussknacker shows an author, in one line."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a request, in the words of the service."""

    status: int
    reason: str
    detail: str
    violations: tuple[tuple[str, str], ...] = ()
    omitted: int = 0
    retry_after: float | None = None
    trace_id: str = ""
    correlation_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def problem_of(status: status_pb2.Status, request_id: str = "") -> Problem:
    """Return an error of the service; the id leads to its log."""
    reason, omitted, retry_after, correlation_id, trace_id = Code(status.code).name, 0, None, request_id, ""
    violations: list[tuple[str, str]] = []
    for detail in status.details:
        kind = detail.type_url.rpartition(".")[2]
        if kind == "ErrorInfo":
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason = info.reason
            omitted = int(info.metadata.get("omitted", 0))
            correlation_id = info.metadata.get("correlation_id", correlation_id)
            trace_id = info.metadata.get("trace_id", "")
        elif kind == "BadRequest":
            found = error_details_pb2.BadRequest.FromString(detail.value).field_violations
            violations = [(one.field, one.description) for one in found]
        elif kind == "RetryInfo":
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.ToMilliseconds() / 1000
    http = REASONS.get(reason) or HTTP_STATUSES[Code(status.code)]
    known = {"correlation_id": correlation_id} if correlation_id else {}
    return Problem(http, reason, status.message, tuple(violations), omitted, retry_after, trace_id, **known)


def write_problem(problem: Problem, form: str) -> tuple[int, bytes, bytes]:
    """Return the status, the headers and the body of an error in the form of a route."""
    status = problem.status
    if form == NUSSKNACKER:
        # It takes 404 for "no answer", and goes on with a null.
        status = 409 if status == 404 else status
        faults = [f"{_name(path)}: {text}" for path, text in problem.violations[:_FEW]]
        more = len(problem.violations) + problem.omitted - len(faults)
        message = "; ".join(faults) + (f"; and {more} more" if more else "") if faults else problem.detail
        content = {"error": problem.reason, "message": message, "correlationId": problem.correlation_id}
        body, media = write(content).encode(errors="replace"), b"application/json"
    else:
        held: dict[str, object] = {
            "type": "about:blank",
            "title": problem.reason.replace("_", " ").capitalize(),
            "status": status,
            "detail": problem.detail,
            "reason": problem.reason,
            "violations": [{"field": path, "description": text} for path, text in problem.violations],
            "correlation_id": problem.correlation_id,
        }
        held |= {"omitted": problem.omitted} if problem.omitted else {}
        held |= {"trace_id": problem.trace_id} if problem.trace_id else {}
        if form == INVOCATIONS:
            # Under the names of MLflow's server, too.
            bad = status in {400, 409, 413, 415, 422}
            held |= {"error_code": "BAD_REQUEST" if bad else problem.reason, "message": problem.detail}
        body, media = write(held).encode(errors="replace"), b"application/problem+json"
    headers = b"Content-Type: " + media + b"\r\nCache-Control: no-store\r\n"
    if problem.retry_after is not None:
        headers += b"Retry-After: %d\r\n" % max(1, math.ceil(problem.retry_after))
    if status == 401:
        headers += b"WWW-Authenticate: Bearer\r\n"
    return status, headers, body


def _name(path: str) -> str:
    """Return the field of an author's node for a path such as `columns["alcohol"][0]`."""
    if path.startswith('columns["') and '"]' in path:
        name, _, rest = path.removeprefix('columns["').partition('"]')
        return name + rest.removeprefix("[0]")
    return path
