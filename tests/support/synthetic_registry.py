"""An MLflow registry in memory, which answers what the catalog asks as a real one does.

`tests/registry/test_synthetic_registry.py` holds it to a real server. Run as
`python -m tests.support.synthetic_registry MODELS VERSIONS_OF_EACH` it prints its URL, and serves so many until its
standard input ends.
"""

import base64
import hashlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.hostile_server import Answer, HostileServer, Request, answer_json
from tests.support.registry_writer import mlmodel_text

_GONE = answer_json({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}, 404)


@dataclass
class SyntheticVersion:
    """A version of a model."""

    number: int
    mlmodel: bytes | None
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""
    status: str = "READY"


@dataclass
class SyntheticModel:
    """A registered model."""

    name: str
    versions: dict[int, SyntheticVersion] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    description: str = ""


class SyntheticRegistry:
    """Models in memory; tests change them as they like, under `lock` where several threads do.

    Attributes:
        models: By name.
        override: Answers in place of the registry where a test wants, by the end of the request's path.
        asked: How often each MLmodel file was asked for, by `name/number`, and each other path by its end.
        conditional: Whether conditional requests are answered with 304, as by some servers of MLflow's, and by most
            that stand before one; the newest answer them as others.
        unchanged: How often an MLmodel file was told to be as it was.
    """

    def __init__(self, *names: str) -> None:
        self.models: dict[str, SyntheticModel] = {}
        self.override: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.conditional = False
        self.unchanged: Counter[str] = Counter()
        self.lock = threading.RLock()
        for name in names:
            self.add(name)

    def add(self, name: str, versions: int = 1, mlmodel: str | None = None) -> SyntheticModel:
        """Register a model with versions from 1 on, all with this MLmodel file."""
        content = (mlmodel_text() if mlmodel is None else mlmodel).encode()
        model = SyntheticModel(name, {n: SyntheticVersion(n, content) for n in range(1, versions + 1)})
        with self.lock:
            self.models[name] = model
        return model

    def remove(self, name: str) -> None:
        """Delete a model."""
        with self.lock:
            del self.models[name]

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        path = request.path
        for end, answer in self.override.items():
            if path.endswith(end):
                return answer
        with self.lock:
            if "/mlflow-artifacts/artifacts/" in path:
                return self._artifact(path.split("/artifacts/", 1)[1], request.headers)
            self.asked[path.split("/mlflow/")[-1]] += 1
            query = {key: values[0] for key, values in request.query.items()}
            if path.endswith("registered-models/search"):
                return self._models(query)
            if path.endswith("model-versions/search"):
                return self._versions(query)
            model = self.models.get(query.get("name", ""))
            if path.endswith("registered-models/get"):
                return answer_json({"registered_model": _model_json(model)}) if model else _GONE
            version = model.versions.get(int(query["version"])) if model else None
            if model is None or version is None:
                return _GONE
            if path.endswith("get-download-uri"):
                return answer_json({"artifact_uri": _source(model, version)})
            return answer_json({"model_version": _version_json(model, version)})

    def _models(self, query: Mapping[str, str]) -> Answer:
        names = sorted(self.models)
        page, token = _cut(names, query)
        return answer_json({"registered_models": [_model_json(self.models[name]) for name in page]} | token)

    def _versions(self, query: Mapping[str, str]) -> Answer:
        keys = [(name, number) for name in sorted(self.models) for number in sorted(self.models[name].versions)]
        page, token = _cut(keys, query)
        entries = [_version_json(self.models[name], self.models[name].versions[number]) for name, number in page]
        return answer_json({"model_versions": entries} | token)

    def _artifact(self, path: str, headers: Mapping[str, str]) -> Answer:
        folder, number, file = path.split("/")
        name = bytes.fromhex(folder).decode()
        self.asked[f"{name}/{number}"] += 1
        if (answer := self.override.get(f"{name}/{number}")) is not None:
            return answer
        model = self.models.get(name)
        version = model.versions.get(int(number)) if model else None
        if version is None or version.mlmodel is None or file != "MLmodel":
            return _GONE
        etag = f'"{hashlib.sha256(version.mlmodel).hexdigest()[:16]}"'
        if self.conditional and headers.get("if-none-match") == etag:
            self.unchanged[f"{name}/{number}"] += 1
            return Answer(b"", 304, {"ETag": etag})
        return Answer(version.mlmodel, 200, {"ETag": etag})


def _cut(entries: list[Any], query: Mapping[str, str]) -> tuple[list[Any], dict[str, str]]:
    """Return one page, and the token of the next: an offset, as with MLflow."""
    token = query.get("page_token", "")
    start = int(json.loads(base64.b64decode(token))["offset"]) if token else 0
    end = start + int(query.get("max_results", "100"))
    following = base64.b64encode(json.dumps({"offset": end}).encode()).decode()
    return entries[start:end], {"next_page_token": following} if end < len(entries) else {}


def _source(model: SyntheticModel, version: SyntheticVersion) -> str:
    return f"mlflow-artifacts:/{model.name.encode().hex()}/{version.number}"


def _pairs(values: Mapping[str, str], first: str = "key", second: str = "value") -> list[dict[str, str]]:
    return [{first: key, second: value} for key, value in values.items()]


def _model_json(model: SyntheticModel) -> dict[str, object]:
    return {
        "name": model.name,
        "creation_timestamp": 1_700_000_000_000,
        "last_updated_timestamp": 1_700_000_000_000,
        "description": model.description,
        "tags": _pairs(model.tags),
        "aliases": _pairs(model.aliases, "alias", "version"),
    }


def _version_json(model: SyntheticModel, version: SyntheticVersion) -> dict[str, object]:
    return {
        "name": model.name,
        "version": str(version.number),
        "creation_timestamp": 1_700_000_000_000,
        "last_updated_timestamp": 1_700_000_000_000,
        "current_stage": "None",
        "description": version.description,
        "source": _source(model, version),
        "run_id": "0" * 32,
        "status": version.status,
        "tags": _pairs(version.tags),
    }


def main() -> None:
    """Serve until standard input ends."""
    registry = SyntheticRegistry()
    for number in range(int(sys.argv[1])):
        columns = [{"type": "double", "name": f"x{i}-{number}", "required": True} for i in range(5)]
        model = registry.add(f"model-{number:05}", int(sys.argv[2]), mlmodel_text(columns))
        model.tags = {"team": f"team-{number % 10}"}
        model.aliases = {"champion": "1"}
    with HostileServer() as server:
        server.respond = registry
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
