"""Where the MLmodel file of a version is, by what the registry says of its files, as MLflow's own client reads it.

    mlflow-artifacts:/<path>       a path of our server
    runs:/<run>/<path>             the model that the run logged by this name, else a folder of the run's artifacts
    models:/<id>                   a logged model
    models:/<name>/<version>       the files of another version
    s3://…, dbfs:/…, a path, …     a store or a folder: our server reads it, or else a store's reader

A registry can lie: no other host is asked, and no file of this machine is read, whatever it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from prinz_enricher.registry.artifacts import ARTIFACTS, MLMODEL
from prinz_enricher.registry.errors import MlmodelUnreadable
from prinz_enricher.registry.mlmodel_file import MlmodelPlace
from prinz_enricher.registry.pages import MAX_PAGE_BYTES
from prinz_enricher.registry.transport import QueryParams, Transport
from prinz_enricher.registry.words import hidden

MAX_REFERENCES = 10
"""Through how many versions, each with `models:/<name>/<version>` as its source, files are looked for."""

MAX_URI_BYTES = 64 * 1024

_API = "/api/2.0/mlflow"
_PROXIED = "mlflow-artifacts"
_WITH_CREDENTIALS = frozenset({"http", "https", _PROXIED})
_LEADING = frozenset({"runs", "models"})


class Sources:
    """Finds MLmodel files; may be used by several threads at once."""

    def __init__(self, transport: Transport) -> None:
        """Ask for nothing yet.

        Args:
            transport: To the server.
        """
        self._transport = transport

    def place(self, name: str, version: str) -> MlmodelPlace:
        """Ask where the MLmodel file of a version is.

        Raises:
            RegistryError: It can't be told; `RegistryRefused.missing` where the version, or what it leads to, does not
                exist.
            MlmodelUnreadable: It is nowhere that we would read.
        """
        for _ in range(MAX_REFERENCES):
            identity = {"name": name, "version": version}
            answer = self._transport.get_json(
                f"{_API}/model-versions/get-download-uri", identity, max_bytes=MAX_URI_BYTES
            )
            uri = _text(answer, "artifact_uri")
            if not uri:
                raise MlmodelUnreadable("the registry does not say where its files are")
            scheme, _, path = uri.partition(":/")
            if scheme == "runs":
                return self._of_run(*_head(path))
            if scheme != "models":
                return self._place(uri, "/model-versions/get-artifact", {**identity, "path": MLMODEL})
            first, second = _head(path)
            if not second and first and "@" not in first:
                return self._of_logged_model(self._logged_model(first), "")
            if not (first and second.isascii() and second.isdecimal()):
                # By alias or stage another version each time, or by a profile of another registry.
                raise MlmodelUnreadable(
                    f'its source "models:/{hidden(path)}" does not name one version of this registry'
                )
            name, version = first, second
        raise MlmodelUnreadable(f"its source leads from version to version, more than {MAX_REFERENCES} times")

    def downloadable(self, uri: str) -> str:
        """Return the URI of a folder as MLflow's client is to be given it, which has our credentials.

        Raises:
            MlmodelUnreadable: It would show them to another server, or look itself where the files are.
        """
        try:
            parts = urlsplit(uri)
        except ValueError as error:
            raise MlmodelUnreadable("the registry does not say where its files are") from error
        elsewhere = parts.netloc and not uri.startswith(f"{self._transport.url}/")
        if parts.scheme in _LEADING or (parts.scheme in _WITH_CREDENTIALS and elsewhere):
            raise MlmodelUnreadable(
                "the registry says that its files are with another server, which gets no credentials"
            )
        # A relative path begins where the server of a local store has its beginning, too.
        return uri if parts.scheme or uri.startswith("/") else f"{Path.cwd().as_uri()}/{uri}"

    def _of_run(self, run: str, path: str) -> MlmodelPlace:
        """Find a model of a run; one that was logged goes before a folder of the same name, as with MLflow's client."""
        answer = self._transport.get_json(f"{_API}/runs/get", {"run_id": run}, max_bytes=MAX_PAGE_BYTES)
        folder = self._place(
            _join(_text(answer, "run", "info", "artifact_uri"), path),
            "/get-artifact",
            {"run_id": run, "path": _join(path, MLMODEL)},
        )
        name, inner = _head(path)
        # Neither has quotes that MLflow would have let through.
        if not name or "'" in name + run:
            return folder
        wanted = {
            "experiment_ids": [_text(answer, "run", "info", "experiment_id")],
            "filter": f"name = '{name}' AND source_run_id = '{run}'",
            "max_results": 1,
        }
        found = self._transport.search(f"{_API}/logged-models/search", wanted, max_bytes=MAX_PAGE_BYTES).get("models")
        if not isinstance(found, list) or not found:
            return folder
        return replace(self._of_logged_model(found[0], inner), otherwise=folder)

    def _logged_model(self, model: str) -> object:
        path = f"{_API}/logged-models/{quote(model, safe='')}"
        return self._transport.get_json(path, {}, max_bytes=MAX_PAGE_BYTES).get("model")

    def _of_logged_model(self, model: object, inner: str) -> MlmodelPlace:
        name = quote(_text(model, "info", "model_id"), safe="")
        return self._place(
            _join(_text(model, "info", "artifact_uri"), inner),
            f"/ajax-api/2.0/mlflow/logged-models/{name}/artifacts/files",
            {"artifact_file_path": _join(inner, MLMODEL)},
        )

    def _place(self, uri: str, path: str, params: QueryParams) -> MlmodelPlace:
        """Return where the MLmodel file of a folder is handed out.

        Args:
            uri: Of the folder.
            path: Of a request by which the server gets it with its own credentials, from S3, a folder, another host.
            params: Of its query.
        """
        folder, segments = self._proxied(uri), self.segments(uri)
        if folder is None or segments is None:
            return MlmodelPlace(path, params, uri)
        proxied = "/".join([ARTIFACTS, *(quote(segment, safe="") for segment in segments), MLMODEL])
        return MlmodelPlace(proxied, {}, f"{_PROXIED}:{folder}")

    def segments(self, uri: str) -> list[str] | None:
        """Return the path of a folder that our server proxies, segment by segment; None where it does not.

        Raises:
            MlmodelUnreadable: It is outside of the artifacts.
        """
        folder = self._proxied(uri)
        segments = None if folder is None else [segment for segment in folder.split("/") if segment]
        if segments is not None and not {".", ".."}.isdisjoint(segments):
            raise MlmodelUnreadable("the registry says that its files are outside of the artifacts")
        return segments

    def _proxied(self, uri: str) -> str | None:
        """Return the path of a folder that our server proxies; None where it does not."""
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        ours = host is None or (host == self._transport.host and port in (None, self._transport.port))
        if parts.scheme != _PROXIED or not ours:
            return None
        # Cut by hand: a folder's name may hold `?` or `#`, which mean nothing here.
        return uri.removeprefix(f"{_PROXIED}:").removeprefix(f"//{parts.netloc}" if parts.netloc else "")


def _head(path: str) -> tuple[str, str]:
    """Cut a path after its first segment."""
    first, _, rest = path.partition("/")
    return first, rest.strip("/")


def _join(folder: str, path: str) -> str:
    return f"{folder.rstrip('/')}/{path}" if folder and path else folder or path


def _text(answer: object, *keys: str) -> str:
    """Return a text within JSON objects; empty where there is none."""
    for key in keys:
        answer = answer.get(key) if isinstance(answer, Mapping) else None
    return answer if isinstance(answer, str) else ""
