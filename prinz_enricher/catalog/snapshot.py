"""What the registry offered at one moment: immutable values, put together from what it told of models and versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from prinz_enricher.catalog.wishes import NO_WISHES, Wishes
from prinz_enricher.registry.entities import ARCHIVED, READY
from prinz_enricher.signature.types import Signature


@dataclass(frozen=True)
class ModelFile:
    """What is known of a version from its MLmodel file.

    Attributes:
        signature: None where it can't be read.
        flavors: MLflow's flavors, sorted.
        fault: What is amiss; empty where all is well.
        pending: Whether the file was not read yet, or not for a passing reason.
        loader: The module that loads the model; empty where none is named.
        observed: Its signature with the outputs that the model was seen to give; None where none were.
    """

    signature: Signature | None
    flavors: tuple[str, ...] = ()
    fault: str = ""
    pending: bool = False
    loader: str = ""
    observed: Signature | None = None

    @cached_property
    def fingerprint(self) -> bytes:
        """A hash of the content; made once, because a signature is large beside what else there is of a version."""
        told: object = None
        if self.signature is not None:
            # The digest writes the parameters without the order that their defaults happen to have in memory.
            fields = (self.signature.inputs, self.signature.outputs)
            told = (self.signature.digest, self.signature.origin.value, fields)
        seen = None if self.observed is None else self.observed.digest
        return hashlib.sha256(repr((told, self.flavors, self.fault, self.pending, self.loader, seen)).encode()).digest()


NO_FILE = ModelFile(None)
"""Of a version whose MLmodel file is not looked at."""

NOT_READ = ModelFile(None, fault="was not read yet", pending=True)
"""Of a version whose MLmodel file will be looked at soon."""


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
        pending: Whether its signature may be there soon: its file was not read yet, or not for a passing reason.
        registry: What the settings call the registry that it is of; empty for the one without a name.
        registered_as: Its model's name in that registry, where it is served under another; else empty.
        wishes: What its tags, or else its model's, wish of how it is served.
        loader: The module that loads it; empty where that is not known.
        stage: Its stage, such as `Production`; empty where its registry knows no stages.
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
    pending: bool = False
    registry: str = ""
    registered_as: str = ""
    wishes: Wishes = NO_WISHES
    loader: str = ""
    stage: str = ""

    @property
    def registered_name(self) -> str:
        """Its model's name in its registry."""
        return self.registered_as or self.name

    @property
    def ready(self) -> bool:
        """Whether the registry offers it."""
        return self.status == READY

    @property
    def archived(self) -> bool:
        """Whether it is in the stage of those that are out of use."""
        return self.stage == ARCHIVED


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
        policy: Which version is meant where a caller names none, by its tag `prinz.default`; None where it has none.
        fault: What is amiss with the model itself, as a sentence without its subject; empty where all is well.
        fingerprint: A hash of the content, the signatures included.
    """

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]
    versions: tuple[CatalogVersion, ...]
    created_ms: int
    updated_ms: int
    policy: tuple[str, ...] | None = None
    fault: str = ""
    fingerprint: bytes = field(default=b"", compare=False, repr=False)

    @cached_property
    def by_number(self) -> Mapping[str, CatalogVersion]:
        """The versions by their numbers."""
        return {version.version: version for version in self.versions}

    @cached_property
    def latest_ready(self) -> CatalogVersion | None:
        """The READY version of the highest number that is not archived; None where there is none."""
        return next((version for version in self.versions if version.ready and not version.archived), None)

    def latest_in(self, stage: str) -> CatalogVersion | None:
        """Return the READY version of the highest number in a stage, in any case; None where there is none."""
        return next((one for one in self.versions if one.ready and one.stage.lower() == stage.lower()), None)


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
