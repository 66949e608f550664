"""The catalogs of several registries as one: each model under its registry's prefix."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from prinz_enricher.catalog.catalog import Catalog, CatalogState
from prinz_enricher.catalog.publisher import Listener, Publisher, Subscriber, Watch
from prinz_enricher.catalog.snapshot import CatalogModel, CatalogVersion, Snapshot
from prinz_enricher.errors import RegistryUnavailable

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """One of the registries.

    Attributes:
        name: What the settings call it; empty for the one that has no name.
        prefix: Put before the name of each of its models; empty for none.
        url: Where it is, without user and password.
        catalog: What it offers.
    """

    name: str
    prefix: str
    url: str
    catalog: Catalog


class Union:
    """What all registries offer, answered from memory.

    A registry that was never read hides nothing but its own models; which those are its prefix tells.

    Attributes:
        ready: Set once there is a snapshot, and every registry is known or was looked at.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Read nothing yet.

        Args:
            members: Each with a name and a prefix of its own. Where two models have the same name all the same, that of
                the first is served, and the other is a fault.
        """
        self.ready = threading.Event()
        self._members = {member.name: member for member in members}
        self._publisher = Publisher()
        # The first of the subscribers, so that the others find it set.
        self._publisher.subscribe(lambda _old, _new: self.ready.set())
        self._merging = threading.Lock()
        self._renamed: dict[tuple[str, str], tuple[CatalogModel, CatalogModel]] = {}
        self._hidden: set[str] = set()
        for member in members:
            member.catalog.subscribe(lambda _old, _new: self._merge())
            member.catalog.subscribe_looks(self._merge)

    def start(self) -> None:
        """Begin to look at the registries."""
        for member in self._members.values():
            member.catalog.start()

    def stop(self) -> None:
        """Look no more. The last snapshot stays."""
        for member in self._members.values():
            member.catalog.stop()

    @property
    def members(self) -> tuple[Member, ...]:
        """The registries, in the order of the settings."""
        return tuple(self._members.values())

    @property
    def stale(self) -> bool:
        """Whether one of the registries could not be read the last time, or was not read yet."""
        return any(member.catalog.stale for member in self._members.values())

    def states(self) -> Mapping[str, CatalogState]:
        """Tell how each catalog fares, by the name of its registry."""
        return {name: member.catalog.state() for name, member in self._members.items()}

    def member_of(self, version: CatalogVersion) -> Member:
        """Return the registry that a version is of."""
        return self._members[version.registry]

    def url_of(self, version: CatalogVersion) -> str:
        """Return where the registry is that a version is of, without user and password."""
        return self.member_of(version).url

    def copy(self) -> Publisher:
        """Return what readers have of it, for another process."""
        return self._publisher.copy()

    @property
    def current(self) -> Snapshot | None:
        """The last good snapshots as one; None where there is none."""
        return self._publisher.current

    def snapshot(self) -> Snapshot:
        """Return the last good snapshots as one.

        Raises:
            RegistryUnavailable: No registry is known, or one was not looked at yet.
        """
        snapshot = self._publisher.current
        if snapshot is None:
            raise self._unavailable(next(iter(self._members.values())))
        return snapshot

    def unknown(self, name: str) -> RegistryUnavailable | None:
        """Tell why a model that is not listed may be there all the same: its registry was never read."""
        for member in self._members.values():
            if name.startswith(member.prefix) and member.catalog.current is None:
                return self._unavailable(member)
        return None

    def find(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a revision of the last minute; None where it is not known any more."""
        return self._publisher.find(revision)

    def age(self) -> float:
        """Return how many seconds ago the registry was read whose last reading is the oldest; of those that are known.

        Raises:
            RegistryUnavailable: None has ever been.
        """
        self.snapshot()
        return max(member.catalog.age() for member in self._members.values() if member.catalog.current is not None)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Have a function called with the old and the new snapshot after each change; as `Catalog.subscribe`."""
        return self._publisher.subscribe(subscriber)

    def watch(self, token: str, listener: Listener) -> Watch:
        """Begin a watch, or resume one; as `Catalog.watch`."""
        self.snapshot()
        return self._publisher.watch(token, listener)

    def subscribe_looks(self, subscriber: Callable[[], None]) -> None:
        """Have a function called when a registry can be read again, or no more; as `Catalog.subscribe_looks`."""
        for member in self._members.values():
            member.catalog.subscribe_looks(subscriber)

    def hasten(self) -> None:
        """Have all registries looked at soon; never blocks."""
        for member in self._members.values():
            member.catalog.hasten()

    def want(self, version: CatalogVersion) -> None:
        """Have a signature that was not read yet read before others; never blocks."""
        if version.pending:
            self.member_of(version).catalog.want(replace(version, name=version.registered_name))

    def _unavailable(self, member: Member) -> RegistryUnavailable:
        return RegistryUnavailable(member.url, member.catalog.state().fault)

    def _merge(self) -> None:
        """Publish what is known now; called by the threads that refresh."""
        with self._merging:
            known = [(member, member.catalog.current) for member in self._members.values()]
            snapshots = [(member, snapshot) for member, snapshot in known if snapshot is not None]
            # A list without the models of a registry that is only slow would tell callers that those are gone.
            if snapshots and all(member.catalog.looked or snapshot is not None for member, snapshot in known):
                old, new = self._publisher.current, self._merged(snapshots)
                if self._publisher.publish(new) is not old:
                    _log.info("catalog changed", models=len(new.models), revision=new.revision)

    def _merged(self, snapshots: Sequence[tuple[Member, Snapshot]]) -> Snapshot:
        if len(self._members) == 1 and not snapshots[0][0].prefix and not snapshots[0][0].name:
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
        urls = ", ".join(member.url for member, _ in snapshots)
        return Snapshot(urls, revision, dict(sorted(models.items())), tuple(sorted([*faults, *hidden])))


def _renamed(model: CatalogModel, member: Member) -> CatalogModel:
    """Return a model under the name by which it is served."""
    name = member.prefix + model.name
    versions = tuple(
        replace(version, name=name, registry=member.name, registered_as=model.name) for version in model.versions
    )
    told = hashlib.sha256(repr((member.name, name)).encode() + model.fingerprint).digest()
    return replace(model, name=name, versions=versions, fingerprint=told)
