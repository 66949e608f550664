"""The access to one registry, made from its settings."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from prinz_enricher.registry.auth.credentials import Basic, Bearer, Credentials, NoCredentials
from prinz_enricher.registry.auth.oauth2 import OAuth2Client, OAuth2Tokens
from prinz_enricher.registry.auth.rules import AccessSettings, Hidden, access_faults, auth_method, url_login
from prinz_enricher.registry.auth.secret import GivenSecret, SecretFile, SecretSource
from prinz_enricher.registry.auth.tls import TlsFiles
from prinz_enricher.registry.errors import AccessError
from prinz_enricher.registry.exchange import trusts_environment

UNITY = "unity"
_DATABRICKS_TOKEN_PATH = "/oidc/v1/token"  # noqa: S105 - a path
_DATABRICKS_SCOPE = "all-apis"
_UNITY_REGISTRY = "databricks-uc"


@dataclass(frozen=True, slots=True)
class Access:
    """How one registry is reached, by the front and by MLflow's own client in a worker.

    Attributes:
        url: The registry's URL, without user and password.
        unity: Whether it is a Unity Catalog.
        credentials: Who we say we are.
        tls: Whose certificates are trusted, and which is shown.
        own: Whether any of this was set; else workers get what this process has in its environment for MLflow.
    """

    url: str
    unity: bool = False
    credentials: Credentials = field(default_factory=NoCredentials)
    tls: TlsFiles | None = None
    own: bool = False

    @property
    def tracking_uri(self) -> str:
        """What MLflow's own client calls this registry."""
        return _UNITY_REGISTRY if self.unity else self.url

    def tls_context(self) -> ssl.SSLContext | None:
        """Return whose certificates are trusted, and which is shown; None where nothing was set.

        Raises:
            AccessError: A certificate can't be used.
        """
        host = urlsplit(self.url).hostname or ""
        return None if self.tls is None else self.tls.context(trust_env=trusts_environment(host))

    def fetch_variables(self, folder: Path) -> dict[str, str] | None:
        """Return the environment variables of a process that fetches a model, valid now; it may ask for a token.

        Args:
            folder: The process's private folder.

        Returns:
            None where nothing was set for this registry.

        Raises:
            RegistryError: There is no valid password or token to be had.
            AccessError: A certificate can't be read any more.
        """
        if not self.own:
            return None
        files = self.tls.mlflow_variables(folder) if self.tls is not None else {}
        if not self.unity:
            return {**self.credentials.mlflow_variables(), **files}
        token = self.credentials.mlflow_variables()["MLFLOW_TRACKING_TOKEN"]
        variables = {"DATABRICKS_HOST": self.url, "DATABRICKS_TOKEN": token, "DATABRICKS_AUTH_TYPE": "pat"}
        if self.tls is not None and self.tls.ca_file is not None:
            variables["REQUESTS_CA_BUNDLE"] = str(self.tls.ca_file.absolute())
        return variables


def open_access(settings: AccessSettings, url: str | None = None) -> Access:
    """Make the access that the settings say; certificates are read, nobody is asked yet.

    Args:
        settings: Of one registry.
        url: Where it is, if not where the settings say: that of a local store's private server.

    Raises:
        AccessError: The settings contradict each other, or a certificate can't be used.
    """
    faults = access_faults(settings)
    if faults:
        raise AccessError("; ".join(faults))
    if url is not None:
        return Access(url)
    shown = _without_login(settings.url)
    tls = None
    if settings.ca_file or settings.client_certificate:
        tls = TlsFiles(_path(settings.ca_file), _path(settings.client_certificate), _path(settings.client_key))
        # Here, so that a fault of theirs shows at the start.
        tls.context()
    return Access(
        url=shown,
        unity=settings.kind == UNITY,
        credentials=_credentials(settings, shown, tls),
        tls=tls,
        own=auth_method(settings) != "none" or settings.auth == "none" or tls is not None,
    )


def _credentials(settings: AccessSettings, url: str, tls: TlsFiles | None) -> Credentials:
    match auth_method(settings):
        case "basic":
            login = url_login(settings.url)
            if login is not None:
                return Basic(login[0], GivenSecret(login[1]))
            return Basic(settings.username, _secret(settings.password, settings.password_file, "password"))
        case "token":
            return Bearer(_secret(settings.token, settings.token_file, "token"))
        case "none":
            return NoCredentials()
        case method:
            databricks = method == "databricks"
            token_url = _databricks_token_url(url) if databricks else settings.oauth2_token_url
            client = OAuth2Client(
                token_url=token_url,
                client_id=settings.oauth2_client_id,
                secret=_secret(settings.oauth2_client_secret, settings.oauth2_client_secret_file, "client secret"),
                scope=settings.oauth2_scope or (_DATABRICKS_SCOPE if databricks else ""),
                audience=settings.oauth2_audience,
            )
            host = urlsplit(token_url).hostname or ""
            context = None if tls is None else tls.context(trust_env=trusts_environment(host))
            return Bearer(OAuth2Tokens(client, timeout=settings.timeout, tls=context))


def _secret(given: Hidden, file: str, what: str) -> SecretSource:
    return SecretFile(Path(file), what) if file else GivenSecret(given.get_secret_value())


def _databricks_token_url(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{_DATABRICKS_TOKEN_PATH}"


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return shown.geturl().rstrip("/")


def _path(text: str) -> Path | None:
    return Path(text) if text else None
