"""Checks of what a service needs besides models: files, addresses, room on the disk, registries, model servers."""

from __future__ import annotations

import os
import shutil
import ssl
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.catalog import Member, Snapshot
from prinz_enricher.checks.findings import Check, Outcomes, counted
from prinz_enricher.config import EndpointSettings, ServerSettings, Settings, TlsSettings
from prinz_enricher.config.caller_settings import JwtSettings
from prinz_enricher.fronts.admin.webhook import Webhook
from prinz_enricher.fronts.grpc import SERVICE, open_front
from prinz_enricher.fronts.listener import address_text, listen
from prinz_enricher.provision.provision_errors import CacheUnusable
from prinz_enricher.registry import RegistryError, RegistryUnreachable, open_access
from prinz_enricher.scoring.remote.endpoint_client import EndpointClient
from prinz_enricher.scoring.remote.upstream import UpstreamFailed, UpstreamRefused
from prinz_enricher.security.certificates import CertificateFiles
from prinz_enricher.security.jwks import KeyFile, fetch_keys
from prinz_enricher.security.principal import Principals
from prinz_enricher.security.tokens import open_tokens
from prinz_enricher.security.watched_files import SecurityError
from prinz_enricher.service.calls import FrontError
from prinz_enricher.service.provisioner import cache_folder
from prinz_enricher.telemetry.audit import check_output

_EXPIRY_SECONDS = 14 * 86400.0
_ASK_SECONDS = 3.0
_GIB = 1 << 30
_FULL_BYTES = 100 << 20
_DENIED = (401, 403, 407)


def deployment_checks(settings: Settings, registries: Iterable[Member]) -> Iterator[Check]:
    """Yield the checks for a service with these settings; those of opened registries read them whole."""
    server, auth, http = settings.server, settings.auth, settings.http
    if server.tls.enabled:
        yield Check("certificate", server.tls.certificate, partial(_certificate, server.tls))
    if auth.tokens_file:
        yield Check("tokens", auth.tokens_file, partial(_tokens, auth.tokens_file))
    if auth.jwt.enabled:
        # A URL may have a secret in its query.
        where = auth.jwt.jwks_file or urlsplit(auth.jwt.jwks_url).hostname or ""
        yield Check("jwks", where, partial(_keys, auth.jwt))
    if settings.audit.output:
        yield Check("audit", settings.audit.output, partial(_audit, settings.audit.output))
    if http.has_webhook:
        yield Check("webhook", http.webhook_secret_file or "http.webhook_secret", partial(_webhook, settings))
    addresses = [("gRPC", server.host, server.port)]
    if http.port is not None:
        addresses.append(("HTTP", http.host, http.port))
    for protocol, host, port in addresses:
        where = f"{protocol} {address_text(host, port)}"
        yield Check("address", where, partial(_address, server, protocol, host, port))
    folder = cache_folder(settings.cache)
    yield Check("disk", str(folder), partial(_disk, folder, settings.cache.max_model_bytes))
    for member in registries:
        yield Check("registry", f"{member.name or 'default'} {member.url}", partial(_registry, member))
    for name, endpoint in settings.endpoints.items():
        for url in endpoint.urls:
            yield Check("endpoint", f"{name} {url}", partial(_endpoint, name, endpoint, url))


def _certificate(settings: TlsSettings) -> Outcomes:
    end = CertificateFiles(settings).current.not_after
    ends_soon = end < time.time() + _EXPIRY_SECONDS
    clients = "; client certificates are required" if settings.client_ca else ""
    until = datetime.fromtimestamp(end, UTC).isoformat()
    yield "warn" if ends_soon else "ok", f"valid until {until}{'; renew it' if ends_soon else ''}{clients}"


def _tokens(path: str) -> Outcomes:
    tokens = open_tokens(path, Principals()).current.values()
    valid = sum(token.expires > time.time() for token in tokens)
    expired = f", {len(tokens) - valid} expired" if valid < len(tokens) else ""
    none = "; add one by `prinz-enricher token new`" if not valid else ""
    yield "ok" if valid else "warn", f"{counted(valid, 'valid token')}{expired}{none}"


def _keys(settings: JwtSettings) -> Outcomes:
    if settings.jwks_file:
        file = KeyFile(settings.jwks_file)
        file.stop()
        keys = file.current
    else:
        try:
            keys = fetch_keys(settings.jwks_url)
        except RegistryError as error:
            yield "FAIL", f"{error}; see auth.jwt.jwks_url"
            return
    yield "ok", f"{counted(len({kid for kid, _ in keys}), 'usable key')} of {settings.issuer}"


def _audit(output: str) -> Outcomes:
    check_output(output)
    yield "ok", "can be written"


def _webhook(settings: Settings) -> Outcomes:
    secrets = Webhook(settings.http, lambda: None).secrets()
    yield ("ok", counted(len(secrets), "secret")) if secrets else ("warn", "no secret, so that no delivery is accepted")


def _address(server: ServerSettings, protocol: str, host: str, port: int) -> Outcomes:
    # It may need a package that is not installed.
    open_front(server)
    try:
        listen(host, port, protocol, FrontError).close()
    except FrontError:
        if not _is_ours(server.tls, protocol, host, port):
            raise
        yield "ok", "a prinz-enricher listens there already"
    else:
        yield "ok", "can be listened on" if port else "a free port is chosen at the start"


def _is_ours(tls: TlsSettings, protocol: str, host: str, port: int) -> bool:
    """Return whether a service of ours listens on an address: it has our certificate, or says so itself."""
    try:
        if tls.enabled:
            chain = CertificateFiles(tls).current.chain
            served = ssl.get_server_certificate((host, port), timeout=_ASK_SECONDS)
            return x509.load_pem_x509_certificates(chain)[0] == x509.load_pem_x509_certificate(served.encode())
        if protocol == "HTTP":
            url = f"http://{address_text(host, port)}/healthz"
            answer = httpx.get(url, timeout=_ASK_SECONDS, trust_env=False)
            return bool(answer.json() == {"status": "ok"})
        with grpc.insecure_channel(address_text(host, port)) as channel:
            request = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
            health_pb2_grpc.HealthStub(channel).Check(request, timeout=_ASK_SECONDS)
    except (OSError, ValueError, SecurityError, httpx.HTTPError, grpc.RpcError):
        return False
    return True


def _disk(folder: Path, largest: int) -> Outcomes:
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise CacheUnusable(f"the cache {folder} can't be made or written; set cache.folder, or XDG_CACHE_HOME")
    free = shutil.disk_usage(existing).free
    if free < largest:
        room = f"{free / _GIB:.1f} GiB are free, and a model may have {largest / _GIB:.1f}"
        yield "FAIL" if free < _FULL_BYTES else "warn", f"{room}; make room, or lower cache.max_model_bytes"
    else:
        yield "ok", f"{free / _GIB:.1f} GiB are free"


def _registry(member: Member) -> Outcomes:
    try:
        snapshot = member.catalog.refresh()
    except RegistryError as error:
        section = f"registries.{member.name}" if member.name else "registry"
        runs = "that it runs, and " if isinstance(error, RegistryUnreachable) else ""
        yield "FAIL", f"{error}; see {runs}url, ca_file and credentials of [{section}]"
        return
    faults = list(_faults(snapshot, member.prefix))
    versions = counted(sum(len(model.versions) for model in snapshot.models.values()), "version")
    faulty = f", {counted(len(faults), 'fault')}" if faults else ""
    yield "ok", f"answers: {counted(len(snapshot.models), 'model')}, {versions}{faulty}"
    for fault in faults:
        yield "warn", fault


def _faults(snapshot: Snapshot, prefix: str) -> Iterable[str]:
    yield from snapshot.faults
    for model in snapshot.models.values():
        if model.fault:
            yield f"{prefix}{model.name} {model.fault}"
        for version in model.versions:
            if version.fault:
                yield f"{prefix}{model.name}/{version.version} {version.fault}"


def _endpoint(name: str, settings: EndpointSettings, url: str) -> Outcomes:
    """Ask one base URL for a path that no model has: any answer shows that it can be reached and lets us in."""
    one = settings.model_copy(update={"urls": (url,), "max_retries": 0})
    client = EndpointClient(one, open_access(one))
    try:
        client.post("/", b"{}", "application/json", deadline=time.monotonic() + settings.timeout)
    except UpstreamRefused:
        pass
    except UpstreamFailed as failure:
        failed = failure.status in _DENIED or not failure.status
        if failed or not failure.foreign:
            why = f"{str(failure).removeprefix(f'{url}: ')}; see that it runs, and the keys of [endpoints.{name}]"
            yield "FAIL" if failed else "warn", why
            return
    finally:
        client.close()
    yield "ok", "answers"
