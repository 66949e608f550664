"""The admin HTTP server: metrics, probes, and MLflow's webhooks. Its libraries are imported when it starts."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from prinz_enricher.config import MIB, HttpSettings
from prinz_enricher.fronts.admin.webhook import Delivery, Receiver, Verdict
from prinz_enricher.registry.errors import RegistryError
from prinz_enricher.registry.secret_sources import SecretFile

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from prinz_enricher.fronts.admin.http_server import HttpServer
    from prinz_enricher.telemetry.metrics import Metrics, States

MAX_BODY_BYTES = MIB
"""Bytes of the body of a webhook's delivery."""

REFUSAL_LOG_SECONDS = 60.0
"""Seconds between two log lines on refused deliveries."""

_NO_WEBHOOK_BODY_BYTES = 4096
_STATUS = {
    Verdict.ACCEPTED: HTTPStatus.NO_CONTENT,
    Verdict.REFUSED: HTTPStatus.UNAUTHORIZED,
    Verdict.REPLAYED: HTTPStatus.CONFLICT,
}

log = structlog.stdlib.get_logger(__name__)


class AdminHttpError(Exception):
    """The admin HTTP server can't start; the message says why."""


class AdminHttpServer:
    """Serves `/metrics`, `/healthz`, `/readyz`, and, where there is a secret for it, `/webhook`.

    Args:
        settings: `settings.port` must be set.
        states: Returns the state of each registry's catalog, by the registry's name.
        ready: Whether calls are answered: a registry is known, and each was read once.
        draining: Whether the service is about to end.
        refresh: Requests a refresh of the catalogs; must not block.
    """

    def __init__(
        self,
        settings: HttpSettings,
        *,
        states: States,
        ready: Callable[[], bool],
        draining: Callable[[], bool],
        refresh: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._states = states
        self._ready = ready
        self._draining = draining
        self._webhook = Webhook(settings, refresh) if settings.has_webhook else None
        self._metrics: Metrics | None = None
        self._server: HttpServer | None = None

    def start(self) -> int:
        """Listen; returns the port.

        Raises:
            AdminHttpError: The address can't be listened on, or the secret can't be read.
        """
        from prinz_enricher.fronts.admin.http_server import HttpServer

        if self._webhook is not None:
            self._webhook.check()
        listener = _listen(self._settings.host, self._settings.port or 0)
        port: int = listener.getsockname()[1]
        max_body_bytes = MAX_BODY_BYTES if self._webhook is not None else _NO_WEBHOOK_BODY_BYTES
        self._server = HttpServer(self._answer, listener, max_body_bytes=max_body_bytes)
        log.info("admin http server started", host=self._settings.host, port=port, webhook=self._webhook is not None)
        return port

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI application."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        reading = {"/metrics": self._metrics_page, "/healthz": self._health, "/readyz": self._readiness}
        headers: list[tuple[str, str]] = []
        if path in reading and method in {"GET", "HEAD"}:
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
        start_response(f"{status.value} {status.phrase}", headers)
        return [content] if content and method != "HEAD" else []

    def _metrics_page(self, environ: WSGIEnvironment) -> tuple[HTTPStatus, bytes, str]:
        if self._metrics is None:
            # Not at the start, which has no time for it. Two scrapes at once may both do it, which is harmless.
            from prinz_enricher.telemetry.metrics import Metrics

            deliveries = self._webhook.counts if self._webhook is not None else dict[str, int]
            self._metrics = Metrics(self._states, deliveries)
        content, content_type = self._metrics.write(environ.get("HTTP_ACCEPT", ""))
        return HTTPStatus.OK, content, content_type

    def _health(self, _: WSGIEnvironment) -> tuple[HTTPStatus, bytes, str]:
        return _json(HTTPStatus.OK, {"status": "ok"})

    def _readiness(self, _: WSGIEnvironment) -> tuple[HTTPStatus, bytes, str]:
        """Whether calls are answered, however old the catalog may be."""
        states = self._states()
        if self._draining():
            why = "the service is draining"
        elif not self._ready():
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


class Webhook:
    """Receives the deliveries of MLflow's webhooks; an authentic one requests a refresh, whatever is in it."""

    def __init__(self, settings: HttpSettings, refresh: Callable[[], None]) -> None:
        given = settings.webhook_secret.get_secret_value()
        self._given = (given,) if given else ()
        file = settings.webhook_secret_file
        self._file = SecretFile(Path(file), "webhook secret") if file else None
        self._refresh = refresh
        self._receiver = Receiver()
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Verdict, 0)
        self._unlogged = 0
        self._logged = float("-inf")

    def __repr__(self) -> str:
        return "Webhook()"

    def check(self) -> None:
        """Read the secrets; raises AdminHttpError where that fails."""
        try:
            self._secrets()
        except RegistryError as error:
            raise AdminHttpError(str(error)) from None

    def counts(self) -> dict[str, int]:
        """Return the number of deliveries by verdict."""
        with self._lock:
            return {verdict.value: count for verdict, count in self._counts.items()}

    def receive(self, environ: WSGIEnvironment) -> HTTPStatus:
        """Receive a delivery; returns the status of the answer."""
        delivery = Delivery(
            delivery_id=environ.get("HTTP_X_MLFLOW_DELIVERY_ID", ""),
            timestamp=environ.get("HTTP_X_MLFLOW_TIMESTAMP", ""),
            signature=environ.get("HTTP_X_MLFLOW_SIGNATURE", ""),
            body=environ["wsgi.input"].read(MAX_BODY_BYTES + 1),
        )
        try:
            secrets = self._secrets()
        except RegistryError as error:
            self._count_refused(Verdict.REFUSED, str(error))
            return HTTPStatus.SERVICE_UNAVAILABLE
        verdict = self._receiver.check(delivery, secrets, time.time())
        if verdict is Verdict.ACCEPTED:
            with self._lock:
                self._counts[verdict] += 1
            self._refresh()
        else:
            self._count_refused(verdict, f"it is {verdict.value}")
        return _STATUS[verdict]

    def _secrets(self) -> tuple[str, ...]:
        """Return the secrets that are valid now; raises RegistryError where the file can't be read."""
        lines = self._file.current().split("\n") if self._file is not None else []
        return (*self._given, *filter(None, (line.removesuffix("\r") for line in lines)))

    def _count_refused(self, verdict: Verdict, why: str) -> None:
        """Count a delivery that is not accepted, and log some of them: anyone can send them."""
        with self._lock:
            self._counts[verdict] += 1
            self._unlogged += 1
            now = time.monotonic()
            if now < self._logged + REFUSAL_LOG_SECONDS:
                return
            unlogged, self._unlogged, self._logged = self._unlogged, 0, now
        log.warning("webhook delivery not accepted", why=why, deliveries=unlogged)


def _json(status: HTTPStatus, content: dict[str, Any]) -> tuple[HTTPStatus, bytes, str]:
    return status, json.dumps(content).encode() + b"\n", "application/json"


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; raises AdminHttpError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((str(address[0]), port), family=family, dualstack_ipv6=both)
    except OSError as error:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise AdminHttpError(f"can't listen on {where} for HTTP: {error.strerror}") from None
