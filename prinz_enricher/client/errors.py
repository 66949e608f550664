"""What the service says when something is wrong, as an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.errors import InvalidInput, Violation

DETAILS = "grpc-status-details-bin"
"""The trailer that holds a serialised google.rpc.Status."""

_ONE_ROWS: Final = frozenset({"INVALID_INPUT", "BATCH_TOO_LARGE", "MODEL_ERROR", "OUTPUT_MISMATCH"})
"""Reasons of a refusal of several rows that may be the fault of one of them."""


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


def service_error(error: grpc.RpcError) -> ServiceError:
    """Read a failed call, with the details that came with it; to be raised from it."""
    # Pairs, which the stubs of grpc do not tell of those of a synchronous call.
    trailers: Any = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == DETAILS), b"")
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        # Each kind of detail comes at most once (AIP-193); Unpack leaves the others alone.
        for wanted in (info, bad_request, retry):
            detail.Unpack(wanted)
    return ServiceError(
        error.code(),
        error.details() or "",
        reason=info.reason,
        metadata=info.metadata,
        violations=tuple(Violation(v.field, v.description) for v in bad_request.field_violations),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


def too_late() -> ServiceError:
    """Make the error of a caller whose time is up before anything came back."""
    return ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "there was no answer within the timeout")


def was_closed() -> ServiceError:
    """Make the error of a caller whose client was closed before anything came back."""
    return ServiceError(grpc.StatusCode.CANCELLED, "the client was closed")


def may_be_one_rows(error: Exception) -> bool:
    """Tell whether a message of several callers may have failed for what one of them sent, or for their number."""
    if not isinstance(error, ServiceError):
        # A value that the wire has no form for.
        return isinstance(error, InvalidInput)
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Without a reason it is gRPC's own: the message is too large.
        return error.reason in {"", "MESSAGE_TOO_LARGE"}
    return error.reason in _ONE_ROWS


def own_copy(error: Exception) -> Exception:
    """Return an error for one of several callers: what each raises gets a traceback of its own."""
    if not isinstance(error, ServiceError):
        return error
    copy = ServiceError(
        error.code,
        error.message,
        reason=error.reason,
        metadata=error.metadata,
        violations=error.violations,
        retry_after=error.retry_after,
    )
    copy.__cause__ = error.__cause__
    return copy
