"""The registries of the settings: their clients, their catalogs, and the download of their models."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from prinz_enricher.catalog import Catalog, Member, Selection, SnapshotStore, Union, UsedFile
from prinz_enricher.config import RegistrySettings
from prinz_enricher.provision.variables import fetch_variables
from prinz_enricher.registry import (
    Access,
    AccessError,
    PrivateServer,
    RegistryClient,
    RegistryError,
    StoreReader,
    UnityClient,
    is_local_store,
    open_access,
    store_folder,
)
from prinz_enricher.scoring.ports import LoadFailed, RegistryAway, Target
from prinz_enricher.signature import SignatureError

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OpenRegistry:
    """A registry with its client; `origin` is the same wherever a local store's server listens."""

    access: Access
    client: RegistryClient
    origin: str
    stores: StoreReader

    def folder(self, target: Target) -> str:
        """Return the URI of the folder with a target's files; raises RegistryAway, or LoadFailed if there is none."""
        try:
            return self.client.folder_uri(target.registered_name, target.version)
        except RegistryError as error:
            kind = RegistryAway if error.transient else LoadFailed
            raise kind(f"the registry does not give its files: {error}") from error

    def fetch_variables(self, folder: Path) -> dict[str, str] | None:
        """Return the environment variables with which MLflow's client reaches the registry; None for none.

        Files that they name go into `folder`, a private one. Raises RegistryAway, and LoadFailed for bad certificates.
        """
        try:
            return self.access.fetch_variables(folder)
        except RegistryError as error:
            raise RegistryAway(f"the credentials of the registry can't be had: {error}") from error
        except AccessError as error:
            raise LoadFailed(str(error)) from error


class Registries:
    """All registries of one service, by their names in the settings.

    Attributes:
        catalog: Their joint catalog, from `open` on.
        used_files: The list of versions in use of each registry that has a folder, by its name.
    """

    def __init__(self, settings: Mapping[str, RegistrySettings]) -> None:
        self._settings = settings
        self._opened: dict[str, OpenRegistry] = {}
        self._closing = ExitStack()
        self.catalog: Union
        self.used_files: dict[str, UsedFile] = {}

    def open(self, ended: threading.Event | None = None) -> None:
        """Start the servers of local stores, waiting until `ended`, and open clients; `catalog.start` begins to read.

        Raises AccessError where a URL or certificates can't be used, and PrivateServerError where a server can't start.
        """
        with ExitStack() as opened:
            self.catalog = Union([self._open(name, one, opened, ended) for name, one in self._settings.items()])
            # What was opened stays open, unless one of them failed.
            self._closing = opened.pop_all()

    def close(self) -> None:
        """Stop reading, and end the servers of local stores."""
        self.catalog.stop()
        self._closing.close()

    def change(self, settings: Mapping[str, RegistrySettings]) -> None:
        """Go on with other rules and intervals of the same registries."""
        for member in self.catalog.members:
            new = settings[member.name]
            store = _store(new, member.url)
            # It is of the rules, as is the list beside it.
            if store is not None:
                self.used_files[member.name] = UsedFile(store.path)
            selection = Selection(new.include, new.exclude)
            member.catalog.change(new.refresh_interval, new.signature_ttl, selection, store)

    def of(self, target: Target) -> OpenRegistry:
        """Return the registry that a target is from."""
        return self._opened[target.registry_name]

    def observed(self, target: Target, outputs: str) -> None:
        """Serve a target's version with the outputs that were observed, in MLflow's JSON of a schema."""
        member = next(one for one in self.catalog.members if one.name == target.registry_name)
        try:
            member.catalog.observe(target.registered_name, target.version, outputs)
        except SignatureError as error:
            log.warning("outputs can't be served", model=target.name, version=target.version, why=str(error))

    def _open(self, name: str, settings: RegistrySettings, opened: ExitStack, ended: threading.Event | None) -> Member:
        url = None
        if is_local_store(settings.url):
            private = PrivateServer(settings.url, ended=ended)
            opened.callback(private.close)
            private.start()
            url = private.url
        # It has what a model is fetched with.
        stores = StoreReader(lambda: fetch_variables(os.environ, Path(tempfile.gettempdir()), None))
        opened.callback(stores.close)
        try:
            access = open_access(settings, url)
            kind = UnityClient if access.unity else RegistryClient
            client = kind.of(access, timeout=settings.timeout, stores=stores)
        except AccessError as error:
            raise AccessError(f'registry "{name}": {error}' if name else str(error)) from error
        opened.callback(client.close)
        self._opened[name] = OpenRegistry(access, client, _origin(settings, client.url), stores)
        store = _store(settings, client.url)
        if store is not None:
            self.used_files[name] = UsedFile(store.path)
        catalog = Catalog(
            client,
            refresh_interval=settings.refresh_interval,
            signature_ttl=settings.signature_ttl,
            selection=Selection(settings.include, settings.exclude),
            store=store,
        )
        return Member(name, settings.prefix_of(name), client.url, catalog)


def _origin(settings: RegistrySettings, url: str) -> str:
    """Return the identity of a registry, the same at every start."""
    # The port of a local store's own server is another one each time; and a relative store depends on where we are.
    return f"{settings.url} {store_folder(settings.url)}" if is_local_store(settings.url) else url


def _store(settings: RegistrySettings, url: str) -> SnapshotStore | None:
    """Return where the catalog is stored on disk; None where that is off or impossible."""
    folder = settings.snapshot_folder
    if folder is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = str(Path(cache) / "prinz-enricher" / "catalog")
    if not folder:
        return None
    registry = _origin(settings, url)
    # A list of fewer models than are served would be worse than none.
    rules = (settings.include, settings.exclude)
    try:
        return SnapshotStore(Path(folder).expanduser().absolute(), f"{registry} {rules}")
    except RuntimeError:
        log.warning("there is no home folder, so the catalog is not stored; registry.snapshot_folder names another")
        return None
