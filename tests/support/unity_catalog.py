"""A Unity Catalog as Databricks has it: its REST API, strict where the real one is, over folders of model files.

What it takes and gives is held to MLflow's own client by `tests/registry/test_unity_catalog.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.support.hostile_server import Answer, Request, answer_json
from tests.support.token_server import TokenEndpoint

_API = "/api/2.0/mlflow/unity-catalog"
_FILES = "/api/2.0/fs/files/Models"
_FOLDERS = "/api/2.0/fs/directories/Models"
_MOST_ENTRIES = 1000


@dataclass
class UnityModel:
    """A model: its versions by number, each with the folder of its files (None for files that the API has not)."""

    versions: dict[str, Path | None] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    hidden: bool = False


class UnityCatalogServer:
    """Answers like a workspace; a responder of a `HostileServer`.

    Attributes:
        models: By full name.
        tokens: Whose tokens it wants, and gives at `/oidc/v1/token`.
        per_page: Entries of a page at most, whatever is asked for.
    """

    def __init__(self) -> None:
        self.models: dict[str, UnityModel] = {}
        self.tokens = TokenEndpoint(scope="all-apis")
        self.per_page = 2
        self.given = ""

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        if request.path == "/oidc/v1/token":
            return self.tokens(request)
        authorization = request.headers.get("authorization", "")
        if not self.tokens.accepts(authorization) and authorization != f"Bearer {self.given}":
            return _fault(401, "UNAUTHENTICATED")
        query = {key: values[0] for key, values in request.query.items()}
        for prefix, answer in ((_FILES, self._file), (_FOLDERS, self._folder)):
            if request.path.startswith(f"{prefix}/"):
                return answer(unquote(request.path.removeprefix(f"{prefix}/")))
        path = request.path.removeprefix(_API)
        if path == "/registered-models:is-databricks-sdk-models-artifact-repository-enabled":
            return answer_json({"is_databricks_sdk_models_artifact_repository_enabled": True})
        if path == "/model-versions/emit-lineage":
            return answer_json({})
        routes = {
            "/registered-models/search": ({"max_results", "page_token"}, self._search_models),
            "/registered-models/get": ({"name"}, self._get_model),
            "/model-versions/search": ({"filter", "max_results", "page_token"}, self._search_versions),
            "/model-versions/get": ({"name", "version"}, self._get_version),
            "/model-versions/get-download-uri": ({"name", "version"}, self._download_uri),
        }
        if path not in routes or request.method != "GET":
            return _fault(404, "ENDPOINT_NOT_FOUND")
        known, respond = routes[path]
        if unknown := set(query) - known:
            return _fault(400, "INVALID_PARAMETER_VALUE", f"unsupported: {sorted(unknown)}")
        return respond(query)

    def _search_models(self, query: Mapping[str, str]) -> Answer:
        names = sorted(self.models)
        return self._page("registered_models", [_model_entry(name) for name in names], query)

    def _get_model(self, query: Mapping[str, str]) -> Answer:
        model = self.models.get(query.get("name", ""))
        if model is None:
            return _fault(404, "RESOURCE_DOES_NOT_EXIST")
        if model.hidden:
            return _fault(403, "PERMISSION_DENIED")
        aliases = [{"alias": alias, "version": version} for alias, version in model.aliases.items()]
        tags = [{"key": key, "value": value} for key, value in model.tags.items()]
        # Protobuf's JSON leaves empty fields out.
        more = {key: value for key, value in (("aliases", aliases), ("tags", tags)) if value}
        return answer_json({"registered_model": {**_model_entry(query["name"]), **more}})

    def _search_versions(self, query: Mapping[str, str]) -> Answer:
        found = re.fullmatch(r"name\s*=\s*'([^']+)'", query.get("filter", ""))
        if not found:
            return _fault(400, "INVALID_PARAMETER_VALUE", "the filter must be name='…'")
        model = self.models.get(found[1])
        if model is None:
            return _fault(404, "RESOURCE_DOES_NOT_EXIST")
        if model.hidden:
            return _fault(403, "PERMISSION_DENIED")
        return self._page("model_versions", [_version_entry(found[1], n, model) for n in model.versions], query)

    def _get_version(self, query: Mapping[str, str]) -> Answer:
        model = self.models.get(query.get("name", ""))
        if model is None or query.get("version") not in model.versions:
            return _fault(404, "RESOURCE_DOES_NOT_EXIST")
        return answer_json({"model_version": _version_entry(query["name"], query["version"], model)})

    def _download_uri(self, query: Mapping[str, str]) -> Answer:
        return answer_json({"artifact_uri": f"s3://bucket/{query['name']}/{query['version']}"})

    def _page(self, key: str, entries: list[dict[str, Any]], query: Mapping[str, str]) -> Answer:
        asked = int(query.get("max_results", "100"))
        if not 0 < asked <= _MOST_ENTRIES:
            return _fault(400, "INVALID_PARAMETER_VALUE")
        first = int(query.get("page_token", "0"))
        last = first + min(asked, self.per_page)
        page: dict[str, object] = {key: entries[first:last]} if entries[first:last] else {}
        return answer_json({**page, "next_page_token": str(last)} if last < len(entries) else page)

    def _place(self, path: str) -> Path | None:
        catalog, schema, model, version, *rest = path.split("/")
        known = self.models.get(f"{catalog}.{schema}.{model}")
        folder = known.versions.get(version) if known is not None else None
        return folder.joinpath(*rest) if folder is not None else None

    def _file(self, path: str) -> Answer:
        file = self._place(path)
        if file is None or not file.is_file():
            return _fault(404, "NOT_FOUND")
        modified = {"Last-Modified": "Mon, 02 Nov 2026 00:00:00 GMT", "Content-Type": "application/octet-stream"}
        return Answer(file.read_bytes(), headers=modified)

    def _folder(self, path: str) -> Answer:
        folder = self._place(path.rstrip("/"))
        if folder is None or not folder.is_dir():
            return _fault(404, "NOT_FOUND")
        contents = [
            {
                "path": f"/Models/{path.rstrip('/')}/{entry.name}",
                "name": entry.name,
                "is_directory": entry.is_dir(),
                "file_size": 0 if entry.is_dir() else entry.stat().st_size,
            }
            for entry in sorted(folder.iterdir())
        ]
        return answer_json({"contents": contents})


def _model_entry(name: str) -> dict[str, Any]:
    """A model as a search tells it: without aliases and tags; a time is text, as protobuf's JSON writes it."""
    return {"name": name, "creation_timestamp": "1700000000000", "last_updated_timestamp": "1700000000001"}


def _version_entry(name: str, number: str, model: UnityModel) -> dict[str, Any]:
    entry = {
        "name": name,
        "version": number,
        "creation_timestamp": "1700000000000",
        "last_updated_timestamp": "1700000000002",
        "source": f"dbfs:/databricks/mlflow-tracking/{number}",
        "run_id": "0" * 32,
        "description": f"version {number}",
        "storage_location": f"s3://bucket/{name}/{number}",
    }
    status = model.status.get(number, "READY")
    return {**entry, "status": status} if status else entry


def _fault(status: int, code: str, message: str = "") -> Answer:
    return answer_json({"error_code": code, "message": message}, status)
