"""Errors of calls as an exception."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.errors import InvalidInput, Violation

DETAILS = "grpc-status-details-bin"
"""The trailer that holds a serialised google.rpc.Status."""

_ONE_ROWS: Final = frozenset({"INVALID_INPUT", "BATCH_TOO_LARGE", "MODEL_ERROR", "OUTPUT_MISMATCH"})
"""Reasons for refusing several rows that may be the fault of one of them."""


@dataclass(eq=False, repr=False)
class ServiceError(Exception):
    """A call failed.

    Attributes:
        code: The gRPC status code.
        reason: The service's reason, such as `INVALID_INPUT`; empty where the service was not reached.
        message: One sentence for a person.
        metadata: Every variable part of the message.
        violations: What is wrong with the request, by field.
        retry_after: Seconds after which to retry; None where the service named none.

    Examples:
        >>> with Client("localhost:50051") as client:
        ...     try:
        ...         client.score("no-such-model", {"x": 1.0})
        ...     except ServiceError as error:
        ...         print(error.code.name, error.reason, error.metadata["model"])
        NOT_FOUND MODEL_NOT_FOUND no-such-model
    """

    code: grpc.StatusCode
    message: str
    _: KW_ONLY
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None

    def __post_init__(self) -> None:
        self.metadata = dict(self.metadata)
        super().__init__(f"{self.reason or self.code.name}: {self.message}")


def service_error(error: grpc.RpcError) -> ServiceError:
    """Return the error of a failed call, with its details; to be raised from it."""
    # Pairs; the stubs of grpc lack them for synchronous calls.
    trailers: Any = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == DETAILS), b"")
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        # Each kind of detail comes at most once (AIP-193); Unpack ignores the others.
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


def timed_out() -> ServiceError:
    """Return the error of a call without an answer in time."""
    return ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "there was no answer within the timeout")


def client_closed() -> ServiceError:
    """Return the error of a call whose client was closed."""
    return ServiceError(grpc.StatusCode.CANCELLED, "the client was closed")


def is_one_rows_fault(error: Exception) -> bool:
    """Return whether a message may have failed for what one of its callers sent, or for its size."""
    if not isinstance(error, ServiceError):
        # A value without a form on the wire.
        return isinstance(error, InvalidInput)
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Without a reason it is gRPC's: the message is too large.
        return error.reason in {"", "MESSAGE_TOO_LARGE"}
    return error.reason in _ONE_ROWS


def copy_error(error: Exception) -> Exception:
    """Return a copy of an error for one of several callers, each with a traceback of its own."""
    if not isinstance(error, ServiceError):
        return error
    # Its attributes are its arguments.
    copy = ServiceError(**vars(error))
    copy.__cause__ = error.__cause__
    return copy
