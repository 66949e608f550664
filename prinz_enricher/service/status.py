"""Errors as `google.rpc.Status`: the one place where an error gets its form on the wire (AIP-193)."""

from __future__ import annotations

import uuid
from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from prinz_enricher.errors import DOMAIN, EnricherError, InternalError, QuotaExceeded

MAX_STATUS_BYTES = 4_500
"""How large a status may be. It travels base64-encoded in a trailer, beside its message once more, and gRPC's clients
refuse metadata of over 8 KiB in all (`grpc.max_metadata_size`; Netty's `maxInboundMetadataSize`)."""

MAX_TEXT = 400
"""Bytes of a message, or of one value of its metadata; a registry or a caller may send names of any length."""


def to_status(error: EnricherError) -> status_pb2.Status:
    """Return an error with all its details; violations that do not fit are counted in the ErrorInfo as `omitted`."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={key: shorten(value) for key, value in error.metadata.items()}
    )
    details: list[Message] = []
    if error.resource is not None:
        kind, name = error.resource
        details.append(error_details_pb2.ResourceInfo(resource_type=kind, resource_name=shorten(name)))
    if isinstance(error, QuotaExceeded):
        subject = f"principal:{shorten(error.principal)}"
        quota = error_details_pb2.QuotaFailure.Violation(subject=subject, description=error.quota)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    if error.retry_after is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=int(error.code), message=shorten(error.message))
    status.details.extend(_packed(detail) for detail in details)
    if error.violations:
        room = MAX_STATUS_BYTES - status.ByteSize() - info.ByteSize() - 200
        faults, left_out = _bad_request(error, room)
        if left_out:
            info.metadata["omitted"] = str(left_out)
        status.details.append(_packed(faults))
    status.details.insert(0, _packed(info))
    return status


def with_trace_id(status: status_pb2.Status, trace_id: str) -> status_pb2.Status:
    """Return an error whose ErrorInfo has the id of a trace; one without details, which nobody waits for, as it is."""
    if not (status.details and trace_id):
        return status
    traced = status_pb2.Status()
    traced.CopyFrom(status)
    info = error_details_pb2.ErrorInfo.FromString(traced.details[0].value)
    info.metadata["trace_id"] = trace_id
    traced.details[0].value = info.SerializeToString()
    return traced


def reason_of(status: status_pb2.Status) -> str:
    """Return the reason of an error; its code's name for one without, of a call that nobody waits for."""
    if status.details:
        return str(error_details_pb2.ErrorInfo.FromString(status.details[0].value).reason)
    return str(code_pb2.Code.Name(status.code))


def internal_failure(log: Any, event: str, error: Exception, **known: object) -> status_pb2.Status:
    """Log an exception that nobody expected, as `event` with what is `known`; return the status for the caller.

    The correlation id in both leads from the answer to the log.
    """
    correlation_id = uuid.uuid4().hex
    log.error(event, exc_info=error, correlation_id=correlation_id, **known)
    return to_status(InternalError(correlation_id))


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """Return the text, cut to a number of bytes in UTF-8."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "…"


def _bad_request(error: EnricherError, room: int) -> tuple[error_details_pb2.BadRequest, int]:
    faults = error_details_pb2.BadRequest()
    size = 0
    for violation in error.violations:
        entry = error_details_pb2.BadRequest.FieldViolation(
            field=shorten(violation.field, 200), description=shorten(violation.description, 200)
        )
        size += entry.ByteSize() + 4
        if size > room:
            break
        faults.field_violations.append(entry)
    return faults, len(error.violations) - len(faults.field_violations) + error.omitted


def _packed(detail: Message) -> any_pb2.Any:
    # As `Any.Pack` does, which takes several times as long: refusals come when there is least time.
    return any_pb2.Any(type_url=f"type.googleapis.com/{detail.DESCRIPTOR.full_name}", value=detail.SerializeToString())
