"""TLS of the HTTP servers: the certificates in use, and who a client's certificate names."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import structlog

from prinz_enricher.config import TlsSettings
from prinz_enricher.security.principal import ClientCertificate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prinz_enricher.security.certificates import CertificateFiles, Certificates

CERTIFICATE = "prinz.client_certificate"
"""Where a WSGI application finds the client's certificate."""

log = structlog.stdlib.get_logger(__name__)


class HttpTls:
    """What a new connection needs, by the certificates as they are now. One thread calls it.

    A client may show a certificate of `client_ca`, and need not unless it is `required`: probes have none.
    """

    def __init__(self, settings: TlsSettings, files: CertificateFiles, *, required: bool = False) -> None:
        self._settings = settings
        self._verify = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        self._files = files
        self._loaded = files.current
        self._failed: Certificates | None = None
        self._context = _load(settings, files.current, self._verify)

    def context(self) -> ssl.SSLContext:
        """Return the context of a new connection."""
        current = self._files.current
        if current is not self._loaded:
            try:
                self._context, self._loaded = _load(self._settings, current, self._verify), current
            except OSError as error:
                # Exchanged again since they were read; the next connection finds them whole. Each is logged once.
                if current is not self._failed:
                    log.warning("new certificate not loaded for HTTP, the old one stays in use", why=str(error))
                self._failed = current
        return self._context


def _load(settings: TlsSettings, certificates: Certificates, verify: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python takes them from files alone. A password would be asked for on the terminal.
    context.load_cert_chain(settings.certificate, settings.key, password=lambda: b"")
    if certificates.client_ca is not None:
        context.load_verify_locations(cadata=certificates.client_ca.decode("ascii", errors="ignore"))
        context.verify_mode = verify
    return context


def client_certificate(connection: ssl.SSLSocket | ssl.SSLObject) -> ClientCertificate | None:
    """Return what names the client of a connection whose handshake is done; None without a certificate."""
    found: Any = connection.getpeercert()
    if not found:
        return None
    names: Iterable[tuple[str, str]] = found.get("subjectAltName", ())
    # An X509-SVID has one URI; of several gRPC takes none either.
    uris = [value for kind, value in names if kind == "URI"]
    spiffe_id = uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else ""
    common = [value for part in found["subject"] for key, value in part if key == "commonName"]
    dns_names = tuple(value for kind, value in names if kind == "DNS")
    return ClientCertificate(spiffe_id, dns_names, next(iter(common), ""))
