"""Reads an MLflow registry over its REST API."""

import hashlib
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from prinz_enricher.registry.artifact_stores import SCHEMES, StoreReader
from prinz_enricher.registry.artifacts import THREADS, FolderDownload
from prinz_enricher.registry.auth import Access, url_login
from prinz_enricher.registry.entities import (
    Listing,
    ModelVersion,
    RegisteredModel,
    read_listing,
    read_model_version,
    read_registered_model,
)
from prinz_enricher.registry.mlmodel import MlmodelFile, MlmodelFinder, MlmodelPlace
from prinz_enricher.registry.mlmodel_yaml import MAX_BYTES, TOO_LARGE, read_mlmodel
from prinz_enricher.registry.registry_errors import (
    AccessError,
    MlmodelUnreadable,
    RegistryRefused,
    RegistryUnreadable,
    redact,
)
from prinz_enricher.registry.transport import Credentials, Transport, Validator

_API = "/api/2.0/mlflow"
_INTERNAL_ERROR = "INTERNAL_ERROR"
_STORES_OF_SERVERS = SCHEMES | {"file", "mlflow-artifacts"}
# What MLflow allows at most.
MODELS_PER_PAGE = 1000
# Most registries fit into one page, which is consistent, whatever is created or deleted meanwhile. A larger page would
# hold up calls while it is parsed: Python does nothing else in that time.
VERSIONS_PER_PAGE = 1_000
MAX_DOWNLOADS = 4  # Of models, at once.
# For the beginning of a file, and between two pieces of it: the server may have to get it from a store first.
_FILE_SECONDS = 60.0


class RegistryClient:
    """Reads one MLflow server; thread-safe.

    Methods raise RegistryError if something can't be read, `RegistryRefused.missing` if it does not exist, and those
    about MLmodel files raise MlmodelUnreadable if the file is invalid, or is nowhere that may be read.

    It asks only this server, and stores such as S3 through the given reader: wherever the registry says that files are,
    no other host and no local file is read.
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
        stores: StoreReader | None = None,
    ) -> None:
        """Open no connection yet; raises ValueError if it is not the URL of an http or https server.

        One request may take `timeout` seconds, and lists 1 to 1000 models or 1 to 200,000 versions. Without credentials
        those of the URL are used, without certificates the system's. The caller closes `stores`.
        """
        connect = partial(Transport, url, credentials=credentials or url_login(url) or Credentials(), tls=tls)
        self._transport = connect(timeout=timeout, max_connections=10)
        # With connections of its own, so that the catalog does not wait for models.
        self._files = connect(timeout=_FILE_SECONDS, max_connections=MAX_DOWNLOADS * THREADS)
        self._finder = MlmodelFinder(self._transport)
        self._stores = stores
        self._reads_stores = False
        self._models_per_page = models_per_page
        self._versions_per_page = versions_per_page

    @classmethod
    def of(cls, access: Access, *, timeout: float = 10.0, stores: StoreReader | None = None) -> Self:
        """Return a client for the access to a registry; raises AccessError if it can't be used."""
        tls = access.tls_context()
        try:
            return cls(access.url, timeout=timeout, credentials=access.credentials, tls=tls, stores=stores)
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
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def registered_models(self) -> Listing[RegisteredModel]:
        """Read all registered models with their aliases; prompts, which MLflow keeps among them, are left out."""
        pages = self._transport.get_pages(
            f"{_API}/registered-models/search",
            "registered_models",
            {"max_results": self._models_per_page, "order_by": ["name ASC"]},
        )
        return read_listing(pages, read_registered_model, lambda model: model.name)

    def model_versions(self) -> Listing[ModelVersion]:
        """Read all versions of all registered models; MLflow returns their aliases only with the models."""
        # In an order that changes do not touch: by default it is by the time of the last one, so that a version that
        # is changed between two pages would push another one out of both.
        pages = self._transport.get_pages(
            f"{_API}/model-versions/search",
            "model_versions",
            {"max_results": self._versions_per_page, "order_by": ["name ASC", "version_number ASC"]},
        )
        return read_listing(pages, read_model_version, lambda version: (version.name, version.version))

    def registered_model(self, name: str) -> RegisteredModel:
        """Read one registered model with its aliases, or a prompt; `RegistryRefused.missing` if it does not exist."""
        answer = self._transport.get_json(f"{_API}/registered-models/get", {"name": name})
        return read_registered_model(answer.get("registered_model"))

    def model_version(self, name: str, version: str) -> ModelVersion:
        """Read one version of a registered model; `RegistryRefused.missing` if it does not exist."""
        answer = self._transport.get_json(f"{_API}/model-versions/get", {"name": name, "version": version})
        return read_model_version(answer.get("model_version"))

    def mlmodel(self, version: ModelVersion) -> Mapping[str, object]:
        """Read the MLmodel file of a version, and no other of its files; return its top-level entries."""
        return read_mlmodel(self.mlmodel_at(self.mlmodel_place(version)).content or b"")

    def mlmodel_place(self, version: ModelVersion) -> MlmodelPlace:
        """Ask where the MLmodel file of a version is; that does not change in the life of a version."""
        return self._finder.find(version.name, version.version)

    def folder_uri(self, name: str, version: str) -> str:
        """Ask for the URI of the folder with the files of a version, for MLflow's own client with our credentials."""
        place = self._finder.find(name, version)
        if place.otherwise is not None:
            try:
                self._content(place, None)
            except RegistryRefused as error:
                if not error.missing:
                    raise
                place = place.otherwise
        return self._finder.client_uri(place.uri)

    def download(
        self,
        uri: str,
        folder: Path,
        *,
        max_bytes: int,
        watch: Callable[[int, int], object],
        begun: Callable[[Path], object] = lambda _: None,
    ) -> bool:
        """Download the folder of `folder_uri`, as `FolderDownload` does; return whether the server proxies it."""
        place = self._finder.proxied_path(uri)
        if place is not None:
            FolderDownload(self._files, place, folder, max_bytes, watch).run(begun)
        return place is not None

    def mlmodel_at(self, place: MlmodelPlace, known: MlmodelFile | None = None) -> MlmodelFile:
        """Read an MLmodel file in one request; one that did not change is not sent if possible."""
        try:
            content, validator = self._content(place, known.validator if known else None)
        except RegistryUnreadable as error:
            raise MlmodelUnreadable(TOO_LARGE) from error
        except RegistryRefused as error:
            if error.missing and place.otherwise is not None:
                return self.mlmodel_at(place.otherwise, known)
            raise
        if known and content is None:
            return MlmodelFile(None, known.digest, validator)
        content = content or b""
        digest = hashlib.sha256(content).digest()
        if known and known.digest == digest:
            return MlmodelFile(None, digest, validator)
        return MlmodelFile(content, digest, validator)

    def _content(self, place: MlmodelPlace, validator: Validator | None) -> tuple[bytes | None, Validator | None]:
        """Get an MLmodel file from the server, or from its store if the server does not hand it out."""
        stores = self._stores if StoreReader.reads(place.uri) else None
        if stores is not None and self._reads_stores:
            # Of several stores the server may read one and we another.
            with suppress(RegistryRefused, MlmodelUnreadable):
                return stores.read(place.uri), None
        try:
            return self._transport.get_if_changed(place.path, place.params, validator, max_bytes=MAX_BYTES)
        except RegistryRefused as error:
            scheme, colon, _ = place.uri.partition(":")
            if colon and scheme not in _STORES_OF_SERVERS and error.error_code == _INTERNAL_ERROR:
                # MLflow answers without a code to what fails by itself, such as a connection.
                store = f'a store such as "{redact(scheme)[:40]}"'
                raise MlmodelUnreadable(f"the registry can't read {store}: {error.words}") from error
            if stores is None:
                raise
            content = stores.read(place.uri)
        # A server that knows of a store and can't read it need not be asked first for the next file.
        self._reads_stores = True
        return content, None
