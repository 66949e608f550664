"""Finds MLmodel files by what the registry says of a version's files.

    mlflow-artifacts:/<path>       a path of our server
    runs:/<run>/<path>             the model that the run logged by this name, else a folder of the run's artifacts
    models:/<id>                   a logged model
    models:/<name>/<version>       the files of another version
    s3://…, dbfs:/…, a path, …     a store or a folder: our server reads it, or else `artifact_stores`

MLflow's own client finds the same. A registry is not trusted: no other host is asked, no file of this machine is read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from prinz_enricher.registry.registry_errors import MlmodelUnreadable, redact
from prinz_enricher.registry.transport import QueryParams, Transport, Validator

MLMODEL = "MLmodel"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"  # Where a server that proxies artifacts has them.
MAX_REFERENCES = 10  # Versions that are followed, each with `models:/<name>/<version>` as its source.
MAX_URI_BYTES = 64 * 1024
_API = "/api/2.0/mlflow"
_PROXIED = "mlflow-artifacts"
_WITH_CREDENTIALS = frozenset({"http", "https", _PROXIED})
_REFERENCES = frozenset({"runs", "models"})


@dataclass(frozen=True, slots=True)
class MlmodelPlace:
    """Where our server has an MLmodel file: path and query of the request, and where it is if it is not there.

    `uri` is its folder, as the registry says, without our server's own host; empty in a Unity Catalog.
    """

    path: str
    params: QueryParams
    uri: str = ""
    otherwise: "MlmodelPlace | None" = None


@dataclass(frozen=True, slots=True)
class MlmodelFile:
    """An MLmodel file at one moment: its bytes, None if it did not change, and a hash of them.

    The validator asks the server whether it has changed since; None if the server gave none.
    """

    content: bytes | None
    digest: bytes
    validator: Validator | None


class MlmodelFinder:
    """Finds the MLmodel files of one server's versions; thread-safe."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def find(self, name: str, version: str) -> MlmodelPlace:
        """Ask where the MLmodel file of a version is; raises MlmodelUnreadable if it is nowhere that may be read."""
        for _ in range(MAX_REFERENCES):
            identity = {"name": name, "version": version}
            path = f"{_API}/model-versions/get-download-uri"
            uri = _text(self._transport.get_json(path, identity, max_bytes=MAX_URI_BYTES), "artifact_uri")
            if not uri:
                raise MlmodelUnreadable("the registry does not say where its files are")
            scheme, _, path = uri.partition(":/")
            if scheme == "runs":
                return self._of_run(*_split_head(path))
            if scheme != "models":
                return self._place(uri, "/model-versions/get-artifact", {**identity, "path": MLMODEL})
            first, second = _split_head(path)
            if not second and first and "@" not in first:
                answer = self._transport.get_json(f"{_API}/logged-models/{quote(first, safe='')}", {})
                return self._of_logged_model(answer.get("model"), "")
            if not (first and second.isascii() and second.isdecimal()):
                # By alias or stage another version each time, or by a profile of another registry.
                source = f'its source "models:/{redact(path)}"'
                raise MlmodelUnreadable(f"{source} does not name one version of this registry")
            name, version = first, second
        raise MlmodelUnreadable(f"its source leads from version to version, more than {MAX_REFERENCES} times")

    def client_uri(self, uri: str) -> str:
        """Return the URI of a folder for MLflow's own client, which has our credentials.

        Raises MlmodelUnreadable if the client would send them to another server, or resolve a reference itself.
        """
        try:
            parts = urlsplit(uri)
        except ValueError as error:
            raise MlmodelUnreadable("the registry does not say where its files are") from error
        elsewhere = parts.netloc and not uri.startswith(f"{self._transport.url}/")
        if parts.scheme in _REFERENCES or (parts.scheme in _WITH_CREDENTIALS and elsewhere):
            raise MlmodelUnreadable("the registry says its files are with another server, which gets no credentials")
        # A relative path begins where the server of a local store begins, too.
        return uri if parts.scheme or uri.startswith("/") else f"{Path.cwd().as_uri()}/{uri}"

    def proxied_path(self, uri: str) -> list[str] | None:
        """Return the segments of a folder that our server proxies, else None; may raise MlmodelUnreadable."""
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        ours = host is None or (host == self._transport.host and port in (None, self._transport.port))
        if parts.scheme != _PROXIED or not ours:
            return None
        # Cut by hand: `?` and `#` may be in a folder's name.
        folder = uri.removeprefix(f"{_PROXIED}:").removeprefix(f"//{parts.netloc}" if parts.netloc else "")
        segments = [segment for segment in folder.split("/") if segment]
        if not {".", ".."}.isdisjoint(segments):
            raise MlmodelUnreadable("the registry says that its files are outside of the artifacts")
        return segments

    def _of_run(self, run: str, path: str) -> MlmodelPlace:
        """Find a model of a run; one that was logged goes before a folder of the same name, as with MLflow's client."""
        answer = self._transport.get_json(f"{_API}/runs/get", {"run_id": run})
        folder = self._place(
            _join(_text(answer, "run", "info", "artifact_uri"), path),
            "/get-artifact",
            {"run_id": run, "path": _join(path, MLMODEL)},
        )
        name, inner = _split_head(path)
        # MLflow lets no quotes into either.
        if not name or "'" in name + run:
            return folder
        query: QueryParams = {
            "experiment_ids": [_text(answer, "run", "info", "experiment_id")],
            "filter": f"name = '{name}' AND source_run_id = '{run}'",
            "max_results": 1,
        }
        found = self._transport.get_json(f"{_API}/logged-models/search", query, method="POST").get("models")
        if not isinstance(found, list) or not found:
            return folder
        return replace(self._of_logged_model(found[0], inner), otherwise=folder)

    def _of_logged_model(self, model: object, inner: str) -> MlmodelPlace:
        name = quote(_text(model, "info", "model_id"), safe="")
        return self._place(
            _join(_text(model, "info", "artifact_uri"), inner),
            f"/ajax-api/2.0/mlflow/logged-models/{name}/artifacts/files",
            {"artifact_file_path": _join(inner, MLMODEL)},
        )

    def _place(self, uri: str, path: str, params: QueryParams) -> MlmodelPlace:
        """Return the place of the MLmodel file in a folder.

        If the server does not proxy the folder, it reads it by the given request with its own credentials, from S3, a
        folder, another host.
        """
        segments = self.proxied_path(uri)
        if segments is None:
            return MlmodelPlace(path, params, uri)
        return MlmodelPlace(artifact_path([*segments, MLMODEL]), {}, f"{_PROXIED}:/{'/'.join(segments)}")


def artifact_path(segments: Iterable[str]) -> str:
    """Return the path of a request for an artifact that the server proxies."""
    return "/".join([ARTIFACTS, *(quote(segment, safe="") for segment in segments)])


def _split_head(path: str) -> tuple[str, str]:
    first, _, rest = path.partition("/")
    return first, rest.strip("/")


def _join(folder: str, path: str) -> str:
    return f"{folder.rstrip('/')}/{path}" if folder and path else folder or path


def _text(answer: object, *keys: str) -> str:
    """Return a text within JSON objects, or an empty text."""
    for key in keys:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    return answer if isinstance(answer, str) else ""
