"""Errors of calls as an exception."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal

import grpc
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.errors import InvalidInput, Violation

DETAILS = "grpc-status-details-bin"
"""The trailer that holds a serialised google.rpc.Status."""

_ONE_ROWS: Final = frozenset(
    {"INVALID_INPUT", "BATCH_TOO_LARGE", "DECODED_TOO_LARGE", "MODEL_ERROR", "OUTPUT_MISMATCH"}
)
"""Reasons for refusing several rows that may be the fault of one of them."""

GRPC_MESSAGE: Final = "grpc_message"
"""The key in the metadata of an error of the connection that has gRPC's own words."""

Encryption = Literal["plaintext", "TLS", "mutual TLS"]
"""How a client connects; by mutual TLS it has a certificate of its own."""

_CONNECTION_FAULTS: Final = (
    ("WRONG_VERSION_NUMBER", "the server has no TLS at this address: connect without TLS, or to the port that has it"),
    ("certificate has expired", "the server's certificate has expired: the operator must renew it"),
    ("certificate is not yet valid", "the server's certificate is not valid yet: check the clocks of both machines"),
    ("CERTIFICATE_VERIFY_FAILED", "no trusted CA signed the server's certificate: set `ca` to the one that did"),
    (
        "Hostname Verification",
        "the server's certificate has other names than the address: use a name that it has, as address or server name",
    ),
    (
        "security handshaker",
        "TLS can't use the files of the client: they must be undamaged PEM, and the key that of the certificate",
    ),
    ("selected ALPN|http1.x server", "the server at this address does not use HTTP/2: connect to the port of its gRPC"),
)
"""Regular expressions of gRPC's words, the first that is found counts; and what is wrong."""

_REFUSED: Final = re.compile(
    r": Socket closed|: recvmsg:Connection reset|Unwrap failed|ALERT_(\w*CERTIFICATE|HANDSHAKE_FAILURE|UNKNOWN_CA)"
)
"""What gRPC says where the server closes a connection before it answers; TLS 1.3 tells the client nothing more."""
_IF_REFUSED: Final[Mapping[Encryption, str]] = {
    "plaintext": "the server closed the connection at once; it may require TLS: connect with TLS",
    "TLS": "the server closed the connection at once; it may require a client certificate: set `certificate` and `key`",
    "mutual TLS": "the server closed the connection at once; it may refuse the client's certificate: use one "
    "that has not expired, of a CA that the server trusts",
}


@dataclass(eq=False, repr=False)
class ServiceError(Exception):
    """A call failed.

    Attributes:
        code: The gRPC status code.
        reason: The service's reason, such as `INVALID_INPUT`; empty where the service was not reached.
        message: One sentence for a person.
        metadata: Every variable part of the message; `grpc_message` has gRPC's own words about a failed connection.
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


def service_error(error: grpc.RpcError, encryption: Encryption = "plaintext") -> ServiceError:
    """Return the error of a failed call, with its details; to be raised from it."""
    # Pairs; the stubs of grpc lack them for synchronous calls.
    trailers: Any = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == DETAILS), b"")
    text = error.details() or ""
    if not details and (fault := _connection_fault(text, encryption)):
        return ServiceError(error.code(), fault, metadata={GRPC_MESSAGE: text})
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
        text,
        reason=info.reason,
        metadata=info.metadata,
        violations=tuple(Violation(v.field, v.description) for v in bad_request.field_violations),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


def _connection_fault(text: str, encryption: Encryption) -> str | None:
    """Return what is wrong with a connection that could not be made, if gRPC's words tell."""
    if "last error:" not in text:
        # A call that was on its way, or no failure of the connection at all.
        return None
    for pattern, fault in _CONNECTION_FAULTS:
        if re.search(pattern, text):
            return fault
    return _IF_REFUSED[encryption] if _REFUSED.search(text) else None


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
