"""Writes into an MLflow registry over its REST API, so that tests need not import MLflow."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

_API = "/api/2.0/mlflow"

WINE_COLUMNS = [{"type": "double", "name": "alcohol", "required": True}]


def mlmodel_text(inputs: object = WINE_COLUMNS, outputs: object = ({"type": "double"},), *, signed: bool = True) -> str:
    """Return an MLmodel file, with a signature of these columns, or without one."""
    content: dict[str, object] = {"flavors": {"python_function": {"loader_module": "mlflow.sklearn"}, "sklearn": {}}}
    if signed:
        content["signature"] = {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None}
    return yaml.safe_dump(content)


class RegistryWriter:
    """Creates, changes and deletes models, versions, aliases and tags of one server."""

    def __init__(self, url: str, database: Path, artifacts: Path) -> None:
        self.url = url
        self.artifacts = artifacts
        self._database = database
        self._client = httpx.Client(base_url=url, timeout=30.0, trust_env=False)
        self._experiment = self._post("experiments/create", name="tests")["experiment_id"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def create_model(self, name: str, description: str = "", tags: Mapping[str, str] | None = None) -> None:
        """Register a model without versions."""
        self._post("registered-models/create", name=name, description=description, tags=_pairs(tags))

    def create_version(
        self,
        name: str,
        mlmodel: str | None = None,
        *,
        folder: str = "model",
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> str:
        """Add a version with this MLmodel file; return its number."""
        run = self._post("runs/create", experiment_id=self._experiment)["run"]["info"]
        uri = f"{run['artifact_uri']}/{folder}"
        path = self.mlmodel_path(uri)
        path.parent.mkdir(parents=True)
        path.write_text(mlmodel_text() if mlmodel is None else mlmodel, encoding="utf-8")
        answer = self._post(
            "model-versions/create",
            name=name,
            source=uri,
            run_id=run["run_id"],
            tags=_pairs(tags),
            description=description,
        )
        return str(answer["model_version"]["version"])

    def copy_version(self, name: str, source: str) -> None:
        """Add a version whose files are those of another one, which MLflow 3 has logged and has this source."""
        self._post("model-versions/create", name=name, source=source, model_id=source.removeprefix("models:/"))

    def mlmodel_path(self, uri: str) -> Path:
        """Return where the server keeps the MLmodel file of a version with this source."""
        return self.artifacts.joinpath(*uri.removeprefix("mlflow-artifacts:/").split("/"), "MLmodel")

    def source(self, name: str, version: str) -> str:
        """Return the source of a version."""
        answer = self._client.get(f"{_API}/model-versions/get", params={"name": name, "version": version})
        return str(_checked(answer)["model_version"]["source"])

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias to a version."""
        self._post("registered-models/alias", name=name, alias=alias, version=version)

    def set_stage(self, name: str, version: str, stage: str, *, archive_others: bool = False) -> None:
        """Move a version into a stage."""
        self._post(
            "model-versions/transition-stage",
            name=name,
            version=version,
            stage=stage,
            archive_existing_versions=archive_others,
        )

    def set_tag(self, name: str, key: str, value: str) -> None:
        """Set a tag of a model."""
        self._post("registered-models/set-tag", name=name, key=key, value=value)

    def delete_model(self, name: str) -> None:
        """Delete a model and its versions."""
        self._send("DELETE", "registered-models/delete", name=name)

    def rename_model(self, name: str, new_name: str) -> None:
        """Rename a model."""
        self._post("registered-models/rename", name=name, new_name=new_name)

    def delete_version(self, name: str, version: str) -> None:
        """Delete a version."""
        self._send("DELETE", "model-versions/delete", name=name, version=version)

    def describe_model(self, name: str, description: str) -> None:
        """Describe a model anew."""
        self._send("PATCH", "registered-models/update", name=name, description=description)

    def describe_version(self, name: str, version: str, description: str) -> None:
        """Describe a version anew."""
        self._send("PATCH", "model-versions/update", name=name, version=version, description=description)

    def delete_alias(self, name: str, alias: str) -> None:
        """Delete an alias."""
        self._send("DELETE", "registered-models/alias", name=name, alias=alias)

    def delete_tag(self, name: str, key: str) -> None:
        """Delete a tag of a model."""
        self._send("DELETE", "registered-models/delete-tag", name=name, key=key)

    def set_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version."""
        self._post("model-versions/set-tag", name=name, version=version, key=key, value=value)

    def delete_version_tag(self, name: str, version: str, key: str) -> None:
        """Delete a tag of a version."""
        self._send("DELETE", "model-versions/delete-tag", name=name, version=version, key=key)

    def set_status(self, name: str, version: str, status: str) -> None:
        """Write the status of a version where MLflow keeps it; its API has no way to leave one unfinished."""
        with closing(sqlite3.connect(self._database, timeout=10)) as connection, connection:
            connection.execute(
                "UPDATE model_versions SET status = ? WHERE name = ? AND version = ?", (status, name, int(version))
            )

    def _post(self, path: str, **content: object) -> dict[str, Any]:
        return self._send("POST", path, **content)

    def _send(self, method: str, path: str, **content: object) -> dict[str, Any]:
        return _checked(self._client.request(method, f"{_API}/{path}", json=content))


def _checked(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == httpx.codes.OK, answer.text
    return dict(answer.json())


def _pairs(tags: Mapping[str, str] | None) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in (tags or {}).items()]
