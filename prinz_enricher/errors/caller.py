"""Errors that the caller, or the owner of a model, has to mend."""

from __future__ import annotations

from collections.abc import Sequence

from prinz_enricher.errors.base import Code, EnricherError, Violation


class NotFoundError(EnricherError):
    """Something that the request names does not exist."""

    code = Code.NOT_FOUND


class ModelNotFound(NotFoundError):
    """The registry has no such model, or it is not served."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f'There is no model "{name}"; ListModels tells which there are.',
            metadata={"model": name},
            resource=("model", name),
        )


class VersionNotFound(NotFoundError):
    """The model has no such version, or none that can be scored."""

    reason = "VERSION_NOT_FOUND"

    def __init__(self, name: str, version: str) -> None:
        which = f'version "{version}"' if version else "version that is ready and not archived"
        super().__init__(
            f'Model "{name}" has no {which}; ListModels tells which there are.',
            metadata={"model": name, "version": version},
            resource=("model version", f"{name}/{version}"),
        )


class AliasNotFound(NotFoundError):
    """The model has no such alias."""

    reason = "ALIAS_NOT_FOUND"

    def __init__(self, name: str, alias: str) -> None:
        super().__init__(
            f'Model "{name}" has no alias "{alias}"; ListModels tells which there are.',
            metadata={"model": name, "alias": alias},
            resource=("model alias", f"{name}@{alias}"),
        )


class InvalidArgumentError(EnricherError):
    """The request is wrong, whatever the state of the service; a retry makes no sense."""

    code = Code.INVALID_ARGUMENT


class InvalidInput(InvalidArgumentError):
    """Rows, parameters or wanted outputs do not fit the signature; every fault is told."""

    reason = "INVALID_INPUT"

    def __init__(self, violations: Sequence[Violation], *, omitted: int = 0) -> None:
        total = len(violations) + omitted
        first = f"{violations[0].field}: {violations[0].description}" if violations else "unknown"
        more = "" if total == 1 else f" (and {total - 1} more)"
        super().__init__(
            f"The input does not fit the model's signature: {first}{more}.",
            metadata={"faults": str(total)},
            violations=violations,
            omitted=omitted,
        )


class _OneField(InvalidArgumentError):
    """A fault of one field of the request."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(
            f"{field}: {description}.",
            metadata={"field": field},
            violations=[Violation(field, description)],
        )


class InvalidPageToken(_OneField):
    """The page token is none that this service gave for this request."""

    reason = "INVALID_PAGE_TOKEN"

    def __init__(self, description: str = "is no token of this service; start again without one") -> None:
        super().__init__("page_token", description)


class InvalidFilter(_OneField):
    """The filter can't be read."""

    reason = "INVALID_FILTER"

    def __init__(self, description: str) -> None:
        super().__init__("filter", description)


class InvalidRequest(_OneField):
    """A field of the request is missing or out of its range."""

    reason = "INVALID_REQUEST"


class BatchTooLarge(InvalidArgumentError):
    """The request has more rows, or bytes, than the service takes at once."""

    reason = "BATCH_TOO_LARGE"

    def __init__(self, rows: int, limit: int) -> None:
        super().__init__(
            f"The batch has {rows} rows, more than the limit of {limit}; send it in parts.",
            metadata={"rows": str(rows), "limit": str(limit)},
            violations=[Violation("input", f"has more than {limit} rows")],
        )


class FailedPreconditionError(EnricherError):
    """The version is not in a state to answer; someone has to change something first."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, message: str, name: str, version: str, **metadata: str) -> None:
        super().__init__(
            message,
            metadata={"model": name, "version": version, **metadata},
            resource=("model version", f"{name}/{version}"),
        )


class SignatureChanged(FailedPreconditionError):
    """The caller built its rows for another signature."""

    reason = "SIGNATURE_CHANGED"

    def __init__(self, name: str, version: str, digest: str) -> None:
        super().__init__(
            f'Version {version} of model "{name}" has another signature than the request was made for; '
            "get the signature again.",
            name,
            version,
            digest=digest,
        )


class ModelLoadFailed(FailedPreconditionError):
    """The version can't be read or loaded."""

    reason = "MODEL_LOAD_FAILED"

    def __init__(self, name: str, version: str, why: str) -> None:
        super().__init__(f'Version {version} of model "{name}" can\'t be loaded: {why}', name, version, why=why)


FORECASTERS = ("mlflow.pmdarima", "mlflow.diviner")
"""Loaders of models that are asked for a span of time, and answer with a row for each of its steps."""


class LoaderNotAllowed(FailedPreconditionError):
    """The version would be loaded by code that the operator has not allowed."""

    reason = "LOADER_NOT_ALLOWED"

    def __init__(self, name: str, version: str, loader: str) -> None:
        why = (
            ": a forecaster answers with rows of its own; log a python_function that answers each row with one"
            if loader in FORECASTERS
            else "; the operator can, by workers.allowed_loaders"
        )
        super().__init__(
            f'Version {version} of model "{name}" needs the loader "{loader}", which this service does not allow{why}.',
            name,
            version,
            loader=loader,
        )


class ResyncRequired(EnricherError):
    """A watch can't go on from its resume token; what changed since is not known any more."""

    code = Code.OUT_OF_RANGE
    reason = "RESYNC_REQUIRED"

    def __init__(self) -> None:
        super().__init__(
            "The watch can't be resumed from this token: it is too old, or of another service; watch again without one."
        )


class MessageTooLarge(EnricherError):
    """A request or an answer has more bytes than a message may have; a retry makes no sense."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "MESSAGE_TOO_LARGE"

    def __init__(self, which: str, size: int, limit: int) -> None:
        super().__init__(
            f"The {which} has {size} bytes, more than the limit of {limit}; ask for less at once.",
            metadata={"message": which, "bytes": str(size), "limit": str(limit)},
        )
