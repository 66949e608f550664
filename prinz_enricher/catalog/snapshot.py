"""What the registry offered at one moment: immutable values, put together from what it told of models and versions."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from prinz_enricher.registry.entities import READY, ModelVersion, RegisteredModel
from prinz_enricher.signature.types import Signature


@dataclass(frozen=True)
class ModelFile:
    """What is known of a version from its MLmodel file.

    Attributes:
        signature: None where it can't be read.
        flavors: MLflow's flavors, sorted.
        fault: What is amiss; empty where all is well.
    """

    signature: Signature | None
    flavors: tuple[str, ...] = ()
    fault: str = ""

    @cached_property
    def fingerprint(self) -> bytes:
        """A hash of the content; made once, because a signature is large beside what else there is of a version."""
        return hashlib.sha256(repr((self.signature, self.flavors, self.fault)).encode()).digest()


NO_FILE = ModelFile(None)
"""Of a version whose MLmodel file is not looked at."""


@dataclass(frozen=True, slots=True)
class CatalogVersion:
    """A version of a model.

    Attributes:
        name: The model's name.
        version: Its number as text, such as `3`.
        aliases: Those that point to it, sorted.
        description: What its author said of it; may be empty.
        tags: Its tags.
        status: `READY`, or why the registry does not offer it yet.
        flavors: MLflow's flavors of it, sorted.
        run_id: The run that made it; may be empty.
        source: Where the registry says that its files are.
        created_ms: When it was registered, in milliseconds since the epoch.
        updated_ms: When the registry last changed it.
        signature: None where it can't be read; of the origin MISSING where the version has none.
        fault: What is amiss, as a sentence without its subject; empty where all is well.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    description: str
    tags: Mapping[str, str]
    status: str
    flavors: tuple[str, ...]
    run_id: str
    source: str
    created_ms: int
    updated_ms: int
    signature: Signature | None = field(repr=False)
    fault: str = ""

    @property
    def ready(self) -> bool:
        """Whether the registry offers it."""
        return self.status == READY


@dataclass(frozen=True)
class CatalogModel:
    """A registered model with all its versions.

    Attributes:
        name: Unique in the snapshot.
        description: What its author said of it; may be empty.
        tags: Its tags.
        aliases: Alias to version number.
        versions: Highest number first.
        created_ms: When it was registered, in milliseconds since the epoch.
        updated_ms: When the registry last changed it; setting an alias or a tag does not move it.
    """

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]
    versions: tuple[CatalogVersion, ...]
    created_ms: int
    updated_ms: int

    @cached_property
    def by_number(self) -> Mapping[str, CatalogVersion]:
        """The versions by their numbers."""
        return {version.version: version for version in self.versions}

    @cached_property
    def latest_ready(self) -> CatalogVersion | None:
        """The READY version of the highest number; None where there is none."""
        return next((version for version in self.versions if version.ready), None)


@dataclass(frozen=True)
class Snapshot:
    """All that the registry offered at one moment.

    Attributes:
        registry: The registry's URL, without user and password.
        revision: A hash of the content: the same content has the same revision, on every machine.
        models: By name, sorted by name.
        faults: What the registry told that can't be read, and so is not in `models`.
    """

    registry: str
    revision: str
    models: Mapping[str, CatalogModel]
    faults: tuple[str, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The models' names, sorted."""
        return tuple(self.models)


def assemble(
    registry: str,
    models: Iterable[RegisteredModel],
    versions: Iterable[ModelVersion],
    files: Mapping[tuple[str, str], ModelFile],
    faults: Iterable[str] = (),
) -> Snapshot:
    """Put a snapshot together.

    Args:
        registry: The registry's URL.
        models: With the aliases.
        versions: Those of a model that is not among `models` are left out: it was created or deleted meanwhile.
        files: By name and number of the version; only of those that are READY.
        faults: What the registry told that can't be read.
    """
    grouped: dict[str, list[ModelVersion]] = defaultdict(list)
    for version in versions:
        grouped[version.name].append(version)
    catalog = {
        model.name: _model(model, grouped.get(model.name, ()), files)
        for model in sorted(models, key=lambda model: model.name)
    }
    told = tuple(sorted(faults))
    return Snapshot(registry, _revision(catalog.values(), files, told), catalog, told)


def _model(
    model: RegisteredModel, versions: Iterable[ModelVersion], files: Mapping[tuple[str, str], ModelFile]
) -> CatalogModel:
    aliases: dict[str, list[str]] = defaultdict(list)
    for alias, number in model.aliases.items():
        aliases[number].append(alias)
    descending = sorted(versions, key=lambda version: int(version.version), reverse=True)
    return CatalogModel(
        name=model.name,
        description=model.description,
        tags=model.tags,
        aliases=dict(sorted(model.aliases.items())),
        versions=tuple(
            _version(version, tuple(sorted(aliases[version.version])), files.get((version.name, version.version)))
            for version in descending
        ),
        created_ms=model.created_ms,
        updated_ms=model.updated_ms,
    )


def _version(version: ModelVersion, aliases: tuple[str, ...], file: ModelFile | None) -> CatalogVersion:
    read = file or NO_FILE
    fault = read.fault
    if version.status != READY:
        told = f": {version.status_message}" if version.status_message else ""
        fault = f"is {version.status} in the registry{told}"
    return CatalogVersion(
        name=version.name,
        version=version.version,
        aliases=aliases,
        description=version.description,
        tags=version.tags,
        status=version.status,
        flavors=read.flavors,
        run_id=version.run_id,
        source=version.source,
        created_ms=version.created_ms,
        updated_ms=version.updated_ms,
        signature=read.signature,
        fault=fault,
    )


def _revision(
    models: Iterable[CatalogModel], files: Mapping[tuple[str, str], ModelFile], faults: tuple[str, ...]
) -> str:
    """Hash the content; `repr` writes every part of these values, and separates them."""
    digest = hashlib.sha256(repr(faults).encode())
    for model in models:
        head = (model.name, model.description, sorted(model.tags.items()), sorted(model.aliases.items()))
        digest.update(repr((head, model.created_ms, model.updated_ms)).encode())
        for version in model.versions:
            own = (version.version, version.description, sorted(version.tags.items()), version.status)
            rest = (version.run_id, version.source, version.created_ms, version.updated_ms, version.fault)
            digest.update(repr((own, rest)).encode())
            digest.update(files.get((version.name, version.version), NO_FILE).fingerprint)
    return digest.hexdigest()[:32]
