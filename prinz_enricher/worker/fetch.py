"""Downloads one model version from its registry into a private folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

_DEFAULTS = {
    # A registry that is down must show within a minute or so, not after MLflow's own ten.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class RegistryUnreachable(Exception):
    """The registry, or the store of its files, gives no answer, or not to us; it may later."""


def prepare_environment() -> None:
    """Set what MLflow reads at its import: no telemetry, and failures that show in reasonable time."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def fetch_model(registry: str, name: str, version: str, folder: str) -> str:
    """Download a model version.

    Args:
        registry: The registry's tracking URI.
        name: The registered model's name; any characters.
        version: Its version.
        folder: A folder that is made, and that the caller removes.

    Returns:
        The path of the folder with the MLmodel file.

    Raises:
        RegistryUnreachable: The registry, or the store of its files, gives no answer, or not to us.
        mlflow.exceptions.MlflowException: The registry refused, or has no such version.
        OSError: The disk is full.
    """
    try:
        return _download(registry, name, version, folder)
    except Exception as exc:
        if _is_unauthenticated(exc):
            # A token that ended meanwhile; the next worker gets another.
            raise RegistryUnreachable("the registry does not accept our credentials (HTTP 401)") from exc
        if may_pass(exc):
            # Without the words of the libraries below, which show addresses.
            raise RegistryUnreachable("the registry gives no answer") from exc
        raise


def _download(registry: str, name: str, version: str, folder: str) -> str:
    import mlflow

    # Unity Catalog is a registry only; what tracks the runs of its workspace has a name of its own.
    tracking = "databricks" if registry.startswith("databricks-uc") else registry
    mlflow.set_tracking_uri(tracking)
    mlflow.set_registry_uri(registry)
    if registry.startswith(("databricks", "uc:")):
        # Unity Catalog hands out credentials by the models:/ form only, and its names have no odd characters.
        uri = f"models:/{name}/{version}"
    else:
        # The models:/ form can't name a model with "?", "@" or "%" in its name; the registry's own answer can.
        client = mlflow.MlflowClient(tracking_uri=tracking, registry_uri=registry)
        uri = client.get_model_version_download_uri(name, version)
    return mlflow.artifacts.download_artifacts(
        artifact_uri=uri, dst_path=folder, tracking_uri=tracking, registry_uri=registry
    )


def _is_unauthenticated(exc: BaseException) -> bool:
    """Tell whether an exception comes of credentials that are missing or wrong (HTTP 401)."""
    from mlflow.exceptions import MlflowException

    return any(
        _status(one) == 401 or (isinstance(one, MlflowException) and one.error_code == "UNAUTHENTICATED")
        for one in _chain(exc)
    )


def may_pass(exc: BaseException) -> bool:
    """Tell whether an exception comes of no connection, no answer in time, or a server's own fault (HTTP 5xx)."""
    import requests
    from mlflow.exceptions import MlflowException

    unreachable = (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError)
    return any(
        isinstance(one, unreachable)
        or _status(one) >= 500
        or (isinstance(one, MlflowException) and one.error_code == "TEMPORARILY_UNAVAILABLE")
        for one in _chain(exc)
    )


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _status(exc: BaseException) -> int:
    """Return the HTTP status that an exception of requests carries; 0 where it carries none."""
    status = getattr(getattr(exc, "response", None), "status_code", 0)
    return status if isinstance(status, int) else 0
