"""The application: assembles the service, starts it, keeps its health, drains it."""

from __future__ import annotations

import fnmatch
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import structlog

from prinz_enricher.catalog import CatalogModel, CatalogVersion, Snapshot, UsedFile, wants_preload
from prinz_enricher.config import ConfigError, Settings, TlsSettings, reload
from prinz_enricher.fronts.admin.admin_http import AdminHttpError, AdminHttpServer
from prinz_enricher.fronts.admin.http_tls import HttpTls
from prinz_enricher.fronts.grpc import SERVICE, Callers, FrontSecurity, open_front
from prinz_enricher.fronts.grpc.admission import limits_of
from prinz_enricher.fronts.listener import listen
from prinz_enricher.provision.provision_errors import ProvisionError
from prinz_enricher.registry import AccessError, PrivateServerError, open_access
from prinz_enricher.scoring.launch.process_pool import ProcessPool
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import WorkerPool, WorkerState
from prinz_enricher.scoring.routing import LOCAL, RoutingPool
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.quota import Quotas
from prinz_enricher.security.watched_files import SecurityError
from prinz_enricher.service.accounting import Accounting
from prinz_enricher.service.calls import CallLog, Front, FrontError
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.in_use import InUse
from prinz_enricher.service.provisioner import Provisioner
from prinz_enricher.service.registries import Registries
from prinz_enricher.service.score.messages import Limits
from prinz_enricher.service.targets import Targets
from prinz_enricher.telemetry import configure_logging
from prinz_enricher.telemetry.audit import AuditError, AuditLog
from prinz_enricher.telemetry.request_log import RequestLog
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from prinz_enricher.fronts.http.api import ApiLimits
    from prinz_enricher.fronts.http.http_front import HttpFront
    from prinz_enricher.security.certificates import CertificateFiles

log = structlog.stdlib.get_logger(__name__)

_FLUSH_SECONDS = 5.0
"""How long the last spans may take to be exported."""

_HEALTH_PAUSE = 0.1
"""Seconds, at most, in which changes are taken together."""

_LEAST_GRACE = 2.0
"""Seconds that requests of HTTP have to end, however long those of gRPC took."""

START_ERRORS = (AccessError, AdminHttpError, AuditError, FrontError, PrivateServerError, ProvisionError, SecurityError)
"""What an application raises that can't start here; each says in one sentence why."""


class Application:
    """The service by its settings, with at least one registry; a front or a pool replaces that of the settings.

    Raises one of START_ERRORS where the settings can't be used here.
    """

    def __init__(self, settings: Settings, *, front: Front | None = None, pool: WorkerPool | None = None) -> None:
        self._settings = settings
        self._draining = False
        self._reload_failures = 0
        # The thread that reads the registry follows it, and so does one that has other settings.
        self._following = threading.Lock()
        self._health_changed = threading.Event()
        self._health_thread = threading.Thread(target=self._keep_health, name="health", daemon=True)
        self._registries = Registries(settings.all_registries)
        self._admin: AdminHttpServer | None = None
        self._api: HttpFront | None = None
        self._audit: AuditLog | None = None
        self._series = Series()
        self._tracing = open_tracing()
        tls, mutual = settings.server.tls, bool(settings.server.tls.client_ca)
        self._certificates = _open_certificates(tls)
        self._authenticator = Authenticator(settings.auth, client_certificates=mutual)
        self._callers = Callers(self._authenticator, tokens=settings.auth.enabled, certificates=mutual)
        self._rules = AccessRules(settings.access)
        self._quotas = Quotas(settings.quota)
        asked = self._callers if self._authenticator.enabled else None
        if front is None:
            # Before anything is started, such as the server of a local store.
            listen(settings.server.host, settings.server.port, "gRPC", FrontError).close()
        secured = FrontSecurity(asked, self._certificates, self._rules)
        self._front = front or open_front(settings.server, secured, self._series, self._tracing, settings.flight)
        self._pool = pool or open_pool(settings, self._registries, self._health_changed.set, self._series)
        self.ready = threading.Event()
        """Set once the registry was read and calls are answered."""

    @property
    def api_port(self) -> int | None:
        """The port of the HTTP API, while there is one."""
        return None if self._api is None else self._api.port

    def start(self, ended: threading.Event | None = None) -> int:
        """Listen, and begin to read the registry; returns the port. `ended` ends the wait for a local store's server.

        Raises one of START_ERRORS, such as for an address that can't be listened on.
        """
        with ExitStack() as undo:
            undo.callback(self._close_security)
            self._registries.open(ended)
            self._catalog = self._registries.catalog
            if self._certificates is not None:
                self._certificates.start()
            undo.callback(self._registries.close)
            self._targets = Targets(self._catalog, self._pool, self._settings, self._rules)
            if self._settings.audit.output:
                self._audit = AuditLog(self._settings.audit)
                undo.callback(self._audit.close)
            self._requests = RequestLog(self._settings.logging)
            undo.callback(self._requests.close)
            self._service = EnricherService(
                self._catalog,
                self._pool,
                self._targets,
                _limits_of(self._settings),
                self._quotas,
                self._series,
                self._requests,
            )
            self._in_use = InUse(self._catalog, self._pool, self._targets.find, self._used_files())
            self._accounting = Accounting(self._quotas, self._audit, self._requests)
            port = self._front.start(self._service.handle, self._service.open_source, self._call_log())
            undo.callback(self._service.close)
            undo.callback(self._front.drain, 0.0)
            if self._settings.api.port is not None:
                self._api = self._open_api(port)
                undo.callback(self._api.drain, 0.0)
                self._api.start(self._service.handle, self._call_log())
            if self._settings.http.port is not None:
                asked = self._authenticator if self._authenticator.enabled else None
                certificates = self._certificates
                tls = None if certificates is None else HttpTls(self._settings.server.tls, certificates)
                metrics = self._security, self._series, self._pool.usage
                self._admin = AdminHttpServer(
                    self._settings.http, self._catalog, lambda: self._draining, asked, tls, *metrics
                )
                self._admin.start()
            undo.pop_all()
        # Before the first call, which would hear NOT_FOUND.
        self._front.set_health(self._health())
        self._health_thread.start()
        self._catalog.subscribe(self._catalog_changed)
        self._catalog.on_stale_change(self._health_changed.set)
        registries = [member.url for member in self._catalog.members]
        log.info("listening", host=self._settings.server.host, port=port, registries=registries)
        self._catalog.start()
        return port

    def reload(self, load: Callable[[], Settings]) -> None:
        """Take over what can change of settings that are read now; one thread calls it, once the service has started.

        Settings that can't be used change nothing: the log says why, and a metric counts them.
        """
        try:
            settings, taken, restart = reload(self._settings, load())
            rules = AccessRules(settings.access)
        except Exception as error:  # noqa: BLE001 - whatever the file has, the service goes on
            self._reload_failures += 1
            why = str(error) if isinstance(error, ConfigError) else f"they can't be read ({type(error).__name__})"
            log.error("settings not taken over, nothing has changed", why=why)  # noqa: TRY400 - it says it all
            return
        self._settings, old = settings, self._settings
        if (settings.logging.level, settings.logging.format) != (old.logging.level, old.logging.format):
            configure_logging(settings.logging.level, settings.logging.format)
        self._requests.configure(settings.logging)
        self._quotas.change(settings.quota)
        self._service.change(_limits_of(settings), rules)
        self._front.change(settings.server, rules, self._call_log())
        if self._api is not None:
            self._api.change(limits_of(settings.server), _api_limits(settings), self._call_log())
        self._pool.change(_pool_settings(settings))
        if settings.all_registries != old.all_registries:
            self._registries.change(settings.all_registries)
        if taken and self._catalog.current is not None:
            self._catalog_changed()
        found = {"taken_over": taken, "restart_needed": restart}
        if restart:
            log.warning("settings read again", **found)
        else:
            log.info("settings read again", **found)

    def stop(self) -> None:
        """Drain: set NOT_SERVING, answer calls in flight within the grace period, end the workers."""
        grace = self._settings.server.grace_period
        log.info("draining", grace_seconds=grace)
        self._draining = True
        self._health_changed.set()
        self._health_thread.join()
        if self._api is not None:
            self._api.begin_drain()
        began = time.monotonic()
        self._front.drain(grace)
        if self._api is not None:
            self._api.drain(max(_LEAST_GRACE, grace - (time.monotonic() - began)))
        self._service.close()
        self._requests.close()
        if self._audit is not None:
            self._audit.close()
        self._catalog.stop()
        self._pool.close(grace=5.0)
        if self._tracing is not None:
            # Workers have ended, and so have their spans.
            self._tracing.close(_FLUSH_SECONDS)
        if self._admin is not None:
            self._admin.stop()
        self._close_security()
        self._registries.close()
        log.info("stopped")

    def _call_log(self) -> CallLog | None:
        """Return what notes calls; None where none need be noted, which costs least."""
        needed = self._quotas.enabled or self._audit is not None or self._requests.enabled
        return self._accounting if needed else None

    def _open_api(self, grpc_port: int) -> HttpFront:
        """Return the HTTP API, which listens and takes no connections yet; raises FrontError."""
        # A service without it does not import what it needs.
        from prinz_enricher.fronts.http.http_front import HttpFront

        server, api = self._settings.server, self._settings.api
        listener = listen(api.host, api.port or 0, "the HTTP API", FrontError)
        required = bool(server.tls.client_ca)
        tls = None if self._certificates is None else HttpTls(server.tls, self._certificates, required=required)
        callers = self._callers if self._authenticator.enabled else None
        log.info("http api listens", host=api.host, port=listener.getsockname()[1], tls=tls is not None)
        return HttpFront(
            *(listener, self._targets, limits_of(server), _api_limits(self._settings)),
            callers=callers,
            tls=tls,
            series=self._series,
            tracing=self._tracing,
            grpc_port=grpc_port,
        )

    def _close_security(self) -> None:
        self._callers.close()
        self._authenticator.close()
        if self._certificates is not None:
            self._certificates.stop()

    def _security(self) -> dict[str, dict[str, float]]:
        """Return the metrics of who may call."""
        found: dict[str, dict[str, float]] = {
            "auth_failures": {**self._authenticator.failures()},
            "quota_rejections": {**self._quotas.rejections()},
            "connection_refusals": {**self._front.refusals()},
            "reload_failures": {"settings": self._reload_failures, **self._authenticator.reload_failures()},
        }
        if (files := self._certificates) is not None:
            found["reload_failures"]["certificate"] = files.failures
            found["tls_certificate_expiry_seconds"] = {"server": files.current.not_after - time.time()}
        return found

    def _used_files(self) -> dict[str, UsedFile]:
        """Return the lists that say at the next start what was in use at the end."""
        return self._registries.used_files if self._settings.scoring.preload == "used" else {}

    def _catalog_changed(self, *_: Snapshot | None) -> None:
        """Unload versions that are gone, load those to preload, and request an update of health."""
        with self._following:
            self._follow(self._catalog.snapshot())

    def _follow(self, new: Snapshot) -> None:
        targets = {
            target.key: target
            for model in new.models.values()
            for version in model.versions
            if version.ready and (target := self._targets.find(version)) is not None
        }
        kept = {
            target.key: replace(target, keep=True)
            for model in new.models.values()
            for version in self._preloaded(model)
            if (target := self._targets.find(version)) is not None
        }
        self._pool.retain((targets | kept).values())
        for target in kept.values():
            self._pool.load(target)
        self._series.retain(new.version_keys)
        self._targets.follow(new)
        self._health_changed.set()
        if not self.ready.is_set():
            log.info("serving", models=len(new.models), versions=len(targets))
            self.ready.set()

    def _preloaded(self, model: CatalogModel) -> list[CatalogVersion]:
        """Return the versions of a model to preload."""
        versions = [version for version in model.versions if version.options.preload]
        preload = self._settings.scoring.preload
        named = preload != "used" and any(fnmatch.fnmatchcase(model.name, pattern) for pattern in preload)
        default = self._targets.default_version(model) if named or wants_preload(model.tags) else None
        return versions if default is None or default in versions else [default, *versions]

    def _keep_health(self) -> None:
        """After each change set the health, the last time to NOT_SERVING, and save what is in use."""
        draining = False
        pause: float | None = None
        while not draining:
            self._health_changed.wait(pause)
            began = time.monotonic()
            self._health_changed.clear()
            draining = self._draining
            self._front.set_health(self._health())
            # After the health, which must not wait for the disk.
            if not draining:
                self._in_use.follow(self._used_files())
                self._in_use.load()
            # The pool is open even the last time: it is closed after this thread.
            pause = self._in_use.save(at_once=draining)
            if not draining:
                # While thousands load, half of the time is theirs.
                time.sleep(min(_HEALTH_PAUSE, time.monotonic() - began))

    def _health(self) -> dict[str, bool]:
        """Return which services are SERVING: a model is, unless its default version is FAILED."""
        serving = self._catalog.ready.is_set() and not self._draining
        services = {"": serving, SERVICE.full_name: serving, "registry": serving and not self._catalog.stale}
        for member in self._catalog.members:
            if member.name:
                services[f"registry/{member.name}"] = serving and not member.catalog.stale
        if self._catalog.ready.is_set():
            for model in self._catalog.snapshot().models.values():
                default = self._targets.default_version(model)
                healthy = default is not None and self._targets.status_of(default).state is not WorkerState.FAILED
                services[f"model/{model.name}"] = serving and healthy
        return services


def _open_certificates(settings: TlsSettings) -> CertificateFiles | None:
    if not settings.enabled:
        return None
    # A service without TLS does not import what that needs.
    from prinz_enricher.security.certificates import CertificateFiles

    return CertificateFiles(settings)


def _limits_of(settings: Settings) -> Limits:
    server, scoring = settings.server, settings.scoring
    decoded = server.max_decoded_bytes or 8 * server.max_message_bytes
    return Limits(
        scoring.max_batch_rows, server.max_message_bytes, min(scoring.max_shared_rows, scoring.max_batch_rows), decoded
    )


def _api_limits(settings: Settings) -> ApiLimits:
    # A service without the HTTP API does not import it.
    from prinz_enricher.fronts.http.api import ApiLimits

    api = settings.api
    return ApiLimits(
        settings.server.max_message_bytes, settings.scoring.max_batch_rows, api.timeout, api.document_principal
    )


def _pool_settings(settings: Settings) -> PoolSettings:
    shared = type(settings.scoring).model_fields.keys() & {field.name for field in fields(PoolSettings)}
    keys: dict[str, Any] = {key: getattr(settings.scoring, key) for key in shared}
    return PoolSettings(**keys, memory_budget=settings.workers.memory_budget)


def open_tracing(variables: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return what traces calls, as OpenTelemetry's standard variables say; None where they do not ask for it."""
    exporters = variables.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    disabled = variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or exporters == "none" or not (exporters or any(variables.get(name) for name in endpoints)):
        return None
    try:
        # A service that traces nothing does not import OpenTelemetry.
        from prinz_enricher.telemetry.span_export import SpanExport

        return Tracing(SpanExport(exporters or "otlp"))
    except ImportError as error:
        log.warning("calls are not traced: install the extra otel, as in prinz-enricher[otel]", why=str(error))
    except Exception as error:  # noqa: BLE001 - whatever OpenTelemetry makes of its variables
        # Not its words, which may have a header's value.
        log.warning("calls are not traced: a variable OTEL_* is invalid", error=type(error).__name__)
    return None


def open_pool(
    settings: Settings, registries: Registries, on_change: Callable[[], object], series: Series
) -> WorkerPool:
    """Return the worker processes, and the endpoints of model servers elsewhere where there are any.

    `on_change` is called after each change of a status, from any thread, with locks held: it may only take note.
    """
    workers = settings.workers
    limits = _pool_settings(settings)
    provide = Provisioner(registries, settings.cache, workers)
    observed = registries.observed
    notes: dict[str, Any] = {"on_change": on_change, "on_observed": observed, "series": series}
    local = ProcessPool(provide, limits, workers=workers, **notes)
    if not settings.endpoints:
        return local
    # A service without endpoints does not bring in what they need.
    from prinz_enricher.scoring.remote.remote_pool import RemotePool

    pools: dict[str, WorkerPool] = {LOCAL: local}
    for name, endpoint in settings.endpoints.items():
        access = open_access(endpoint)
        pools[name] = RemotePool(name, endpoint, access, limits, **notes)
    return RoutingPool(pools)
