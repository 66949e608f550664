"""A complete reading of the models and versions that the registry lists.

MLflow's page tokens are offsets, and its lists come in several requests. So a list may leave out what is there: where
one entity is deleted between two pages, another moves from a page not read yet to one that was. And models and versions
are not of the same moment. So a former entity is believed to be gone only when the registry says so of that entity, or
when a second list has all that the first one had: what hid an entity in the first is missing in the second.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from prinz_enricher.catalog.serving_rules import Selection
from prinz_enricher.catalog.snapshot import VersionKey
from prinz_enricher.registry.entities import Listing, ModelVersion, RegisteredModel
from prinz_enricher.registry.registry_client import RegistryClient
from prinz_enricher.registry.registry_errors import (
    RegistryError,
    RegistryRefused,
    RegistryUnreachable,
    RegistryUnreadable,
)

MAX_ASKED = 50  # How many entities are requested one by one; where more are in doubt, the list is read again.
MAX_LISTS = 6  # How often a list is read until it is the same twice.
_PROMPT_TAG = "mlflow.prompt.is_prompt"
_log = structlog.get_logger(__name__)
K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """The served models that the registry listed with all their versions, and what it lists that can't be read.

    Entities that did not change are the same objects as in the reading before. Of `hidden` models it lists versions,
    but neither lists nor returns the models.
    """

    models: Mapping[str, RegisteredModel]
    versions: Mapping[VersionKey, ModelVersion]
    faults: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()


def read_registry(client: RegistryClient, former: Reading | None = None, selection: Selection | None = None) -> Reading:
    """Read all models and versions, and keep those of the selection; raises RegistryError if incomplete."""

    def request_model(name: str) -> RegisteredModel | None:
        model = client.registered_model(name)
        return None if model.tags.get(_PROMPT_TAG) == "true" else model

    admits = (selection or Selection()).admits
    known = former or Reading({}, {})
    # Models first: an alias that moves to a new version between the two requests still points to the old one then,
    # never to a version that is not there.
    model_list = _List(client.registered_models, request_model, lambda model: model.name)
    models = model_list.read(known.models, first=former is None)
    version_list = _List(
        client.model_versions, lambda key: client.model_version(*key), lambda version: (version.name, version.version)
    )
    # A version is gone with its model, so it is not requested where that is gone.
    wanted = {key: version for key, version in known.versions.items() if version.name in models}
    versions = version_list.read(wanted, first=former is None)

    unlisted = {name for name, _ in versions if name not in models}
    # One that was created just now is listed the next time; the others may be hidden from us, which need not be
    # requested with each reading.
    models |= model_list.look_up(unlisted - known.hidden, known.models)
    torn = _torn(models, versions, known) | {name for name, _ in version_list.lost if name in models}
    for name, model in model_list.request(torn, models).items():
        if model is None:
            del models[name]
        else:
            models[name] = model
            # It may be newer than the list of versions now.
            pointed = {(name, number) for number in model.aliases.values()} - versions.keys()
            versions |= version_list.look_up(pointed, known.versions)

    served = {name: known.models[name] if known.models.get(name) == m else m for name, m in models.items() if admits(m)}
    return Reading(
        served,
        {
            key: known.versions[key] if known.versions.get(key) == version else version
            for key, version in versions.items()
            if version.name in served
        },
        (*model_list.faults, *version_list.faults),
        frozenset(unlisted - models.keys()),
    )


def select(reading: Reading, selection: Selection) -> Reading:
    """Return what of a reading is served."""
    models = {name: model for name, model in reading.models.items() if selection.admits(model)}
    versions = {key: version for key, version in reading.versions.items() if version.name in models}
    return Reading(models, versions, reading.faults)


def most_needed(reading: Reading) -> set[VersionKey]:
    """Return the versions that calls most likely mean: those with an alias, and the newest of each model."""
    newest: dict[str, int] = {}
    for name, number in reading.versions:
        newest[name] = max(newest.get(name, 0), int(number))
    pointed = {(name, number) for name, model in reading.models.items() for number in model.aliases.values()}
    return pointed | {(name, str(number)) for name, number in newest.items()}


def _torn(
    models: Mapping[str, RegisteredModel], versions: Mapping[VersionKey, ModelVersion], known: Reading
) -> set[str]:
    """Return the models that may be older than their versions: deleted, renamed or changed between the two lists.

    An alias that points to nothing, and did so before, is what the registry says of it.
    """
    lost = {name for name, number in known.versions if name in models and (name, number) not in versions}
    for name, model in models.items():
        former = known.models.get(name)
        for alias, number in model.aliases.items():
            was_so_before = former is not None and former.aliases.get(alias) == number
            was_there = (name, number) in known.versions
            if (name, number) not in versions and (was_there or not was_so_before):
                lost.add(name)
    return lost


class _List(Generic[K, T]):
    """One of the registry's lists, read until it is complete."""

    def __init__(
        self, list_all: Callable[[], Listing[T]], request_one: Callable[[K], T | None], key_of: Callable[[T], K]
    ) -> None:
        self.faults: tuple[str, ...] = ()
        # What was there when the reading began, and no more when it ended.
        self.lost: set[K] = set()
        self._list_all = list_all
        self._request_one = request_one
        self._key_of = key_of

    def read(self, known: Mapping[K, T], *, first: bool) -> dict[K, T]:
        """Read the list, and make sure of what is missing of what was known."""
        items, pages = self._once()
        missing = [key for key in known if key not in items]
        # At first a list of several pages can't be compared with anything.
        if (first and pages > 1) or len(missing) > MAX_ASKED:
            return self._until_same(items)
        return items | self.look_up(missing, known)

    def look_up(self, keys: Collection[K], known: Mapping[K, T]) -> dict[K, T]:
        """Return what is there of some entities that the list did not have."""
        return {key: item for key, item in self.request(keys, known).items() if item is not None}

    def request(self, keys: Collection[K], known: Mapping[K, T]) -> dict[K, T | None]:
        """Request entities one by one; None for one that is gone, or hidden from us.

        Where many are in doubt the list is read again instead. One for which there is no good answer is as it was.
        """
        if len(keys) > MAX_ASKED:
            items = self._until_same(self._once()[0])
            return {key: items.get(key) for key in keys}
        found: dict[K, T | None] = {}
        for key in keys:
            try:
                found[key] = self._request_one(key)
            except RegistryUnreachable:
                raise
            except RegistryError as error:
                if isinstance(error, RegistryRefused) and (error.missing or error.forbidden):
                    found[key] = None
                    continue
                _log.warning("registry does not say whether an entity exists", entity=key, fault=str(error))
                if key in known:
                    found[key] = known[key]
        return found

    def _once(self) -> tuple[dict[K, T], int]:
        listing = self._list_all()
        self.faults = listing.faults
        return {self._key_of(item): item for item in listing.items}, listing.pages

    def _until_same(self, items: dict[K, T]) -> dict[K, T]:
        """Read the list until nothing is missing in it that the one before had."""
        seen = dict(items)
        for _ in range(MAX_LISTS - 1):
            former, (items, _) = items, self._once()
            seen |= items
            if former.keys() <= items.keys():
                break
        else:
            missing = [key for key in seen if key not in items]
            if len(missing) > MAX_ASKED:
                raise RegistryUnreadable(f"entities are missing in a list that had them just before, {MAX_LISTS} times")
            items |= self.look_up(missing, seen)
        self.lost = seen.keys() - items.keys()
        return items
