"""The settings of the servers that the service calls: registries, and model servers elsewhere."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from prinz_enricher.catalog.serving_rules import parse_rule
from prinz_enricher.config.endpoint_paths import CONVENTIONS, leads_elsewhere, template_fault
from prinz_enricher.config.sections import MIB, Section
from prinz_enricher.registry.auth import access_faults, auth_method

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
# A URL's path, in the characters of RFC 3986, section 3.3.
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_OWN_HEADERS = frozenset(
    (
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
        *("expect", "host", "te", "trailer", "transfer-encoding", "upgrade", "user-agent"),
    )
)


def _check_rule(rule: str) -> str:
    parse_rule(rule)
    return rule


def _check_convention(convention: str) -> str:
    if convention in CONVENTIONS:
        return convention
    if not convention.startswith(("{base}", "/")):
        known = ", ".join(f'"{name}"' for name in CONVENTIONS) + ", or a template that begins with {base}"
        raise ValueError(f'invalid convention "{convention}"; expected {known}')
    if fault := template_fault(convention):
        raise ValueError(f'the template "{convention}" can not be used: {fault}')
    return convention


_Rule = Annotated[str, AfterValidator(_check_rule)]
_Convention = Annotated[str, AfterValidator(_check_convention)]


class AccessKeys(Section):
    """Keys of each registry and endpoint; see docs/registry.md."""

    auth: Literal["auto", "none", "basic", "token", "oauth2", "databricks"] = "auto"
    """`none`, `basic`, `token`, `oauth2` or `databricks`; auto chooses by the other keys"""
    username: str = ""
    """user of basic authentication"""
    password: SecretStr = SecretStr("")
    """its password"""
    password_file: str = ""
    """file of the password, read again when it changes"""
    token: SecretStr = SecretStr("")
    """bearer token"""
    token_file: str = ""
    """file of the bearer token, read again when it changes"""
    oauth2_token_url: str = ""
    """token endpoint (OAuth 2.0 client credentials)"""
    oauth2_client_id: str = ""
    """client id"""
    oauth2_client_secret: SecretStr = SecretStr("")
    """client secret"""
    oauth2_client_secret_file: str = ""
    """file of the client secret, read again when it changes"""
    oauth2_scope: str = ""
    """requested scope; with databricks all-apis by default"""
    oauth2_audience: str = ""
    """requested audience"""
    ca_file: str = ""
    """PEM file of the only trusted CAs"""
    client_certificate: str = ""
    """PEM file of the client certificate"""
    client_key: str = ""
    """PEM file of its key, without a password, unless in the same file"""


class RegistrySettings(AccessKeys):
    """The MLflow registry; `[registries.NAME]` for more of them. See docs/registry.md."""

    url: str = Field("", repr=False)  # It may hold a password.
    """MLflow server (http://mlflow:5000) or local store (sqlite:///mlflow.db)"""
    prefix: str | None = Field(None, max_length=200)
    """prefix of model names; by default none, `NAME.` in `[registries.NAME]`"""
    kind: Literal["mlflow", "unity"] = "mlflow"
    """`mlflow`, or `unity` for the Unity Catalog of the Databricks workspace at the url"""
    refresh_interval: float = Field(10.0, gt=0, le=3600)
    """seconds between reads of the registry"""
    timeout: float = Field(10.0, gt=0, le=600)
    """seconds per request to the registry"""
    signature_ttl: float = Field(300.0, gt=0, le=86400)
    """seconds until a signature is checked again; with up to 64 versions at each refresh"""
    snapshot_folder: str | None = None
    """folder of the last good list of models, served if the registry is down at the start, and of the versions in use
    (`scoring.preload`); by default `${XDG_CACHE_HOME:-~/.cache}/prinz-enricher/catalog`; `""` disables it"""
    include: tuple[_Rule, ...] = Field(("*",), min_length=1)
    """models to serve: name patterns (`fraud-*`) or `tag:<key>=<pattern>`"""
    exclude: tuple[_Rule, ...] = ()
    """models to hide, by the same rules"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if faults := access_faults(self):
            raise ValueError("; ".join(faults))
        return self

    def prefix_of(self, name: str) -> str:
        """Return what is put before the names of its models; it is called `name`, or has no name (empty)."""
        default = f"{name}." if name else ""
        return default if self.prefix is None else self.prefix


class EndpointSettings(AccessKeys):
    """Model servers that score in place of workers; see docs/remote.md."""

    urls: tuple[str, ...] = ()
    """base URLs of equivalent servers, such as `https://models.example.com`"""
    # Not `mlflow`, whose path names no model: whatever is served there would score for all.
    convention: tuple[_Convention, ...] = Field(("prinz", "databricks"), min_length=1)
    """paths below a base URL, tried in order: `prinz`, `databricks`, `mlflow`, or a template such as
    `{base}/team/{name}/{version}/invocations`"""
    models: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """models scored here, by name (`*` wildcard); the tag `prinz.route` adds others"""
    endpoint_names: dict[str, str] = Field({})
    """Databricks serving endpoint of each model name; by default of the same name"""
    http2: bool = False
    """offer HTTP/2 over https"""
    timeout: float = Field(10.0, gt=0, le=600)
    """seconds per attempt"""
    max_concurrent: int = Field(8, ge=1, le=1024)
    """maximum concurrent requests to all servers together"""
    max_rows: int = Field(8192, ge=1)
    """maximum rows per request"""
    max_bytes: int = Field(16 * MIB, ge=1024)
    """maximum bytes per request"""
    max_answer_bytes: int = Field(64 * MIB, ge=1024)
    """maximum bytes per answer"""
    max_retries: int = Field(3, ge=0, le=10)
    """maximum retries per call"""
    retry_share: float = Field(0.2, ge=0, le=1)
    """maximum retries per call, on average over all calls"""
    breaker_failures: int = Field(5, ge=1, le=1000)
    """failures in a row after which a base URL is left out"""
    breaker_pause: float = Field(5.0, gt=0, le=60)
    """seconds until it is tested again; doubled up to 60 while it fails"""
    headers: dict[str, SecretStr] = Field({})
    """additional request headers"""

    @property
    def url(self) -> str:
        """The first of its base URLs, which the token endpoint of Databricks is next to."""
        return self.urls[0] if self.urls else ""

    @property
    def kind(self) -> Literal["mlflow"]:
        """What it is for the rules of access: a server that wants what the keys say."""
        return "mlflow"

    @field_validator("urls")
    @classmethod
    def _are_base_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, url in enumerate(value, 1):
            # By its number: it may hold a password.
            if fault := _url_fault(url):
                raise ValueError(f"the URL number {number} {fault}")
        bases = tuple(url.rstrip("/") for url in value)
        if len(set(bases)) < len(bases):
            raise ValueError("a URL is listed twice")
        if len({urlsplit(url).scheme for url in bases}) > 1:
            raise ValueError("its URLs must be all of http:// or all of https://")
        return bases

    @field_validator("headers")
    @classmethod
    def _are_sendable(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            text = secret.get_secret_value()
            if not _HEADER.fullmatch(name) or not (text.isascii() and text.isprintable()):
                raise ValueError(f'the header "{name}" can not be sent: it has characters that no header has')
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f'the header "{name}" is set by the service')
        if len({name.lower() for name in value}) < len(value):
            raise ValueError("a header is listed twice")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.urls:
            raise ValueError("urls: at least one is required")
        if faults := access_faults(self):
            raise ValueError("; ".join(faults))
        if "authorization" in map(str.lower, self.headers) and auth_method(self) != "none":
            raise ValueError("the header Authorization does not go with the other keys of authentication")
        return self


def _url_fault(url: str) -> str:
    """Return what is wrong with a base URL, without its text; empty for nothing."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "can't be read"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be http://host… or https://host…"
    if "@" in parts.netloc:
        return "has a user or a password; there are keys for them"
    if "?" in url or "#" in url:
        return "has a query or a fragment"
    if not _HOST.fullmatch(parts.netloc):
        return "has a host that can't be read; one that is not in ASCII is written in its ASCII form (xn--…)"
    path = parts.path.rstrip("/")
    # Line breaks and tabs are dropped when a URL is parsed.
    if not url.isprintable() or not _PATH.fullmatch(path) or "//" in path or leads_elsewhere(path):
        return "has a path that no base URL has"
    return ""
