"""The whole service, put together: started, kept healthy, drained."""

from __future__ import annotations

import fnmatch
import os
import threading
from pathlib import Path

import structlog

from prinz_enricher.catalog import Catalog, Selection, Snapshot, SnapshotStore
from prinz_enricher.config import RegistrySettings, Settings
from prinz_enricher.registry import (
    Access,
    AccessError,
    PrivateServer,
    RegistryClient,
    RegistryError,
    is_local_store,
    open_access,
    store_folder,
)
from prinz_enricher.scoring import (
    FetchFailed,
    LoadFailed,
    PoolSettings,
    ProcessPool,
    Target,
    WorkerPool,
    WorkerState,
)
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.front import SERVICE, Front, open_front
from prinz_enricher.service.score import Limits

log = structlog.stdlib.get_logger(__name__)


class Application:
    """The service by its settings.

    Args:
        settings: All of them; `settings.registry.url` must be set.
        front: Where calls come from; the front of the settings by default.
        pool: Where models are scored; worker processes by default.

    Raises:
        FrontError: The front of the settings is not installed.
    """

    def __init__(self, settings: Settings, *, front: Front | None = None, pool: WorkerPool | None = None) -> None:
        self._settings = settings
        self._draining = False
        self._health_changed = threading.Event()
        self._health_thread = threading.Thread(target=self._keep_health, name="health", daemon=True)
        self._private: PrivateServer | None = None
        self._front = front or open_front(
            settings.server.front,
            settings.server.host,
            settings.server.port,
            max_message_bytes=settings.server.max_message_bytes,
            max_calls=settings.server.max_calls,
        )
        self._access: Access
        self._pool = pool or ProcessPool(
            PoolSettings(
                max_workers=settings.scoring.max_workers,
                max_queue_rows=settings.scoring.max_queue_rows,
                load_timeout=settings.scoring.load_timeout,
            ),
            locate=self._locate,
            access=self._worker_variables,
            on_change=self._health_changed.set,
        )
        self.ready = threading.Event()
        """Set once the registry has been read and calls are answered."""

    def start(self, ended: threading.Event | None = None) -> int:
        """Begin to listen, and to read the registry; returns the port.

        Args:
            ended: Once it is set, the start of a local store's own server is given up.

        Raises:
            AccessError: The registry's URL or certificates can't be used.
            FrontError: The address can't be listened on.
            PrivateServerError: The local store's own server does not start.
        """
        registry = self._settings.registry
        if is_local_store(registry.url):
            self._private = PrivateServer(registry.url, ended=ended)
            self._private.start()
        try:
            self._access = open_access(registry, self._private.url if self._private is not None else None)
            self._client = RegistryClient.of(self._access, timeout=registry.timeout)
            self._catalog = Catalog(
                self._client,
                refresh_interval=registry.refresh_interval,
                signature_ttl=registry.signature_ttl,
                selection=Selection(registry.include, registry.exclude),
                store=_store(registry, self._client.url),
                on_reached=self._health_changed.set,
            )
            self._service = EnricherService(
                self._catalog,
                self._pool,
                self._client.url,
                default_policy=self._settings.scoring.default_version,
                limits=Limits(self._settings.scoring.max_batch_rows, self._settings.server.max_message_bytes),
            )
            port = self._front.start(self._service.handle, self._service.open_source)
        except BaseException:
            self._end_private_server()
            raise
        self._health_changed.set()
        self._health_thread.start()
        self._catalog.subscribe(self._catalog_changed)
        self._catalog.start()
        log.info("listening", host=self._settings.server.host, port=port, registry=self._client.url)
        return port

    def stop(self) -> None:
        """Drain: say NOT_SERVING, answer what was accepted within the grace period, end the workers."""
        grace = self._settings.server.grace_period
        log.info("draining", grace_seconds=grace)
        self._draining = True
        self._health_changed.set()
        self._health_thread.join()
        self._front.drain(grace)
        self._service.close()
        self._catalog.stop()
        self._client.close()
        self._pool.close(grace=5.0)
        self._end_private_server()
        log.info("stopped")

    def _end_private_server(self) -> None:
        if self._private is not None:
            self._private.close()

    def _locate(self, target: Target) -> dict[str, str]:
        """Tell a worker where its model is."""
        return {"registry": self._access.worker_registry, "name": target.name, "version": target.version}

    def _worker_variables(self, target: Target, folder: Path) -> dict[str, str] | None:
        """Return the environment variables by which a worker reaches its registry."""
        try:
            return self._access.worker_variables(folder)
        except RegistryError as error:
            raise FetchFailed(f"the credentials of the registry can't be had: {error}") from error
        except AccessError as error:
            raise LoadFailed(str(error)) from error

    def _catalog_changed(self, _: Snapshot | None, new: Snapshot) -> None:
        """Unload what is gone, load what is wanted from the start, and tell the health of each model."""
        targets = {
            target.key: target
            for model in new.models.values()
            for version in model.versions
            if version.ready and (target := self._service.target(version)) is not None
        }
        self._pool.retain(set(targets))
        for model in new.models.values():
            if any(fnmatch.fnmatchcase(model.name, pattern) for pattern in self._settings.scoring.preload):
                default = self._service.default_version(model)
                target = self._service.target(default) if default is not None else None
                if target is not None:
                    self._pool.load(target)
        self._health_changed.set()
        if not self.ready.is_set():
            log.info("serving", models=len(new.models), versions=len(targets))
            self.ready.set()

    def _keep_health(self) -> None:
        """Tell grpc.health.v1 what is served after each change; the last time, that nothing is."""
        draining = False
        while not draining:
            self._health_changed.wait()
            self._health_changed.clear()
            draining = self._draining
            self._front.set_health(self._health())

    def _health(self) -> dict[str, bool]:
        """Return what is SERVING: a model is, unless its default version is known to fail."""
        serving = self._catalog.ready.is_set() and not self._draining
        services = {"": serving, SERVICE.full_name: serving, "registry": serving and not self._catalog.stale}
        if self._catalog.ready.is_set():
            for model in self._catalog.snapshot().models.values():
                default = self._service.default_version(model)
                healthy = default is not None and self._service.status_of(default).state is not WorkerState.FAILED
                services[f"model/{model.name}"] = serving and healthy
        return services


def _store(settings: RegistrySettings, url: str) -> SnapshotStore | None:
    """Return where the catalog outlives the process; None where that is not wanted, or there is no such place."""
    folder = settings.snapshot_folder
    if folder is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = str(Path(cache) / "prinz-enricher" / "catalog")
    if not folder:
        return None
    # The port of a local store's own server is another one each time; and a relative store depends on where we are.
    local = is_local_store(settings.url)
    try:
        registry = f"{settings.url} {store_folder(settings.url)}" if local else url
        return SnapshotStore(Path(folder).expanduser().absolute(), registry)
    except RuntimeError:
        log.warning("there is no home folder, so the catalog is not stored; registry.snapshot_folder names another")
        return None
