"""Where the files of a version are, by MLflow's client.

MLflow's own repository for runs:/ takes a store that fails for one that has no such files, and may then hand out the
files of a run for those of the model that it logged by the same name; and the one for models:/ follows a loop without
end. So what they lead to is looked up here, as they do, and only that is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MAX_REFERENCES = 10


class Refused(Exception):
    """What a registry offers is not what a model may be; the message says why."""


def place(client: MlflowClient, name: str, version: str, paths_from: str) -> str:
    """Return the URI of the folder with the files of a version.

    Args:
        client: Of the registry.
        name: The registered model's name; any characters.
        version: Its version.
        paths_from: Where a relative path that the registry tells begins; at the working directory where it is empty.

    Raises:
        Refused: The version leads from one to another without an end.
        mlflow.exceptions.MlflowException: The registry refused, or has no such version.
    """
    for _ in range(_MAX_REFERENCES):
        # The models:/ form can't name a model with "?", "@" or "%" in its name; the registry's own answer can.
        uri = client.get_model_version_download_uri(name, version)
        scheme, _, path = uri.partition(":/")
        first, _, second = path.partition("/")
        if scheme == "runs":
            return _of_run(client, first, second.strip("/"), paths_from)
        if scheme != "models":
            return _here(uri, paths_from)
        if not second and first:
            return _here(client.get_logged_model(first).artifact_location, paths_from)
        name, version = first, second
    raise Refused(f"its source leads from version to version, more than {_MAX_REFERENCES} times")


def _of_run(client: MlflowClient, run_id: str, path: str, paths_from: str) -> str:
    import mlflow

    info = client.get_run(run_id).info
    folder = _here(f"{info.artifact_uri}/{path}" if path else info.artifact_uri, paths_from)
    name, _, inner = path.partition("/")
    if not name or "'" in name + run_id:
        return folder
    wanted = f"name = '{name}' AND source_run_id = '{run_id}'"
    for model in client.search_logged_models([info.experiment_id], wanted, max_results=1):
        logged = _here(f"{model.artifact_location}/{inner}" if inner else model.artifact_location, paths_from)
        files = mlflow.artifacts.list_artifacts(artifact_uri=logged)
        if any(Path(file.path).name == "MLmodel" for file in files):
            return logged
    return folder


def _here(uri: str, paths_from: str) -> str:
    """Return a URI with which relative paths begin where they are to."""
    from mlflow.utils.uri import is_local_uri

    is_local = is_local_uri(uri, is_tracking_or_registry_uri=False)  # type: ignore[no-untyped-call]  # MLflow's
    relative = is_local and not uri.startswith(("/", "file:"))
    return f"{Path(paths_from).absolute().as_uri()}/{uri}" if relative else uri
