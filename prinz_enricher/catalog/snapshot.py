"""What the registry offered at one moment: immutable values, and how they are assembled from what it lists."""

import hashlib
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from prinz_enricher.catalog.serving_rules import (
    DEFAULT_TAG,
    NO_OPTIONS,
    PolicyError,
    ServingOptions,
    parse_policy,
    read_serving_options,
)
from prinz_enricher.registry.entities import ARCHIVED, READY, ModelVersion, RegisteredModel
from prinz_enricher.signature.types import Signature


@dataclass(frozen=True)
class ModelFile:
    """What is known of a version from its MLmodel file: the signature if it can be read, and sorted flavours.

    A `fault` is a sentence without its subject; a file is `pending` if it was not read yet, or not for a passing
    reason. The loader is a module. `observed` is the signature with the outputs that the model was observed to return.
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
        declared: object = None
        if self.signature is not None:
            # The digest does not depend on the order that the parameters' defaults happen to have in memory.
            fields = (self.signature.inputs, self.signature.outputs)
            declared = (self.signature.digest, self.signature.origin.value, fields)
        observed = None if self.observed is None else self.observed.digest
        content = (declared, self.flavors, self.fault, self.pending, self.loader, observed)
        return hashlib.sha256(repr(content).encode()).digest()


# Of a version whose MLmodel file is not read, and of one whose file will be read soon.
NO_FILE = ModelFile(None)
NOT_READ = ModelFile(None, fault="was not read yet", pending=True)
# Name and number of a version, and what MLmodel files hold.
VersionKey = tuple[str, str]
Files = Mapping[VersionKey, ModelFile]


@dataclass(frozen=True, slots=True)
class CatalogVersion:
    """A version of a model, by the name under which that is served; what is not said here is as of `ModelVersion`.

    Texts that are not known are empty. The status is `READY`, or why the registry does not offer it yet; fault,
    `pending` and loader are those of its `ModelFile`. The signature is None where it can't be read, and of the origin
    MISSING where there is none. Its registry is called as in the settings, and its model there `registered_as`, if not
    as here.
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
    options: ServingOptions = NO_OPTIONS
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


@dataclass(frozen=True)
class CatalogModel:
    """A `RegisteredModel` with all its versions, highest number first.

    Its tag `prinz.default` is a policy of which version is meant where a caller names none; None without the tag. What
    is wrong with the model itself is a sentence without its subject. The fingerprint is a hash of the content, the
    signatures included.
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
        return next((one for one in self.versions if one.ready and one.stage != ARCHIVED), None)

    def latest_in(self, stage: str) -> CatalogVersion | None:
        """Return the READY version of the highest number in a stage, in any case; None where there is none."""
        return next((one for one in self.versions if one.ready and one.stage.lower() == stage.lower()), None)


@dataclass(frozen=True)
class Snapshot:
    """All that the registry offered at one moment, sorted by name, and what it listed that can't be read.

    The revision is a hash of the content: the same content has the same revision, on every machine.
    """

    revision: str
    models: Mapping[str, CatalogModel]
    faults: tuple[str, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The models' names, sorted."""
        return tuple(self.models)

    @cached_property
    def version_keys(self) -> frozenset[VersionKey]:
        """Name and number of every version."""
        return frozenset((model.name, number) for model in self.models.values() for number in model.by_number)

    @cached_property
    def views(self) -> dict[object, "Snapshot"]:
        """Parts of it, for whoever shows callers no more; kept here, they go when it does."""
        return {}


class Assembler:
    """Assembles one snapshot after the other; a model that did not change is the same object in all of them."""

    def __init__(self) -> None:
        # By name: what a model was assembled from, and the model. Who reads the registry keeps unchanged objects.
        self._made: dict[str, tuple[tuple[object, ...], CatalogModel]] = {}

    def assemble(
        self,
        models: Iterable[RegisteredModel],
        versions: Iterable[ModelVersion],
        files: Files,
        faults: Iterable[str] = (),
    ) -> Snapshot:
        """Return the snapshot of what the registry lists, with the files of versions that are READY.

        Versions without a model are left out: it was created or deleted meanwhile. `faults` are what can't be read.
        """
        grouped: dict[str, list[ModelVersion]] = defaultdict(list)
        for version in versions:
            grouped[version.name].append(version)
        self._made = {
            model.name: self._make(model, grouped.get(model.name, ()), files)
            for model in sorted(models, key=lambda model: model.name)
        }
        sorted_faults = tuple(sorted(faults))
        catalog = {name: model for name, (_, model) in self._made.items()}
        revision = hashlib.sha256(repr(sorted_faults).encode())
        for model in catalog.values():
            revision.update(model.fingerprint)
        return Snapshot(revision.hexdigest()[:32], catalog, sorted_faults)

    def _make(
        self, model: RegisteredModel, listed: Iterable[ModelVersion], files: Files
    ) -> tuple[tuple[object, ...], CatalogModel]:
        versions = sorted(listed, key=lambda version: int(version.version), reverse=True)
        read = [files.get((version.name, version.version), NO_FILE) for version in versions]
        parts = (model, *versions, *read)
        former = self._made.get(model.name)
        if former is not None and len(former[0]) == len(parts) and all(map(operator.is_, former[0], parts)):
            return former
        made = _make_model(model, versions, read)
        if former is not None and former[1].fingerprint == made.fingerprint:
            made = former[1]
        return parts, made


def _make_model(model: RegisteredModel, versions: list[ModelVersion], files: list[ModelFile]) -> CatalogModel:
    aliases: dict[str, list[str]] = defaultdict(list)
    for alias, number in model.aliases.items():
        aliases[number].append(alias)
    policy: tuple[str, ...] | None = None
    fault = ""
    if DEFAULT_TAG in model.tags:
        try:
            policy = parse_policy(model.tags[DEFAULT_TAG])
        except PolicyError as error:
            fault = f"has a tag {DEFAULT_TAG} that can't be used ({error}), so the service's own policy holds"
    made = CatalogModel(
        name=model.name,
        description=model.description,
        tags=dict(sorted(model.tags.items())),
        aliases=dict(sorted(model.aliases.items())),
        versions=tuple(
            _make_version(version, tuple(sorted(aliases[version.version])), file, model.tags)
            for version, file in zip(versions, files, strict=True)
        ),
        created_ms=model.created_ms,
        updated_ms=model.updated_ms,
        policy=policy,
        fault=fault,
    )
    # `repr` writes every part of these values but the signatures, and separates them.
    digest = hashlib.sha256(repr(made).encode())
    for file in files:
        digest.update(file.fingerprint)
    return replace(made, fingerprint=digest.digest())


def _make_version(
    version: ModelVersion, aliases: tuple[str, ...], file: ModelFile, model_tags: Mapping[str, str]
) -> CatalogVersion:
    fault, pending = file.fault, file.pending
    if version.status != READY:
        message = f": {version.status_message}" if version.status_message else ""
        fault, pending = f"is {version.status} in the registry{message}", False
    options = read_serving_options(version.tags, model_tags)
    return CatalogVersion(
        name=version.name,
        version=version.version,
        aliases=aliases,
        description=version.description,
        tags=dict(sorted(version.tags.items())),
        status=version.status,
        flavors=file.flavors,
        run_id=version.run_id,
        source=version.source,
        created_ms=version.created_ms,
        updated_ms=version.updated_ms,
        signature=file.observed if options.observed and file.observed is not None else file.signature,
        fault=fault,
        pending=pending,
        options=options,
        loader=file.loader,
        stage=version.stage,
    )
