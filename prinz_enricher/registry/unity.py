"""Reads the models of a Unity Catalog (Databricks) over its REST API.

It has no filter and no order for models, returns aliases and tags only model by model, lists versions only by
`name='…'`, and has no stages. MLmodel files are read through the workspace's Files API, from the same host; the cloud
stores behind it are not read.
"""

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
from prinz_enricher.registry.mlmodel import MLMODEL, MlmodelFile, MlmodelPlace
from prinz_enricher.registry.registry_client import RegistryClient
from prinz_enricher.registry.registry_errors import MlmodelUnreadable, RegistryError, RegistryRefused
from prinz_enricher.registry.transport import QueryParams

_API = "/api/2.0/mlflow/unity-catalog"
_FILES = "/api/2.0/fs/files/Models"
_PARTS = 3
_THREADS = 8
_ENTRIES_PER_PAGE = 100  # What MLflow's own client asks for.
_Result = TypeVar("_Result")


class UnityClient(RegistryClient):
    """Reads the Unity Catalog of one Databricks workspace; thread-safe."""

    def registered_models(self) -> Listing[RegisteredModel]:
        """Read all models that we may see, with their aliases."""
        names = self._names()
        answers, faults = self._read_each(names.items, self._model)
        listing = read_listing([answers], read_registered_model, lambda model: model.name)
        return Listing(listing.items, (*names.faults, *faults, *listing.faults), names.pages)

    def model_versions(self) -> Listing[ModelVersion]:
        """Read all versions of all models that we may see; without their tags, which have no listing."""
        # The faults of the names are those of the models.
        names = self._names()
        pages, faults = self._read_each(names.items, self._versions)
        listing = read_listing(pages, _read_version, lambda version: (version.name, version.version))
        return Listing(listing.items, (*faults, *listing.faults), names.pages)

    def registered_model(self, name: str) -> RegisteredModel:
        """Read one model with its aliases."""
        return read_registered_model(self._model(name))

    def model_version(self, name: str, version: str) -> ModelVersion:
        """Read one version; without its tags, as in the list."""
        answer = self._transport.get_json(f"{_API}/model-versions/get", {"name": name, "version": version})
        entry = answer.get("model_version")
        return _read_version({**entry, "tags": []} if isinstance(entry, Mapping) else entry)

    def mlmodel_place(self, version: ModelVersion) -> MlmodelPlace:
        """Return where the MLmodel file of a version is; without a request."""
        parts = version.name.split(".")
        if len(parts) != _PARTS or not all(parts):
            raise MlmodelUnreadable("its name has not the three parts catalog.schema.model")
        path = "/".join(quote(part, safe="") for part in (*parts, version.version, MLMODEL))
        return MlmodelPlace(f"{_FILES}/{path}", {})

    def mlmodel_at(self, place: MlmodelPlace, known: MlmodelFile | None = None) -> MlmodelFile:
        """Read an MLmodel file, as other registries do."""
        try:
            return super().mlmodel_at(place, known)
        except RegistryRefused as error:
            if error.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
                raise
            fault = f"the workspace's Files API does not have its MLmodel file (HTTP {error.status}), "
            raise MlmodelUnreadable(fault + "and the cloud store behind it is not read") from error

    def folder_uri(self, name: str, version: str) -> str:
        """Return the only URI by which MLflow's own client gets credentials for the files of a version."""
        return f"models:/{name}/{version}"

    def _names(self) -> Listing[str]:
        path = f"{_API}/registered-models/search"
        pages = self._transport.get_pages(path, "registered_models", {"max_results": _ENTRIES_PER_PAGE})
        models = read_listing(pages, read_registered_model, lambda model: model.name)
        return Listing(tuple(model.name for model in models.items), models.faults, models.pages)

    def _model(self, name: str) -> object:
        return self._transport.get_json(f"{_API}/registered-models/get", {"name": name}).get("registered_model")

    def _versions(self, name: str) -> list[object]:
        if "'" in name:
            raise EntityError("its name has a single quote, which no filter can express")
        # In single quotes: the real one refuses others.
        params: QueryParams = {"filter": f"name='{name}'", "max_results": _ENTRIES_PER_PAGE}
        pages = self._transport.get_pages(f"{_API}/model-versions/search", "model_versions", params)
        return [entry for page in pages for entry in page]

    def _read_each(
        self, names: Iterable[str], read: Callable[[str], _Result]
    ) -> tuple[Iterable[_Result], tuple[str, ...]]:
        """Read something of each model, several at once; return the results, and faults.

        A model that is gone meanwhile is left out, one that we may not read is a fault; anything else fails the whole
        listing, so that no model is missing because of a transient failure.
        """
        faults: list[str] = []

        def read_one(name: str) -> list[_Result]:
            try:
                return [read(name)]
            except RegistryError as error:
                if error.missing:
                    return []
                if not (error.forbidden or isinstance(error, EntityError)):
                    raise
                faults.append(f'The registered model "{name}" can\'t be read: {error}.')
                return []

        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="unity-catalog")
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
