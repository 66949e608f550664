"""Errors of the service and of what it depends on."""

from __future__ import annotations

from prinz_enricher.errors.base import Code, EnricherError


class UnavailableError(EnricherError):
    """The service can't answer now; a retry makes sense."""

    code = Code.UNAVAILABLE


class ModelLoading(UnavailableError):
    """The version was still being loaded, or loaded again, when the call had to be answered."""

    reason = "MODEL_LOADING"

    def __init__(self, name: str, version: str, retry_after: float, why: str = "", step: str = "") -> None:
        told = f"is to be loaded again: {why}" if why else "is still being loaded" + (f" ({step})" if step else "")
        super().__init__(
            f'Version {version} of model "{name}" {told}; try again.',
            metadata={"model": name, "version": version}
            | ({"why": why} if why else {})
            | ({"step": step} if step else {}),
            retry_after=retry_after,
        )


class RegistryUnavailable(UnavailableError):
    """The registry can't be read now, and what is asked for is not known from before."""

    reason = "REGISTRY_UNAVAILABLE"

    def __init__(self, registry: str, why: str, retry_after: float = 5.0) -> None:
        super().__init__(
            f"The model registry at {registry} is not available: {why}",
            metadata={"registry": registry, "why": why},
            retry_after=retry_after,
        )


class UpstreamUnavailable(UnavailableError):
    """A model server elsewhere did not answer, or not as agreed."""

    reason = "UPSTREAM_UNAVAILABLE"

    def __init__(self, upstream: str, why: str, retry_after: float = 1.0) -> None:
        super().__init__(
            f"The model server {upstream} did not answer as it should: {why}",
            metadata={"upstream": upstream, "why": why},
            retry_after=retry_after,
        )


class ShuttingDown(UnavailableError):
    """The service takes no new calls."""

    reason = "SHUTTING_DOWN"

    def __init__(self) -> None:
        super().__init__("The service is shutting down; try another instance.", retry_after=1.0)


class Overloaded(EnricherError):
    """The service has more to do than it can; it refuses at once rather than answer late."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, why: str, retry_after: float = 1.0) -> None:
        super().__init__(
            f"The service is overloaded: {why}; try again.", metadata={"why": why}, retry_after=retry_after
        )


class DeadlineExceeded(EnricherError):
    """The call's deadline passed before its answer was there."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"

    def __init__(self, where: str) -> None:
        super().__init__(f"The call's deadline passed (in: {where}).", metadata={"where": where})


class NotImplementedYet(EnricherError):
    """The method is part of the contract, but this version of the service does not have it."""

    code = Code.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"

    def __init__(self, method: str) -> None:
        super().__init__(f"{method} is not served by this version of the service.", metadata={"method": method})


class InternalError(EnricherError):
    """A fault of the service itself; its log has the traceback under the correlation id."""

    def __init__(self, correlation_id: str) -> None:
        super().__init__(
            f"The service failed on this call; its log says why (correlation id {correlation_id}).",
            metadata={"correlation_id": correlation_id},
        )


class ModelError(InternalError):
    """The model raised an exception, or died."""

    reason = "MODEL_ERROR"

    def __init__(self, name: str, version: str, exception: str, correlation_id: str) -> None:
        EnricherError.__init__(
            self,
            f'Version {version} of model "{name}" failed on this input ({exception}); '
            f"the service's log says more (correlation id {correlation_id}).",
            metadata={"model": name, "version": version, "exception": exception, "correlation_id": correlation_id},
            resource=("model version", f"{name}/{version}"),
        )


class OutputMismatch(InternalError):
    """The model's answer is not what its signature declares."""

    reason = "OUTPUT_MISMATCH"

    def __init__(self, name: str, version: str, why: str) -> None:
        EnricherError.__init__(
            self,
            f'The answer of version {version} of model "{name}" is not what its signature declares: {why}',
            metadata={"model": name, "version": version, "why": why},
            resource=("model version", f"{name}/{version}"),
        )
