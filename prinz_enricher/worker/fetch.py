"""Downloads one model version from its registry into a private folder."""

from __future__ import annotations

import os

_DEFAULTS = {
    # A registry that is down must show within a minute or so, not after MLflow's own ten.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


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
        mlflow.exceptions.MlflowException: The registry refused, or has no such version.
        OSError: The registry or the store can't be reached, or the disk is full.
    """
    import mlflow

    mlflow.set_tracking_uri(registry)
    mlflow.set_registry_uri(registry)
    if registry.startswith(("databricks", "uc:")):
        # Unity Catalog hands out credentials by the models:/ form only, and its names have no odd characters.
        uri = f"models:/{name}/{version}"
    else:
        # The models:/ form can't name a model with "?", "@" or "%" in its name; the registry's own answer can.
        client = mlflow.MlflowClient(tracking_uri=registry, registry_uri=registry)
        uri = client.get_model_version_download_uri(name, version)
    return mlflow.artifacts.download_artifacts(
        artifact_uri=uri, dst_path=folder, tracking_uri=registry, registry_uri=registry
    )
