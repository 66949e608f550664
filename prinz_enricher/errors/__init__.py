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
│   └── BatchTooLarge               BATCH_TOO_LARGE
├── FailedPreconditionError     FAILED_PRECONDITION
│   ├── SignatureChanged            SIGNATURE_CHANGED
│   ├── ModelLoadFailed             MODEL_LOAD_FAILED
│   └── LoaderNotAllowed            LOADER_NOT_ALLOWED
├── ResyncRequired              OUT_OF_RANGE         RESYNC_REQUIRED
├── UnavailableError            UNAVAILABLE
│   ├── ModelLoading                MODEL_LOADING
│   ├── RegistryUnavailable         REGISTRY_UNAVAILABLE
│   ├── UpstreamUnavailable         UPSTREAM_UNAVAILABLE
│   └── ShuttingDown                SHUTTING_DOWN
├── Overloaded                  RESOURCE_EXHAUSTED   OVERLOADED
├── MessageTooLarge             RESOURCE_EXHAUSTED   MESSAGE_TOO_LARGE
├── DeadlineExceeded            DEADLINE_EXCEEDED    DEADLINE_EXCEEDED
├── NotImplementedYet           UNIMPLEMENTED        UNIMPLEMENTED
└── InternalError               INTERNAL             INTERNAL
    ├── ModelError                  MODEL_ERROR
    └── OutputMismatch              OUTPUT_MISMATCH

An error owns its gRPC code, its reason and its details; `service/status.py` writes them on the wire, and is the only
place that does. A message says in one sentence what happened and what the caller can do, and never holds the caller's
data or a traceback. `metadata` holds every variable part of the message.
"""

from prinz_enricher.errors.base import (
    DOMAIN,
    MAX_VIOLATIONS,
    Code,
    EnricherError,
    Violation,
)
from prinz_enricher.errors.caller import (
    AliasNotFound,
    BatchTooLarge,
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidFilter,
    InvalidInput,
    InvalidPageToken,
    InvalidRequest,
    LoaderNotAllowed,
    MessageTooLarge,
    ModelLoadFailed,
    ModelNotFound,
    NotFoundError,
    ResyncRequired,
    SignatureChanged,
    VersionNotFound,
)
from prinz_enricher.errors.service import (
    DeadlineExceeded,
    InternalError,
    ModelError,
    ModelLoading,
    NotImplementedYet,
    OutputMismatch,
    Overloaded,
    RegistryUnavailable,
    ShuttingDown,
    UnavailableError,
    UpstreamUnavailable,
)

__all__ = [
    "DOMAIN",
    "MAX_VIOLATIONS",
    "AliasNotFound",
    "BatchTooLarge",
    "Code",
    "DeadlineExceeded",
    "EnricherError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidFilter",
    "InvalidInput",
    "InvalidPageToken",
    "InvalidRequest",
    "LoaderNotAllowed",
    "MessageTooLarge",
    "ModelError",
    "ModelLoadFailed",
    "ModelLoading",
    "ModelNotFound",
    "NotFoundError",
    "NotImplementedYet",
    "OutputMismatch",
    "Overloaded",
    "RegistryUnavailable",
    "ResyncRequired",
    "ShuttingDown",
    "SignatureChanged",
    "UnavailableError",
    "UpstreamUnavailable",
    "VersionNotFound",
    "Violation",
]
