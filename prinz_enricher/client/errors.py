"""What the service says when something is wrong, as an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.errors import Violation

DETAILS = "grpc-status-details-bin"
"""The trailer that holds a serialised google.rpc.Status."""


class ServiceError(Exception):
    """A call failed.

    Attributes:
        code: The gRPC status code.
        reason: The service's reason, such as `INVALID_INPUT`; empty where the service was not reached.
        message: One sentence for a person.
        metadata: Every variable part of the message.
        violations: Faults of the request.
        retry_after: Seconds after which a retry makes sense; None where the service named none.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after


def raise_service_error(error: grpc.RpcError) -> NoReturn:
    """Raise a failed call as `ServiceError`, with the details that came with it."""
    details = next((entry.value for entry in error.trailing_metadata() or () if entry.key == DETAILS), b"")
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        # Each kind of detail comes at most once (AIP-193); Unpack leaves the others alone.
        for wanted in (info, bad_request, retry):
            detail.Unpack(wanted)
    raise ServiceError(
        error.code(),
        error.details() or "",
        reason=info.reason,
        metadata=info.metadata,
        violations=tuple(Violation(v.field, v.description) for v in bad_request.field_violations),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    ) from error
