"""The certificates of the servers, in files that are read again when they change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from prinz_enricher.config import TlsSettings
from prinz_enricher.security.watched_files import SecurityError, WatchedFiles


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server with TLS needs.

    Attributes:
        chain: The certificate and those that lead to its root, PEM.
        key: Its key, PEM.
        client_ca: The authorities of client certificates, PEM; None where none are asked for.
        not_after: When the certificate expires, in seconds since 1970.
    """

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    not_after: float


class CertificateFiles(WatchedFiles[Certificates]):
    """The certificates of the settings, read again when they change; raises SecurityError where they can't be used."""

    def __init__(self, settings: TlsSettings, *, clock: Callable[[], float] = time.time) -> None:
        paths = [settings.certificate, settings.key, *filter(None, [settings.client_ca])]
        super().__init__("certificate", paths, partial(_parse, paths, clock))


def _parse(paths: Sequence[str], clock: Callable[[], float], contents: Sequence[bytes]) -> Certificates:
    """Return what the files hold, if the certificate is valid now and the key is its own."""
    chain, key, *client_ca = contents
    certificate = _certificates(paths[0], chain)[0]
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise SecurityError(f"the key {paths[1]} has a password; write it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SecurityError(f"{paths[1]} is not a private key in PEM") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise SecurityError(f"the key {paths[1]} does not belong to the first certificate of {paths[0]}")
    now = clock()
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= until.timestamp():
        raise SecurityError(f"the certificate {paths[0]} expired at {until.isoformat()}; renew it")
    if now < since.timestamp():
        raise SecurityError(f"the certificate {paths[0]} is not valid before {since.isoformat()}")
    for path, content in zip(paths[2:], client_ca, strict=True):
        _certificates(path, content)
    return Certificates(chain, key, next(iter(client_ca), None), until.timestamp())


def _certificates(path: str, content: bytes) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(content)
        for certificate in found:
            certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise SecurityError(f"{path} is not a certificate in PEM") from None
    return found
