"""The catalog of a front process, and which version serves an alias: as the main process knows them, a moment later."""

from __future__ import annotations

import itertools
import threading
import time

from prinz_enricher.catalog import CatalogModel, CatalogVersion, Listener, Publisher, Snapshot, Watch
from prinz_enricher.errors import RegistryUnavailable, ResyncRequired
from prinz_enricher.service.processes.begin import Alias, CatalogChange, Registry
from prinz_enricher.service.processes.frames import Kind
from prinz_enricher.service.processes.sender import Sender

SYNC_SECONDS = 2.0
"""How long a call waits for what the main process knows already; it takes a few milliseconds."""


class CatalogReplica:
    """A `CatalogView` that the main process keeps.

    A token that another process gave may be of a snapshot that is still on its way to this one. Before such a token is
    refused, the main process is asked for all that it knows.

    Args:
        publisher: What there is, and was of late.
        registries: All of them.
        sender: To the main process.
    """

    def __init__(self, publisher: Publisher, registries: tuple[Registry, ...], sender: Sender) -> None:
        self._publisher = publisher
        self._registries = registries
        self._sender = sender
        self._numbers = itertools.count(1)
        self._awaited: dict[int, threading.Event] = {}

    def snapshot(self) -> Snapshot:
        """Return the last good snapshot; raises RegistryUnavailable."""
        snapshot = self._publisher.current
        if snapshot is None:
            raise _unavailable(self._registries[0])
        return snapshot

    def find(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a revision of the last minute; None where it is not known any more."""
        found = self._publisher.find(revision)
        if found is None and self._sync():
            found = self._publisher.find(revision)
        return found

    def unknown(self, name: str) -> RegistryUnavailable | None:
        """Tell why a model that is not listed may be there all the same: its registry was never read."""
        for registry in self._registries:
            if name.startswith(registry.prefix) and registry.read is None:
                return _unavailable(registry)
        return None

    def age(self) -> float:
        """Return how many seconds ago the registry was read whose last reading is the oldest."""
        self.snapshot()
        return time.monotonic() - min(registry.read for registry in self._registries if registry.read is not None)

    def watch(self, token: str, listener: Listener) -> Watch:
        """Begin a watch, or resume one; as `Catalog.watch`."""
        self.snapshot()
        try:
            return self._publisher.watch(token, listener)
        except ResyncRequired:
            if not self._sync():
                raise
            return self._publisher.watch(token, listener)

    def want(self, version: CatalogVersion) -> None:
        """Have the main process read a signature that was not read yet before others; never blocks."""
        if version.pending:
            self._sender.send(Kind.WANT, meta={"model": version.name, "version": version.version})

    def url_of(self, version: CatalogVersion) -> str:
        """Return where the registry is that a version is of, without user and password."""
        return next(registry.url for registry in self._registries if registry.name == version.registry)

    def take_change(self, change: CatalogChange) -> None:
        """Publish the next snapshot, as the main process did."""
        self._publisher.publish(change.after(self._publisher.current))

    def take_registries(self, registries: tuple[Registry, ...]) -> None:
        """Take over how the registries fare."""
        self._registries = registries

    def synced(self, number: int) -> None:
        """Note that all is here that the main process knew when it was asked."""
        awaited = self._awaited.pop(number, None)
        if awaited is not None:
            awaited.set()

    def _sync(self) -> bool:
        """Wait for all that the main process knows; tells whether it came in time."""
        number, came = next(self._numbers), threading.Event()
        self._awaited[number] = came
        self._sender.send(Kind.SYNC, id=number)
        in_time = came.wait(SYNC_SECONDS)
        self._awaited.pop(number, None)
        return in_time


class SharedChoice:
    """Tells which version serves an alias: the main process decides it for all, once it was called anywhere.

    Args:
        serving: What it has decided.
        sender: To the main process.
    """

    def __init__(self, serving: dict[Alias, str], sender: Sender) -> None:
        self._serving = serving
        self._sender = sender
        self._told: set[Alias] = set()

    def choose(self, model: CatalogModel, alias: str | None, wanted: CatalogVersion) -> CatalogVersion:
        """Tell which version serves an alias, or the default, now; the registry means the wanted one by it."""
        key = (model.name, alias)
        number = self._serving.get(key)
        if number is None:
            if key not in self._told:
                self._told.add(key)
                self._sender.send(Kind.USED, meta={"model": model.name, "alias": alias})
            return wanted
        former = wanted if number == wanted.version else model.by_number.get(number)
        return former if former is not None and former.ready and former.signature is not None else wanted

    def take(self, serving: dict[Alias, str]) -> None:
        """Take over what the main process has decided."""
        # What it has forgotten is told to it again, once it is called again.
        self._told -= self._serving.keys() - serving.keys()
        self._serving = serving


def _unavailable(registry: Registry) -> RegistryUnavailable:
    return RegistryUnavailable(registry.url, registry.fault)
