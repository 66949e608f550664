"""Reads an MLflow registry over its REST API."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from prinz_enricher.registry import mlmodel
from prinz_enricher.registry.artifacts import THREADS, download_folder
from prinz_enricher.registry.auth.access import Access
from prinz_enricher.registry.auth.credentials import Credentials
from prinz_enricher.registry.entities import (
    EntityError,
    Listing,
    ModelVersion,
    RegisteredModel,
    read_listing,
    read_model_version,
    read_registered_model,
)
from prinz_enricher.registry.errors import AccessError, MlmodelUnreadable, RegistryRefused, RegistryUnreadable
from prinz_enricher.registry.mlmodel_file import MlmodelFile, MlmodelPlace
from prinz_enricher.registry.pages import MAX_PAGE_BYTES, read_pages
from prinz_enricher.registry.sources import Sources
from prinz_enricher.registry.store_reader import SCHEMES, StoreReader
from prinz_enricher.registry.transport import Answer, Transport
from prinz_enricher.registry.unity import UnityCatalog
from prinz_enricher.registry.words import hidden

_API = "/api/2.0/mlflow"
_INTERNAL = "INTERNAL_ERROR"
_OF_SERVER = SCHEMES | {"file", "mlflow-artifacts"}

MODELS_PER_PAGE = 1000
"""What MLflow allows at most."""

VERSIONS_PER_PAGE = 1_000
"""Most registries fit into one page, which is consistent, whatever is created or deleted meanwhile. A larger page would
hold up calls while it is parsed: Python does nothing else in that time."""


MOST_DOWNLOADS = 4
"""Of models, for which there are connections at once."""

_FILE_SECONDS = 60.0
"""For the beginning of a file, and between two pieces of it: the server may have to get it from a store first."""


class RegistryClient:
    """Reads one MLflow server; may be used by several threads at once.

    It asks only the server that it was made for, and stores such as S3 that it was given a reader for: whatever the
    registry says of where files are, no other host and no local file is read.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        credentials: Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        models_per_page: int = MODELS_PER_PAGE,
        versions_per_page: int = VERSIONS_PER_PAGE,
        max_connections: int = 10,
        unity: bool = False,
        stores: StoreReader | None = None,
    ) -> None:
        """Open no connection yet.

        Args:
            url: The server's base URL, such as `http://mlflow:5000` or `https://example.com/mlflow`.
            timeout: Seconds that one request may take.
            credentials: How requests are authenticated; user and password of the URL by default.
            tls: Whose certificates are trusted, and which is shown; as the system has it by default.
            models_per_page: Registered models asked for at once; 1 to 1000.
            versions_per_page: Versions asked for at once; 1 to 200,000.
            max_connections: Connections at once.
            unity: Whether it is the Unity Catalog of a Databricks workspace; its pages have their own size.
            stores: Reads what the server knows of and does not hand out; the caller closes it.

        Raises:
            ValueError: The URL is none of http or https.
        """
        self._transport = Transport(
            url, timeout=timeout, max_connections=max_connections, credentials=credentials, tls=tls
        )
        # With connections of its own, so that the catalog does not wait for models.
        self._files = Transport(
            url, timeout=_FILE_SECONDS, max_connections=MOST_DOWNLOADS * THREADS, credentials=credentials, tls=tls
        )
        self._unity = UnityCatalog(self._transport) if unity else None
        self._stores = stores
        self._sources = Sources(self._transport)
        self._reads_stores = False
        self._models_per_page = models_per_page
        self._versions_per_page = versions_per_page

    @classmethod
    def of(cls, access: Access, *, timeout: float = 10.0, stores: StoreReader | None = None) -> Self:
        """Make a client for the access to a registry.

        Args:
            access: Where it is, and how it is reached.
            timeout: Seconds that one request may take.
            stores: Reads what the server knows of and does not hand out; the caller closes it.

        Raises:
            AccessError: The URL is none of http or https, or a certificate can't be used.
        """
        tls = access.tls_context()
        try:
            return cls(
                access.url,
                timeout=timeout,
                credentials=access.credentials,
                tls=tls,
                unity=access.unity,
                stores=stores,
            )
        except ValueError as error:
            raise AccessError(str(error)) from None

    @property
    def url(self) -> str:
        """The server's base URL, without user and password."""
        return self._transport.url

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()
        self._files.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def registered_models(self) -> Listing[RegisteredModel]:
        """Read all registered models with their aliases; prompts, which MLflow keeps among them, are left out.

        Raises:
            RegistryError: They can't be read to the last page.
        """
        if self._unity is not None:
            return self._unity.registered_models()
        path = f"{_API}/registered-models/search"
        pages = read_pages(
            self._transport, path, "registered_models", {"max_results": self._models_per_page, "order_by": ["name ASC"]}
        )
        return read_listing(pages, read_registered_model, lambda model: model.name)

    def model_versions(self) -> Listing[ModelVersion]:
        """Read all versions of all registered models; MLflow tells their aliases only with the models.

        Raises:
            RegistryError: They can't be read to the last page.
        """
        if self._unity is not None:
            return self._unity.model_versions()
        # In an order that changes do not touch: by default it is by the time of the last one, so that a version that
        # is changed between two pages would push another one out of both.
        order = ["name ASC", "version_number ASC"]
        path = f"{_API}/model-versions/search"
        pages = read_pages(
            self._transport, path, "model_versions", {"max_results": self._versions_per_page, "order_by": order}
        )
        return read_listing(pages, read_model_version, lambda version: (version.name, version.version))

    def registered_model(self, name: str) -> RegisteredModel:
        """Read one registered model with its aliases; a prompt too.

        Raises:
            RegistryError: It can't be read; `RegistryRefused.missing` where it does not exist.
        """
        if self._unity is not None:
            return self._unity.registered_model(name)
        path = f"{_API}/registered-models/get"
        answer = self._transport.get_json(path, {"name": name}, max_bytes=MAX_PAGE_BYTES)
        try:
            return read_registered_model(answer.get("registered_model"))
        except EntityError as error:
            raise RegistryUnreadable(str(error)) from error

    def model_version(self, name: str, version: str) -> ModelVersion:
        """Read one version of a registered model.

        Raises:
            RegistryError: It can't be read; `RegistryRefused.missing` where it does not exist.
        """
        if self._unity is not None:
            return self._unity.model_version(name, version)
        path = f"{_API}/model-versions/get"
        answer = self._transport.get_json(path, {"name": name, "version": version}, max_bytes=MAX_PAGE_BYTES)
        try:
            return read_model_version(answer.get("model_version"))
        except EntityError as error:
            raise RegistryUnreadable(str(error)) from error

    def mlmodel(self, version: ModelVersion) -> Mapping[str, object]:
        """Read the MLmodel file of a version, and no other of its files.

        Returns:
            Its top-level entries.

        Raises:
            RegistryError: It can't be got; `RegistryRefused.missing` where it does not exist.
            MlmodelUnreadable: It is not what it should be.
        """
        return self.mlmodel_at(self.mlmodel_place(version)).entries or {}

    def mlmodel_place(self, version: ModelVersion) -> MlmodelPlace:
        """Ask where the MLmodel file of a version is; that does not change in the life of a version.

        Raises:
            RegistryError: It can't be told; `RegistryRefused.missing` where the version does not exist.
            MlmodelUnreadable: It is nowhere that we would read.
        """
        if self._unity is not None:
            return self._unity.mlmodel_place(version)
        return self._sources.place(version.name, version.version)

    def folder(self, name: str, version: str) -> str:
        """Ask for the URI of the folder with the files of a version, for MLflow's own client.

        Raises:
            RegistryError: It can't be told; `RegistryRefused.missing` where the version does not exist.
            MlmodelUnreadable: It is nowhere that the client may be led to with our credentials.
        """
        if self._unity is not None:
            # The client is handed out credentials by this form only.
            return f"models:/{name}/{version}"
        place = self._sources.place(name, version)
        if place.otherwise is not None:
            try:
                self._content(place, None)
            except RegistryRefused as error:
                if not error.missing:
                    raise
                place = place.otherwise
        return self._sources.downloadable(place.uri)

    def download(
        self,
        uri: str,
        folder: Path,
        *,
        max_bytes: int,
        watch: Callable[[int, int], object],
        begun: Callable[[Path], object] = lambda _: None,
    ) -> bool:
        """Download the folder of a version from the server, where the server hands it out; blocks.

        Args:
            uri: As `folder` returns it.
            folder: Where to; it is made. What is in it after a failure is for the caller to remove.
            max_bytes: How large all files may be together.
            watch: Called again and again, by this thread, with the bytes that were got and those that were listed. What
                it raises ends the download, and is raised.
            begun: Called, by this thread, with the folder once it has the files that tell the loader and the
                environment, and no others. What it raises ends the download, and is raised.

        Returns:
            Whether it was downloaded; False where it is for MLflow's own client to do so.

        Raises:
            RegistryError: It can't be got.
            ArtifactsRefused: What the server lists is not what a model may be.
            OSError: It can't be written.
        """
        place = self._sources.segments(uri)
        if place is not None:
            download_folder(self._files, place, folder, max_bytes=max_bytes, watch=watch, begun=begun)
        return place is not None

    def mlmodel_at(self, place: MlmodelPlace, known: MlmodelFile | None = None) -> MlmodelFile:
        """Read an MLmodel file; in one request.

        Args:
            place: Where it is.
            known: As it was before: what did not change is neither sent again, where the server can tell, nor parsed.

        Raises:
            RegistryError: It can't be got; `RegistryRefused.missing` where it does not exist.
            MlmodelUnreadable: It is not what it should be.
        """
        validator = known.validator if known else None
        try:
            answer = self._content(place, validator)
        except RegistryUnreadable as error:
            raise MlmodelUnreadable(f"its MLmodel file is larger than {mlmodel.MAX_BYTES} bytes") from error
        except RegistryRefused as error:
            if self._unity is not None:
                raise self._unity.file_fault(error) from error
            if error.missing and place.otherwise is not None:
                return self.mlmodel_at(place.otherwise, known)
            raise
        if known and answer.content is None:
            return MlmodelFile(None, known.digest, answer.validator)
        content = answer.content or b""
        digest = hashlib.sha256(content).digest()
        if known and known.digest == digest:
            return MlmodelFile(None, digest, answer.validator)
        return MlmodelFile(mlmodel.read_mlmodel(content), digest, answer.validator)

    def _content(self, place: MlmodelPlace, validator: tuple[str, str] | None) -> Answer:
        """Get an MLmodel file from the server, or from its store where the server does not hand it out."""
        stores = self._stores if StoreReader.reads(place.uri) else None
        if stores is not None and self._reads_stores:
            # Of several stores the server may read one and we another.
            with suppress(RegistryRefused, MlmodelUnreadable):
                return Answer(stores.read(place.uri), None)
        try:
            return self._transport.get_if_changed(place.path, place.params, validator, max_bytes=mlmodel.MAX_BYTES)
        except RegistryRefused as error:
            scheme, colon, _ = place.uri.partition(":")
            if colon and scheme not in _OF_SERVER and error.error_code == _INTERNAL:
                # What fails of itself, such as a connection, MLflow answers without a code.
                raise MlmodelUnreadable(
                    f'the registry can\'t read a store such as "{hidden(scheme)[:40]}": {error.words}'
                ) from error
            if stores is None:
                raise
            content = stores.read(place.uri)
        # A server that knows of a store and can't read it need not be asked first for the next file.
        self._reads_stores = True
        return Answer(content, None)
