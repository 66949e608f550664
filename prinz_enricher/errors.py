"""Every error that a caller can see, as one tree.

EnricherError
├── NotFoundError               NOT_FOUND
│   ├── ModelNotFound               MODEL_NOT_FOUND
│   ├── VersionNotFound             VERSION_NOT_FOUND
│   └── AliasNotFound               ALIAS_NOT_FOUND
├── InvalidArgumentError        INVALID_ARGUMENT
│   ├── InvalidInput                INVALID_INPUT
│   ├── InvalidPageToken            INVALID_PAGE_TOKEN
│   ├── InvalidFilter               INVALID_FILTER
│   ├── InvalidRequest              INVALID_REQUEST
│   ├── BatchTooLarge               BATCH_TOO_LARGE
│   └── DecodedTooLarge             DECODED_TOO_LARGE
├── FailedPreconditionError     FAILED_PRECONDITION
│   ├── SignatureChanged            SIGNATURE_CHANGED
│   ├── ModelLoadFailed             MODEL_LOAD_FAILED
│   └── LoaderNotAllowed            LOADER_NOT_ALLOWED
├── ResyncRequired              OUT_OF_RANGE         RESYNC_REQUIRED
├── UnavailableError            UNAVAILABLE
│   ├── ModelLoading                MODEL_LOADING
│   ├── RegistryUnavailable         REGISTRY_UNAVAILABLE
│   ├── UpstreamUnavailable         UPSTREAM_UNAVAILABLE
│   ├── AuditUnavailable            AUDIT_UNAVAILABLE
│   └── ShuttingDown                SHUTTING_DOWN
├── UnauthenticatedError        UNAUTHENTICATED
│   ├── TokenMissing                TOKEN_MISSING
│   └── TokenInvalid                TOKEN_INVALID
├── ModelForbidden              PERMISSION_DENIED    MODEL_FORBIDDEN
├── QuotaExceeded               RESOURCE_EXHAUSTED   QUOTA_EXCEEDED
├── Overloaded                  RESOURCE_EXHAUSTED   OVERLOADED
├── MessageTooLarge             RESOURCE_EXHAUSTED   MESSAGE_TOO_LARGE
├── DeadlineExceeded            DEADLINE_EXCEEDED    DEADLINE_EXCEEDED
├── NotImplementedYet           UNIMPLEMENTED        UNIMPLEMENTED
└── InternalError               INTERNAL             INTERNAL
    ├── ModelError                  MODEL_ERROR
    └── OutputMismatch              OUTPUT_MISMATCH

An error owns its gRPC code, its reason and its details; `service/status.py` alone writes them on the wire. A message
says in one sentence what happened and what the caller can do, and never holds the caller's data or a traceback.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

DOMAIN = "prinz.enricher"

MAX_VIOLATIONS = 100  # How many violations an error lists; the rest is counted.
# Loaders of models that are asked for a span of time, and return a row for each of its steps.
FORECASTERS = ("mlflow.pmdarima", "mlflow.diviner")


class Code(IntEnum):
    """The gRPC status codes in use, by their numbers on the wire."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault of a request: where, such as `columns["alcohol"][17]`, and what is wrong, without a caller's value."""

    field: str
    description: str


class EnricherError(Exception):
    """An error that a caller can see: a sentence, and every variable part of it as metadata.

    It has at most `MAX_VIOLATIONS` faults of the request, and `omitted` more. `resource` is the kind and name of what
    it is about, such as `("model", "wine")`. A retry makes sense after `retry_after` seconds, if at all.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init_subclass__(cls, *, code: Code | None = None, reason: str = "") -> None:
        # What is not given stays with whichever base has it.
        if code is not None:
            cls.code = code
        if reason:
            cls.reason = reason

    def __init__(
        self,
        message: str,
        metadata: Mapping[str, str] | None = None,
        *,
        violations: Iterable[Violation] = (),
        omitted: int = 0,
        resource: tuple[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        every = tuple(violations)
        self.violations = every[:MAX_VIOLATIONS]
        self.omitted = omitted + len(every) - len(self.violations)
        self.resource = resource
        self.retry_after = retry_after


class _OfVersion(EnricherError):
    """An error about one version of a model."""

    def __init__(self, message: str, name: str, version: str, metadata: Mapping[str, str] | None = None) -> None:
        every = {"model": name, "version": version, **(metadata or {})}
        EnricherError.__init__(self, message, every, resource=("model version", f"{name}/{version}"))


class NotFoundError(EnricherError, code=Code.NOT_FOUND):
    """Something that the request names does not exist."""


class ModelNotFound(NotFoundError, reason="MODEL_NOT_FOUND"):
    """The registry has no such model, or it is not served."""

    def __init__(self, name: str) -> None:
        text = f'There is no model "{name}"; ListModels tells which there are.'
        super().__init__(text, {"model": name}, resource=("model", name))


class VersionNotFound(_OfVersion, NotFoundError, reason="VERSION_NOT_FOUND"):
    """The model has no such version, or none that can be scored."""

    def __init__(self, name: str, version: str) -> None:
        which = f'version "{version}"' if version else "version that is ready and not archived"
        super().__init__(f'Model "{name}" has no {which}; ListModels tells which there are.', name, version)


class AliasNotFound(NotFoundError, reason="ALIAS_NOT_FOUND"):
    """The model has no such alias."""

    def __init__(self, name: str, alias: str) -> None:
        text = f'Model "{name}" has no alias "{alias}"; ListModels tells which there are.'
        super().__init__(text, {"model": name, "alias": alias}, resource=("model alias", f"{name}@{alias}"))


class InvalidArgumentError(EnricherError, code=Code.INVALID_ARGUMENT):
    """The request is wrong, whatever the state of the service; a retry makes no sense."""


class InvalidInput(InvalidArgumentError, reason="INVALID_INPUT"):
    """Rows, parameters or wanted outputs do not fit the signature; all faults are listed."""

    def __init__(self, violations: Sequence[Violation], *, omitted: int = 0) -> None:
        total = len(violations) + omitted
        first = f"{violations[0].field}: {violations[0].description}" if violations else "unknown"
        more = "" if total == 1 else f" (and {total - 1} more)"
        text = f"The input does not fit the model's signature: {first}{more}."
        super().__init__(text, {"faults": str(total)}, violations=violations, omitted=omitted)


class _OneField(InvalidArgumentError):
    """A fault of one field of the request."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}.", {"field": field}, violations=[Violation(field, description)])


class InvalidPageToken(_OneField, reason="INVALID_PAGE_TOKEN"):
    """The page token was not returned by this service for this request."""

    def __init__(self, description: str = "is invalid; restart the listing without it") -> None:
        super().__init__("page_token", description)


class InvalidFilter(_OneField, reason="INVALID_FILTER"):
    """The filter can't be read."""

    def __init__(self, description: str) -> None:
        super().__init__("filter", description)


class InvalidRequest(_OneField, reason="INVALID_REQUEST"):
    """A field of the request is missing or out of its range."""


class BatchTooLarge(InvalidArgumentError, reason="BATCH_TOO_LARGE"):
    """The request has more rows than the service accepts at once."""

    def __init__(self, rows: int, limit: int) -> None:
        text = f"The batch has {rows} rows, more than the limit of {limit}; send it in parts."
        violation = Violation("input", f"has more than {limit} rows")
        super().__init__(text, {"rows": str(rows), "limit": str(limit)}, violations=[violation])


class DecodedTooLarge(InvalidArgumentError, reason="DECODED_TOO_LARGE"):
    """The request takes more memory than it may, once it is decompressed and its dictionaries are laid out."""

    def __init__(self, limit: int) -> None:
        text = f"The request takes more than {limit} bytes once it is decoded; send it in parts."
        violation = Violation("input", f"takes more than {limit} bytes once it is decoded")
        super().__init__(text, {"limit": str(limit)}, violations=[violation])


class FailedPreconditionError(_OfVersion, code=Code.FAILED_PRECONDITION):
    """The version is not in a state to answer; someone has to change something first."""


class SignatureChanged(FailedPreconditionError, reason="SIGNATURE_CHANGED"):
    """The caller built its rows for another signature."""

    def __init__(self, name: str, version: str, digest: str) -> None:
        text = f'Version {version} of model "{name}" has another signature than the request was made for; '
        super().__init__(text + "get the signature again.", name, version, {"digest": digest})


class ModelLoadFailed(FailedPreconditionError, reason="MODEL_LOAD_FAILED"):
    """The version can't be read or loaded."""

    def __init__(self, name: str, version: str, why: str) -> None:
        super().__init__(f'Version {version} of model "{name}" can\'t be loaded: {why}', name, version, {"why": why})


class LoaderNotAllowed(FailedPreconditionError, reason="LOADER_NOT_ALLOWED"):
    """The version would be loaded by code that the operator has not allowed."""

    def __init__(self, name: str, version: str, loader: str) -> None:
        why = "; the operator can, by workers.allowed_loaders"
        if loader in FORECASTERS:
            why = ": a forecaster answers with rows of its own; log a python_function that answers each row with one"
        text = f'Version {version} of model "{name}" needs the loader "{loader}", which this service does not allow'
        super().__init__(f"{text}{why}.", name, version, {"loader": loader})


class ResyncRequired(EnricherError, code=Code.OUT_OF_RANGE, reason="RESYNC_REQUIRED"):
    """A watch can't go on from its resume token; what changed since is not known any more."""

    def __init__(self) -> None:
        text = (
            "The watch can't be resumed: its token is too old, of another service, or the access rules have changed; "
        )
        super().__init__(text + "watch again without a token.")


class UnavailableError(EnricherError, code=Code.UNAVAILABLE):
    """The service can't answer now; a retry makes sense."""


class ModelLoading(UnavailableError, reason="MODEL_LOADING"):
    """The version was still being loaded, or loaded again, when the call had to be answered."""

    def __init__(self, name: str, version: str, retry_after: float, why: str = "", step: str = "") -> None:
        state = f"is to be loaded again: {why}" if why else "is still being loaded" + (f" ({step})" if step else "")
        known = {key: value for key, value in (("why", why), ("step", step)) if value}
        text = f'Version {version} of model "{name}" {state}; try again.'
        super().__init__(text, {"model": name, "version": version, **known}, retry_after=retry_after)


class RegistryUnavailable(UnavailableError, reason="REGISTRY_UNAVAILABLE"):
    """The registry can't be read now, and what is asked for is not known from before."""

    def __init__(self, registry: str, why: str, retry_after: float = 5.0) -> None:
        text = f"The model registry at {registry} is not available: {why}"
        super().__init__(text, {"registry": registry, "why": why}, retry_after=retry_after)


class UpstreamUnavailable(UnavailableError, reason="UPSTREAM_UNAVAILABLE"):
    """A model server elsewhere did not answer, or not as agreed."""

    def __init__(self, upstream: str, why: str, retry_after: float = 1.0) -> None:
        text = f"The model server {upstream} did not answer as it should: {why}"
        super().__init__(text, {"upstream": upstream, "why": why}, retry_after=retry_after)


class AuditUnavailable(UnavailableError, reason="AUDIT_UNAVAILABLE"):
    """The audit log can't be written, and no call may go without a line in it (`audit.required`)."""

    def __init__(self) -> None:
        text = "The service's audit log can't be written now, and it answers no call without; try again."
        super().__init__(text, retry_after=1.0)


class ShuttingDown(UnavailableError, reason="SHUTTING_DOWN"):
    """The service accepts no new calls."""

    def __init__(self, text: str = "The service is shutting down; try another instance.") -> None:
        super().__init__(text, retry_after=1.0)


class UnauthenticatedError(EnricherError, code=Code.UNAUTHENTICATED):
    """It is not known who calls; a retry with the same credentials is refused too."""


class TokenMissing(UnauthenticatedError, reason="TOKEN_MISSING"):
    """The call has neither a token nor a client certificate."""

    def __init__(self) -> None:
        super().__init__('The call has no token; send it as metadata "authorization: Bearer <token>".')


class TokenInvalid(UnauthenticatedError, reason="TOKEN_INVALID"):
    """The call's token, or its client certificate, is not accepted; `why` holds nothing of it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"The call's credentials are not accepted: {why}.", {"why": why})


class ModelForbidden(EnricherError, code=Code.PERMISSION_DENIED, reason="MODEL_FORBIDDEN"):
    """The caller may list the model, but not do this with it."""

    def __init__(self, name: str, method: str) -> None:
        text = f'The caller may list model "{name}", but has no right to {method} it; ask the operator for one.'
        super().__init__(text, {"model": name, "method": method}, resource=("model", name))


class QuotaExceeded(EnricherError, code=Code.RESOURCE_EXHAUSTED, reason="QUOTA_EXCEEDED"):
    """The caller uses more than one caller may; `quota` names the setting, such as `rows_per_second`."""

    def __init__(self, principal: str, quota: str, limit: int, retry_after: float) -> None:
        # In whole milliseconds, as `grpc-retry-pushback-ms` has it; never too early.
        retry_after = math.ceil(retry_after * 1000) / 1000
        limited = f"{limit} {quota.replace('_', ' ')}"
        text = f'The caller "{principal}" is over its quota of {limited}; try again in {retry_after} s.'
        super().__init__(text, {"principal": principal, "quota": quota, "limit": str(limit)}, retry_after=retry_after)
        self.principal = principal
        self.quota = quota


class Overloaded(EnricherError, code=Code.RESOURCE_EXHAUSTED, reason="OVERLOADED"):
    """The service has more to do than it can; it refuses at once rather than answer late."""

    def __init__(self, why: str, retry_after: float = 1.0) -> None:
        super().__init__(f"The service is overloaded: {why}; try again.", {"why": why}, retry_after=retry_after)


class MessageTooLarge(EnricherError, code=Code.RESOURCE_EXHAUSTED, reason="MESSAGE_TOO_LARGE"):
    """A request or an answer has more bytes than a message may have; a retry makes no sense."""

    def __init__(self, which: str, size: int, limit: int) -> None:
        text = f"The {which} has {size} bytes, more than the limit of {limit}; ask for less at once."
        super().__init__(text, {"message": which, "bytes": str(size), "limit": str(limit)})


class DeadlineExceeded(EnricherError, code=Code.DEADLINE_EXCEEDED, reason="DEADLINE_EXCEEDED"):
    """The call's deadline passed before its answer was there."""

    def __init__(self, where: str) -> None:
        super().__init__(f"The call's deadline passed (in: {where}).", {"where": where})


class NotImplementedYet(EnricherError, code=Code.UNIMPLEMENTED, reason="UNIMPLEMENTED"):
    """The method is part of the contract, but this version of the service does not have it."""

    def __init__(self, method: str) -> None:
        super().__init__(f"{method} is not served by this version of the service.", {"method": method})


class InternalError(EnricherError):
    """A fault of the service itself; its log has the traceback under the correlation id."""

    def __init__(self, correlation_id: str) -> None:
        text = f"The service failed on this call; its log says why (correlation id {correlation_id})."
        super().__init__(text, {"correlation_id": correlation_id})


class ModelError(_OfVersion, InternalError, reason="MODEL_ERROR"):
    """The model raised an exception, or died."""

    def __init__(self, name: str, version: str, exception: str, correlation_id: str) -> None:
        text = f'Version {version} of model "{name}" failed on this input ({exception}); '
        text += f"the service's log says more (correlation id {correlation_id})."
        super().__init__(text, name, version, {"exception": exception, "correlation_id": correlation_id})


class OutputMismatch(_OfVersion, InternalError, reason="OUTPUT_MISMATCH"):
    """The model's answer is not what its signature declares."""

    def __init__(self, name: str, version: str, why: str) -> None:
        text = f'The answer of version {version} of model "{name}" is not what its signature declares: {why}'
        super().__init__(text, name, version, {"why": why})
