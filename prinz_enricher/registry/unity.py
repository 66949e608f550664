"""Reads the models of a Unity Catalog (Databricks) over its REST API.

It has no filter and no order for models, tells aliases and tags only model by model, lists versions only by
`name='…'`, and has no stages. Model files are read through the workspace's Files API, from the same host; the cloud
stores behind it are another matter, and no other host is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

from prinz_enricher.registry.entities import (
    EntityError,
    Listing,
    ModelVersion,
    RegisteredModel,
    read_listing,
    read_model_version,
    read_registered_model,
)
from prinz_enricher.registry.errors import MlmodelUnreadable, RegistryError, RegistryRefused, RegistryUnreadable
from prinz_enricher.registry.mlmodel_file import MlmodelPlace
from prinz_enricher.registry.pages import MAX_PAGE_BYTES, read_pages
from prinz_enricher.registry.transport import QueryParams, Transport

_API = "/api/2.0/mlflow/unity-catalog"
_FILES = "/api/2.0/fs/files/Models"
_PARTS = 3

ENTRIES_PER_PAGE = 100
"""What MLflow's own client asks for."""

_Result = TypeVar("_Result")


class UnityCatalog:
    """Reads one Unity Catalog; may be used by several threads at once."""

    def __init__(self, transport: Transport, *, per_page: int = ENTRIES_PER_PAGE, threads: int = 8) -> None:
        """Ask for nothing yet.

        Args:
            transport: To the workspace.
            per_page: Models, or versions of a model, asked for at once.
            threads: How many models are asked for at once.
        """
        self._transport = transport
        self._per_page = per_page
        self._threads = threads

    def registered_models(self) -> Listing[RegisteredModel]:
        """Read all models that we may see, with their aliases.

        Raises:
            RegistryError: They can't be read to the last page, or one of them can't be read now.
        """
        names = self._names()
        answers, faults = self._each(names.items, self._model)
        listing = read_listing([answers], read_registered_model, lambda model: model.name)
        return Listing(listing.items, (*names.faults, *faults, *listing.faults), names.pages)

    def model_versions(self) -> Listing[ModelVersion]:
        """Read all versions of all models that we may see; without their tags, which are told one by one only.

        Raises:
            RegistryError: They can't be read to the last page.
        """
        # What is wrong with the names is told with the models.
        names = self._names()
        pages, faults = self._each(names.items, self._versions)
        listing = read_listing(pages, _read_version, lambda version: (version.name, version.version))
        return Listing(listing.items, (*faults, *listing.faults), names.pages)

    def registered_model(self, name: str) -> RegisteredModel:
        """Read one model with its aliases.

        Raises:
            RegistryError: It can't be read; `RegistryRefused.missing` where it does not exist.
        """
        return _entity(read_registered_model, self._model(name))

    def model_version(self, name: str, version: str) -> ModelVersion:
        """Read one version; without its tags, as in the list.

        Raises:
            RegistryError: It can't be read; `RegistryRefused.missing` where it does not exist.
        """
        path = f"{_API}/model-versions/get"
        answer = self._transport.get_json(path, {"name": name, "version": version}, max_bytes=MAX_PAGE_BYTES)
        entry = answer.get("model_version")
        return _entity(_read_version, {**entry, "tags": []} if isinstance(entry, Mapping) else entry)

    def mlmodel_place(self, version: ModelVersion) -> MlmodelPlace:
        """Tell where the MLmodel file of a version is; without a request.

        Raises:
            MlmodelUnreadable: It is nowhere that we could read.
        """
        parts = version.name.split(".")
        if len(parts) != _PARTS or not all(parts):
            raise MlmodelUnreadable("its name has not the three parts catalog.schema.model")
        return MlmodelPlace(
            "/".join([_FILES, *(quote(part, safe="") for part in (*parts, version.version)), "MLmodel"]), {}
        )

    def file_fault(self, error: RegistryRefused) -> RegistryError:
        """Tell what it means that the Files API refuses an MLmodel file."""
        if error.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
            return error
        return MlmodelUnreadable(
            f"the workspace's Files API does not have its MLmodel file (HTTP {error.status}), "
            "and the cloud store behind it is not read"
        )

    def _names(self) -> Listing[str]:
        pages = read_pages(
            self._transport,
            f"{_API}/registered-models/search",
            "registered_models",
            {"max_results": self._per_page},
        )
        models = read_listing(pages, read_registered_model, lambda model: model.name)
        return Listing(tuple(model.name for model in models.items), models.faults, models.pages)

    def _model(self, name: str) -> object:
        path = f"{_API}/registered-models/get"
        return self._transport.get_json(path, {"name": name}, max_bytes=MAX_PAGE_BYTES).get("registered_model")

    def _versions(self, name: str) -> list[object]:
        if "'" in name:
            raise EntityError("its name has a single quote, by which no filter can name it")
        path = f"{_API}/model-versions/search"
        # Single quotes: the real one refuses others.
        params: QueryParams = {"filter": f"name='{name}'", "max_results": self._per_page}
        return [entry for page in read_pages(self._transport, path, "model_versions", params) for entry in page]

    def _each(self, names: Iterable[str], read: Callable[[str], _Result]) -> tuple[Iterable[_Result], tuple[str, ...]]:
        """Read something of each model, several at once.

        A model that is gone meanwhile is left out, one that is not ours to read is a fault; with anything else the
        whole listing fails, so that no model is missing because of a passing failure.
        """
        faults: list[str] = []

        def read_one(name: str) -> list[_Result]:
            try:
                return [read(name)]
            except (EntityError, RegistryRefused) as error:
                if isinstance(error, RegistryRefused):
                    if error.missing:
                        return []
                    if error.status != HTTPStatus.FORBIDDEN:
                        raise
                faults.append(f'The registered model "{name}" can\'t be read: {error}.')
                return []

        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="unity-catalog")
        try:
            results = [result for found in pool.map(read_one, names) for result in found]
        finally:
            # After a failure the others need not be asked for.
            pool.shutdown(cancel_futures=True)
        return results, tuple(sorted(faults))


def _read_version(entry: object) -> ModelVersion:
    """Read a version; one without a status is not ready, since that is the default of its protocol."""
    if isinstance(entry, Mapping) and not entry.get("status"):
        entry = {**entry, "status": "UNSPECIFIED"}
    return read_model_version(entry)


def _entity(read: Callable[[object], _Result], entry: object) -> _Result:
    try:
        return read(entry)
    except EntityError as error:
        raise RegistryUnreadable(str(error)) from error
