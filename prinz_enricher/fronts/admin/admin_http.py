"""The admin HTTP server: metrics, probes, and MLflow's webhooks. Its libraries are imported when it starts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog

from prinz_enricher.catalog import CatalogState, Union
from prinz_enricher.config import HttpSettings
from prinz_enricher.errors import UnauthenticatedError
from prinz_enricher.fronts.admin.http_tls import CERTIFICATE, HttpTls
from prinz_enricher.fronts.admin.webhook import MAX_BODY_BYTES, Webhook
from prinz_enricher.fronts.listener import listen
from prinz_enricher.registry.registry_errors import RegistryError
from prinz_enricher.telemetry.series import OTHER, Series, Usage

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from prinz_enricher.fronts.admin.http_server import HttpServer
    from prinz_enricher.security.authenticator import Authenticator
    from prinz_enricher.telemetry.metrics import Metrics, Security

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_NO_WEBHOOK_BODY_BYTES = 4096
_MAX_VERIFICATIONS = 2
"""Threads that may verify tokens, of the four there are."""

log = structlog.stdlib.get_logger(__name__)


class AdminHttpError(Exception):
    """The admin HTTP server can't start; the message says why."""


class AdminHttpServer:
    """Serves `/metrics`, `/healthz`, `/readyz`, and, where there is a secret for it, `/webhook`.

    `settings.port` must be set; `draining` returns whether the service is about to end. With an authenticator, metrics
    are for callers that are known; probes are for all, and webhooks have signatures.
    """

    def __init__(
        self,
        settings: HttpSettings,
        catalog: Union,
        draining: Callable[[], bool],
        authenticator: Authenticator | None = None,
        tls: HttpTls | None = None,
        security: Security = dict,
        series: Series | None = None,
        usage: Callable[[], Usage] = tuple,
    ) -> None:
        self._series = series or Series()
        self._usage = usage
        self._settings = settings
        self._authenticator = authenticator
        self._verifying = threading.Semaphore(_MAX_VERIFICATIONS)
        self._tls = tls
        self._security = security
        self._catalog = catalog
        self._draining = draining
        self._webhook = Webhook(settings, catalog.request_refresh) if settings.has_webhook else None
        self._routes = {"/metrics", "/healthz", "/readyz"} | ({"/webhook"} if self._webhook is not None else set())
        self._metrics: Metrics | None = None
        self._server: HttpServer | None = None

    def start(self) -> int:
        """Listen; returns the port. Raises AdminHttpError where that, or reading the secret, is impossible."""
        from prinz_enricher.fronts.admin.http_server import HttpServer

        if self._webhook is not None:
            try:
                self._webhook.secrets()
            except RegistryError as error:
                raise AdminHttpError(str(error)) from None
        listener = listen(self._settings.host, self._settings.port or 0, "HTTP", AdminHttpError)
        port: int = listener.getsockname()[1]
        max_body_bytes = MAX_BODY_BYTES if self._webhook is not None else _NO_WEBHOOK_BODY_BYTES
        tls = None if self._tls is None else self._tls.context
        self._server = HttpServer(self._answer, listener, max_body_bytes=max_body_bytes, tls=tls)
        known = {"host": self._settings.host, "port": port, "tls": tls is not None}
        log.info("admin http server started", **known, webhook=self._webhook is not None)
        return port

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI application, which counts its requests."""
        began = time.monotonic()
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            status, headers, content = self._response(environ)
        finally:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            method = method if method in _METHODS else OTHER
            route = path if path in self._routes else OTHER
            self._series.requested(method, route, str(status.value), time.monotonic() - began)
        start_response(f"{status.value} {status.phrase}", headers)
        return [content] if content and method != "HEAD" else []

    def _response(self, environ: WSGIEnvironment) -> tuple[HTTPStatus, list[tuple[str, str]], bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        reading = {"/metrics": self._metrics_page, "/healthz": self._health, "/readyz": self._readiness}
        headers: list[tuple[str, str]] = []
        if path == "/metrics" and (refusal := self._refusal(environ)) is not None:
            status, why = refusal
            status, content, content_type = _json(status, {"error": why})
            headers += [("WWW-Authenticate", "Bearer")] if status is HTTPStatus.UNAUTHORIZED else []
        elif path in reading and method in {"GET", "HEAD"}:
            status, content, content_type = reading[path](environ)
        elif path == "/webhook" and self._webhook is not None and method == "POST":
            status, content, content_type = self._webhook.receive(environ), b"", ""
        elif path in reading or (path == "/webhook" and self._webhook is not None):
            status, content, content_type = HTTPStatus.METHOD_NOT_ALLOWED, b"", ""
            headers.append(("Allow", "GET, HEAD" if path in reading else "POST"))
        else:
            status, content, content_type = HTTPStatus.NOT_FOUND, b"", ""
        if content_type:
            headers.append(("Content-Type", content_type))
        if status is not HTTPStatus.NO_CONTENT:
            headers.append(("Content-Length", str(len(content))))
        headers.append(("Cache-Control", "no-store"))
        return status, headers, content

    def _refusal(self, environ: WSGIEnvironment) -> tuple[HTTPStatus, str] | None:
        """Return why a caller is not accepted."""
        if self._authenticator is None:
            return None
        credentials = environ.get("HTTP_AUTHORIZATION"), environ.get(CERTIFICATE)
        verdict = self._authenticator.known(*credentials)
        if verdict is None:
            # It may take seconds. Probes must find a thread even so.
            if not self._verifying.acquire(blocking=False):
                return HTTPStatus.SERVICE_UNAVAILABLE, "Too many tokens are being verified; try again."
            try:
                verdict = self._authenticator.verify(*credentials)
            finally:
                self._verifying.release()
        return (HTTPStatus.UNAUTHORIZED, verdict.message) if isinstance(verdict, UnauthenticatedError) else None

    def _metrics_page(self, environ: WSGIEnvironment) -> tuple[HTTPStatus, bytes, str]:
        if self._metrics is None:
            # Not at the start, which has no time for it. Two scrapes at once may both do it, which is harmless.
            from prinz_enricher.telemetry.metrics import Metrics

            deliveries = self._webhook.counts if self._webhook is not None else dict[str, int]
            self._metrics = Metrics(self._states, deliveries, self._security, self._activity)
        content, content_type = self._metrics.write(environ.get("HTTP_ACCEPT", ""))
        return HTTPStatus.OK, content, content_type

    def _activity(self) -> tuple[Series, Usage, Collection[tuple[str, str]]]:
        snapshot = self._catalog.current
        return self._series, self._usage(), frozenset() if snapshot is None else snapshot.version_keys

    def _states(self) -> dict[str, CatalogState]:
        return {name or "default": state for name, state in self._catalog.states().items()}

    def _health(self, _: WSGIEnvironment) -> tuple[HTTPStatus, bytes, str]:
        return _json(HTTPStatus.OK, {"status": "ok"})

    def _readiness(self, _: WSGIEnvironment) -> tuple[HTTPStatus, bytes, str]:
        """Whether calls are answered, however old the catalog may be."""
        states = self._states()
        if self._draining():
            why = "the service is draining"
        elif not self._catalog.ready.is_set():
            why = "no registry is known, or one was not looked at yet"
        else:
            why = ""
        content = {
            "ready": not why,
            "why": why,
            "registries": {
                name: {
                    "age_seconds": None if state.age is None else round(state.age, 3),
                    "stale": state.stale,
                    "fault": state.fault,
                }
                for name, state in states.items()
            },
        }
        return _json(HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK, content)


def _json(status: HTTPStatus, content: dict[str, Any]) -> tuple[HTTPStatus, bytes, str]:
    return status, json.dumps(content).encode() + b"\n", "application/json"
