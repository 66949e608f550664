"""The application: assembles the service, starts it, keeps its health, drains it."""

from __future__ import annotations

import fnmatch
import threading
from dataclasses import replace

import structlog

from prinz_enricher.catalog import CatalogModel, CatalogVersion, Snapshot, wants_preload
from prinz_enricher.config import Settings
from prinz_enricher.fronts.admin.admin_http import AdminHttpServer
from prinz_enricher.fronts.grpc import SERVICE, open_front
from prinz_enricher.scoring import WorkerPool, WorkerState
from prinz_enricher.service.calls import Front
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.in_use import InUse
from prinz_enricher.service.pools import open_pool
from prinz_enricher.service.registries import Registries
from prinz_enricher.service.score.payload import Limits
from prinz_enricher.service.targets import Routes

log = structlog.stdlib.get_logger(__name__)


class Application:
    """The service by its settings, with at least one registry.

    Args:
        settings: The settings.
        front: The front; by default that of the settings.
        pool: Scores models; by default worker processes and the endpoints of the settings.

    Raises:
        FrontError: The front of the settings is not installed.
        AccessError: An endpoint's certificates can't be used.
        ProvisionError: The settings of environments are invalid.
    """

    def __init__(self, settings: Settings, *, front: Front | None = None, pool: WorkerPool | None = None) -> None:
        self._settings = settings
        self._limits = Limits(
            settings.scoring.max_batch_rows, settings.server.max_message_bytes, settings.scoring.max_shared_rows
        )
        self._draining = False
        self._health_changed = threading.Event()
        self._health_thread = threading.Thread(target=self._keep_health, name="health", daemon=True)
        self._registries = Registries(settings.all_registries)
        self._admin: AdminHttpServer | None = None
        self._front = front or open_front(
            settings.server.front,
            settings.server.host,
            settings.server.port,
            max_message_bytes=settings.server.max_message_bytes,
            max_calls=settings.server.max_calls,
            max_inflight_bytes=settings.server.max_inflight_bytes,
        )
        self._pool = pool or open_pool(settings, self._registries, self._health_changed.set)
        self.ready = threading.Event()
        """Set once the registry was read and calls are answered."""

    def start(self, ended: threading.Event | None = None) -> int:
        """Listen, and begin to read the registry; returns the port.

        Args:
            ended: Once it is set, waiting for a local store's server ends.

        Raises:
            AccessError: The registry's URL or certificates can't be used.
            AdminHttpError: The admin HTTP server can't start.
            FrontError: The address can't be listened on.
            PrivateServerError: A local store's server does not start.
        """
        self._registries.open(ended)
        self._catalog = self._registries.catalog
        try:
            self._service = EnricherService(
                self._catalog,
                self._pool,
                default_policy=self._settings.scoring.default_version,
                limits=self._limits,
                allowed_loaders=self._settings.workers.allowed_loaders,
                allow_observed=self._settings.scoring.allow_observed_outputs,
                environment_tag=self._settings.workers.allow_environment_tag,
                routes=Routes({name: one.models for name, one in self._settings.endpoints.items()}),
            )
            keeps = self._settings.scoring.preload == "used"
            files = self._registries.used_files if keeps else {}
            self._in_use = InUse(self._catalog, self._pool, self._service.target, files)
            port = self._front.start(self._service.handle, self._service.open_source)
            self._start_admin()
        except BaseException:
            self._registries.close()
            raise
        # Before the first call, which would hear NOT_FOUND.
        self._front.set_health(self._health())
        self._health_thread.start()
        self._catalog.subscribe(self._catalog_changed)
        self._catalog.on_stale_change(self._health_changed.set)
        registries = [member.url for member in self._catalog.members]
        log.info("listening", host=self._settings.server.host, port=port, registries=registries)
        self._catalog.start()
        return port

    def stop(self) -> None:
        """Drain: set NOT_SERVING, answer calls in flight within the grace period, end the workers."""
        grace = self._settings.server.grace_period
        log.info("draining", grace_seconds=grace)
        self._draining = True
        self._health_changed.set()
        self._health_thread.join()
        self._front.drain(grace)
        self._service.close()
        self._catalog.stop()
        self._pool.close(grace=5.0)
        if self._admin is not None:
            self._admin.stop()
        self._registries.close()
        log.info("stopped")

    def _start_admin(self) -> None:
        if self._settings.http.port is None:
            return
        self._admin = AdminHttpServer(
            self._settings.http,
            states=lambda: {name or "default": state for name, state in self._catalog.states().items()},
            ready=self._catalog.ready.is_set,
            draining=lambda: self._draining,
            refresh=self._catalog.request_refresh,
        )
        try:
            self._admin.start()
        except BaseException:
            self._front.drain(0.0)
            self._service.close()
            raise

    def _catalog_changed(self, _: Snapshot | None, new: Snapshot) -> None:
        """Unload versions that are gone, load those to preload, and request an update of health."""
        targets = {
            target.key: target
            for model in new.models.values()
            for version in model.versions
            if version.ready and (target := self._service.target(version)) is not None
        }
        kept = {}
        for model in new.models.values():
            for version in self._preloaded(model):
                target = self._service.target(version)
                if target is not None:
                    kept[target.key] = replace(target, keep=True)
        self._pool.retain((targets | kept).values())
        for target in kept.values():
            self._pool.load(target)
        self._service.follow(new)
        self._health_changed.set()
        if not self.ready.is_set():
            log.info("serving", models=len(new.models), versions=len(targets))
            self.ready.set()

    def _preloaded(self, model: CatalogModel) -> list[CatalogVersion]:
        """Return the versions of a model to preload."""
        versions = [version for version in model.versions if version.options.preload]
        preload = self._settings.scoring.preload
        named = preload != "used" and any(fnmatch.fnmatchcase(model.name, pattern) for pattern in preload)
        default = self._service.default_version(model) if named or wants_preload(model.tags) else None
        return versions if default is None or default in versions else [default, *versions]

    def _keep_health(self) -> None:
        """After each change set the health, the last time to NOT_SERVING, and save what is in use."""
        draining = False
        pause: float | None = None
        while not draining:
            self._health_changed.wait(pause)
            self._health_changed.clear()
            draining = self._draining
            self._front.set_health(self._health())
            # After the health, which must not wait for the disk.
            if not draining:
                self._in_use.load()
            # The pool is open even the last time: it is closed after this thread.
            pause = self._in_use.save(at_once=draining)

    def _health(self) -> dict[str, bool]:
        """Return which services are SERVING: a model is, unless its default version is FAILED."""
        serving = self._catalog.ready.is_set() and not self._draining
        services = {"": serving, SERVICE.full_name: serving, "registry": serving and not self._catalog.stale}
        for member in self._catalog.members:
            if member.name:
                services[f"registry/{member.name}"] = serving and not member.catalog.stale
        if self._catalog.ready.is_set():
            for model in self._catalog.snapshot().models.values():
                default = self._service.default_version(model)
                healthy = default is not None and self._service.status_of(default).state is not WorkerState.FAILED
                services[f"model/{model.name}"] = serving and healthy
        return services
