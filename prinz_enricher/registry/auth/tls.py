"""Whose certificates we trust, and which one we show."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx

from prinz_enricher.registry.errors import AccessError

_COMBINED = "client.pem"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM form; those that are None are as the system has them.

    Attributes:
        ca_file: The only certificates that are trusted to sign the server's.
        client_certificate: What we show a server that asks for it; with its key, unless `client_key` has that.
        client_key: Its key, without a password: nobody is there to type one.
    """

    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def context(self, *, trust_env: bool = True) -> ssl.SSLContext:
        """Read the files.

        Args:
            trust_env: Whether `SSL_CERT_FILE` and `SSL_CERT_DIR` count where no `ca_file` is given.

        Raises:
            AccessError: One of them is missing, unreadable, or not what it should be.
        """
        context = httpx.create_ssl_context(verify=True, trust_env=trust_env)
        if self.ca_file is not None:
            content = _read("ca_file", self.ca_file)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            try:
                context.load_verify_locations(cadata=content.decode("ascii"))
            except (ssl.SSLError, ValueError):
                raise AccessError(f"ca_file: {self.ca_file} holds no certificate in PEM form") from None
            if not context.cert_store_stats()["x509"]:
                raise AccessError(f"ca_file: {self.ca_file} holds no certificate in PEM form")
        if self.client_certificate is not None:
            self._load_client_certificate(context, self.client_certificate)
        return context

    def mlflow_variables(self, folder: Path) -> dict[str, str]:
        """Return the environment variables that tell MLflow's own client the same.

        Args:
            folder: A private one, for the certificate and its key in one file, as MLflow wants them.

        Raises:
            AccessError: A file can't be read any more.
        """
        variables = {}
        if self.ca_file is not None:
            variables["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(self.ca_file.absolute())
        if self.client_certificate is not None:
            path = self.client_certificate.absolute()
            if self.client_key is not None:
                content = _read("client_certificate", path) + b"\n" + _read("client_key", self.client_key)
                path = folder / _COMBINED
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
            variables["MLFLOW_TRACKING_CLIENT_CERT_PATH"] = str(path)
        return variables

    def _load_client_certificate(self, context: ssl.SSLContext, certificate: Path) -> None:
        _read("client_certificate", certificate)
        if self.client_key is not None:
            _read("client_key", self.client_key)
        asked: list[bool] = []

        def no_password() -> str:
            # OpenSSL would ask the terminal.
            asked.append(True)
            return ""

        try:
            context.load_cert_chain(certificate, self.client_key, password=no_password)
        except (ssl.SSLError, ValueError):
            where = self.client_key or certificate
            if asked:
                raise AccessError(f"the key in {where} has a password; give it without one") from None
            raise AccessError(
                f"client_certificate: {certificate} and the key in {where} are no certificate and its key in PEM form"
            ) from None


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AccessError(f"{key}: {path} can't be read: {error.strerror}") from None
