"""The catalogs of several registries as one: each model under its registry's prefix."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from prinz_enricher.catalog.catalog import Catalog, CatalogState
from prinz_enricher.catalog.publisher import Publisher
from prinz_enricher.catalog.snapshot import CatalogModel, CatalogVersion, Snapshot
from prinz_enricher.errors import RegistryUnavailable

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """One of the registries: its name in the settings, what precedes its models' names, its URL without login."""

    name: str
    prefix: str
    url: str
    catalog: Catalog


class Union(Publisher):
    """What all registries offer, answered from memory, once every registry is known or had a refresh.

    A registry that was never read hides only its own models, which have its prefix. Where two models have the same
    name in spite of prefixes, that of the first member is served, and the other is a fault.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = tuple(members)
        self._merging = threading.Lock()
        # By registry and name: a model, and the same as it is served.
        self._renamed: dict[tuple[str, str], tuple[CatalogModel, CatalogModel]] = {}
        self._hidden: set[str] = set()
        for member in members:
            member.catalog.subscribe(lambda _old, _new: self._merge())
            member.catalog.on_stale_change(self._merge)

    def start(self) -> None:
        """Begin to read the registries."""
        for member in self.members:
            member.catalog.start()

    def stop(self) -> None:
        """Stop reading the registries; the last snapshot stays."""
        for member in self.members:
            member.catalog.stop()

    @property
    def stale(self) -> bool:
        """Whether the last refresh of a registry failed, or there was none yet."""
        return any(member.catalog.stale for member in self.members)

    def states(self) -> Mapping[str, CatalogState]:
        """Return the state of each catalog, by the name of its registry."""
        return {member.name: member.catalog.state() for member in self.members}

    def url_of(self, version: CatalogVersion) -> str:
        """Return where the registry of a version is, without user and password."""
        return self._member_of(version).url

    def unknown(self, name: str) -> RegistryUnavailable | None:
        """Return why a model that is not listed may exist all the same: its registry was never read."""
        for member in self.members:
            if name.startswith(member.prefix) and member.catalog.current is None:
                return _unavailable(member)
        return None

    def age(self) -> float:
        """Return the `Catalog.age` of the registry, among those that are known, whose last good read is the oldest."""
        self.snapshot()
        return max(member.catalog.age() for member in self.members if member.catalog.current is not None)

    def on_stale_change(self, callback: Callable[[], None]) -> None:
        """Have a function called when the `stale` of a registry changes; see `Catalog.on_stale_change`."""
        for member in self.members:
            member.catalog.on_stale_change(callback)

    def request_refresh(self) -> None:
        """Request a refresh of all registries soon; never blocks."""
        for member in self.members:
            member.catalog.request_refresh()

    def prioritize(self, version: CatalogVersion) -> None:
        """Have a signature that was not read yet read before others; never blocks."""
        if version.pending:
            self._member_of(version).catalog.prioritize(replace(version, name=version.registered_name))

    def _member_of(self, version: CatalogVersion) -> Member:
        return next(member for member in self.members if member.name == version.registry)

    def _unavailable(self) -> RegistryUnavailable:
        return _unavailable(self.members[0])

    def _merge(self) -> None:
        """Publish what is known now; called by the threads that refresh."""
        with self._merging:
            known = [(member, member.catalog.current) for member in self.members]
            snapshots = [(member, snapshot) for member, snapshot in known if snapshot is not None]
            # A list without the models of a registry that is only slow would say to callers that those are gone.
            if snapshots and all(member.catalog.refreshed or snapshot is not None for member, snapshot in known):
                old, new = self.current, self._merged(snapshots)
                if self.publish(new) is not old:
                    _log.info("catalog changed", models=len(new.models), revision=new.revision)

    def _merged(self, snapshots: Sequence[tuple[Member, Snapshot]]) -> Snapshot:
        if len(self.members) == 1 and not snapshots[0][0].prefix and not snapshots[0][0].name:
            return snapshots[0][1]
        models: dict[str, CatalogModel] = {}
        faults: list[str] = []
        hidden: set[str] = set()
        renamed: dict[tuple[str, str], tuple[CatalogModel, CatalogModel]] = {}
        for member, snapshot in snapshots:
            faults += snapshot.faults
            for name, model in snapshot.models.items():
                key = (member.name, name)
                kept = self._renamed.get(key)
                served = kept[1] if kept is not None and kept[0] is model else _renamed(model, member)
                renamed[key] = (model, served)
                if served.name in models:
                    hidden.add(f'The model "{name}" of the registry "{member.name}" is hidden by one of another.')
                else:
                    models[served.name] = served
        for fault in hidden - self._hidden:
            _log.warning("model is hidden", fault=fault)
        self._renamed, self._hidden = renamed, hidden
        parts = repr([(member.name, member.prefix, snapshot.revision) for member, snapshot in snapshots])
        revision = hashlib.sha256(parts.encode()).hexdigest()[:32]
        return Snapshot(revision, dict(sorted(models.items())), tuple(sorted([*faults, *hidden])))


def _unavailable(member: Member) -> RegistryUnavailable:
    return RegistryUnavailable(member.url, member.catalog.state().fault)


def _renamed(model: CatalogModel, member: Member) -> CatalogModel:
    """Return a model under the name by which it is served."""
    name = member.prefix + model.name
    versions = tuple(
        replace(version, name=name, registry=member.name, registered_as=model.name) for version in model.versions
    )
    fingerprint = hashlib.sha256(repr((member.name, name)).encode() + model.fingerprint).digest()
    return replace(model, name=name, versions=versions, fingerprint=fingerprint)
