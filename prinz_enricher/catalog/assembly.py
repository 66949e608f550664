"""Puts snapshots together from what the registry told; what did not change is the same object in all of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prinz_enricher.catalog.policy import DEFAULT_TAG, PolicyError, parse_policy
from prinz_enricher.catalog.snapshot import NO_FILE, CatalogModel, CatalogVersion, ModelFile, Snapshot
from prinz_enricher.catalog.wishes import read_wishes
from prinz_enricher.registry.entities import READY, ModelVersion, RegisteredModel

Files = Mapping[tuple[str, str], ModelFile]
"""What MLmodel files hold, by name and number of the version."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What a model was put together from."""

    model: RegisteredModel
    versions: tuple[ModelVersion, ...]
    files: tuple[ModelFile, ...]
    result: CatalogModel

    def is_of(self, model: RegisteredModel, versions: tuple[ModelVersion, ...], files: tuple[ModelFile, ...]) -> bool:
        """Tell whether these are the very same objects; who reads the registry keeps those that did not change."""
        return (
            self.model is model
            and len(self.versions) == len(versions)
            and all(mine is theirs for mine, theirs in zip(self.versions, versions, strict=True))
            and all(mine is theirs for mine, theirs in zip(self.files, files, strict=True))
        )


class Assembler:
    """Puts one snapshot together after the other."""

    def __init__(self, registry: str) -> None:
        """Know no snapshot yet.

        Args:
            registry: The registry's URL.
        """
        self._registry = registry
        self._parts: dict[str, _Part] = {}

    def assemble(
        self,
        models: Iterable[RegisteredModel],
        versions: Iterable[ModelVersion],
        files: Files,
        faults: Iterable[str] = (),
    ) -> Snapshot:
        """Put a snapshot together.

        Args:
            models: With the aliases.
            versions: Those of a model that is not among `models` are left out: it was created or deleted meanwhile.
            files: Only of versions that are READY.
            faults: What the registry told that can't be read.
        """
        grouped: dict[str, list[ModelVersion]] = defaultdict(list)
        for version in versions:
            grouped[version.name].append(version)
        parts = {
            model.name: self._part(model, grouped.get(model.name, ()), files)
            for model in sorted(models, key=lambda model: model.name)
        }
        self._parts = parts
        told = tuple(sorted(faults))
        catalog = {name: part.result for name, part in parts.items()}
        revision = hashlib.sha256(repr(told).encode())
        for model in catalog.values():
            revision.update(model.fingerprint)
        return Snapshot(self._registry, revision.hexdigest()[:32], catalog, told)

    def _part(self, model: RegisteredModel, listed: Iterable[ModelVersion], files: Files) -> _Part:
        versions = tuple(sorted(listed, key=lambda version: int(version.version), reverse=True))
        read = tuple(files.get((version.name, version.version), NO_FILE) for version in versions)
        former = self._parts.get(model.name)
        if former is not None and former.is_of(model, versions, read):
            return former
        result = _model(model, versions, read)
        if former is not None and former.result.fingerprint == result.fingerprint:
            result = former.result
        return _Part(model, versions, read, result)


def assemble(
    registry: str,
    models: Iterable[RegisteredModel],
    versions: Iterable[ModelVersion],
    files: Files,
    faults: Iterable[str] = (),
) -> Snapshot:
    """Put a single snapshot together; see `Assembler.assemble`."""
    return Assembler(registry).assemble(models, versions, files, faults)


def _model(model: RegisteredModel, versions: tuple[ModelVersion, ...], files: tuple[ModelFile, ...]) -> CatalogModel:
    aliases: dict[str, list[str]] = defaultdict(list)
    for alias, number in model.aliases.items():
        aliases[number].append(alias)
    policy, fault = _policy(model)
    result = CatalogModel(
        name=model.name,
        description=model.description,
        tags=model.tags,
        aliases=dict(sorted(model.aliases.items())),
        versions=tuple(
            _version(version, tuple(sorted(aliases[version.version])), file, model.tags)
            for version, file in zip(versions, files, strict=True)
        ),
        created_ms=model.created_ms,
        updated_ms=model.updated_ms,
        policy=policy,
        fault=fault,
    )
    return replace(result, fingerprint=_fingerprint(result, files))


def _policy(model: RegisteredModel) -> tuple[tuple[str, ...] | None, str]:
    """Return a model's own default policy, and what is amiss with it."""
    text = model.tags.get(DEFAULT_TAG)
    if text is None:
        return None, ""
    try:
        return parse_policy(text), ""
    except PolicyError as error:
        return None, f"has a tag {DEFAULT_TAG} that can't be used ({error}), so the service's own policy holds"


def _version(
    version: ModelVersion, aliases: tuple[str, ...], file: ModelFile, model_tags: Mapping[str, str]
) -> CatalogVersion:
    fault, pending = file.fault, file.pending
    if version.status != READY:
        told = f": {version.status_message}" if version.status_message else ""
        fault, pending = f"is {version.status} in the registry{told}", False
    wishes = read_wishes(version.tags, model_tags)
    return CatalogVersion(
        name=version.name,
        version=version.version,
        aliases=aliases,
        description=version.description,
        tags=version.tags,
        status=version.status,
        flavors=file.flavors,
        run_id=version.run_id,
        source=version.source,
        created_ms=version.created_ms,
        updated_ms=version.updated_ms,
        signature=file.observed if wishes.observed and file.observed is not None else file.signature,
        fault=fault,
        pending=pending,
        wishes=wishes,
        loader=file.loader,
        stage=version.stage,
    )


def _fingerprint(model: CatalogModel, files: tuple[ModelFile, ...]) -> bytes:
    """Hash the content; `repr` writes every part of these values, and separates them."""
    head = (model.name, model.description, sorted(model.tags.items()), sorted(model.aliases.items()))
    digest = hashlib.sha256(repr((head, model.created_ms, model.updated_ms)).encode())
    for version, file in zip(model.versions, files, strict=True):
        own = (version.version, version.description, sorted(version.tags.items()), version.status)
        rest = (version.run_id, version.source, version.created_ms, version.updated_ms, version.fault, version.stage)
        digest.update(repr((own, rest)).encode())
        digest.update(file.fingerprint)
    return digest.digest()
