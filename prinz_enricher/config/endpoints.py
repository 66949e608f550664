"""The settings of an endpoint: model servers elsewhere, which models they score, and how they are asked."""

from __future__ import annotations

import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from prinz_enricher.config.access import AccessKeys
from prinz_enricher.config.section import MIB, Section
from prinz_enricher.registry.auth.rules import access_faults, auth_method

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


class EndpointKeys(Section):
    """Model servers elsewhere, without the keys of their access."""

    urls: tuple[str, ...] = Field(
        (), description="base URLs of its servers, such as `https://models.example.com`; all must answer alike"
    )
    convention: tuple[str, ...] = Field(
        # Not `mlflow`, whose path names no model: whatever is served there would score for all.
        ("prinz", "databricks"),
        min_length=1,
        description="where below a base URL a model is scored, tried in order: `prinz`, `databricks`, `mlflow`, or a "
        "URL template such as `{base}/team/{name}/{version}/invocations`; see docs/remote.md",
    )
    models: tuple[str, ...] = Field(
        (), description="models that are scored here, by name; * stands for any text. A model's tag can say so, too"
    )
    endpoint_names: dict[str, str] = Field(
        {}, description="model's name = name of its Databricks serving endpoint; by default the model's name"
    )
    http2: bool = Field(False, description="whether HTTP/2 is offered to servers with https")
    timeout: float = Field(10.0, gt=0, le=600, description="seconds that one try of a request may take")
    max_concurrent: int = Field(8, ge=1, le=1024, description="requests at once, to all its servers together")
    max_rows: int = Field(8192, ge=1, description="rows of one request at most")
    max_bytes: int = Field(16 * MIB, ge=1024, description="bytes of one request at most")
    max_answer_bytes: int = Field(64 * MIB, ge=1024, description="bytes of one answer at most")
    max_retries: int = Field(3, ge=0, le=10, description="how often a call is tried again where that may help")
    retry_share: float = Field(
        0.2, ge=0, le=1, description="retries for each call, over all calls, so that a server that fails is spared"
    )
    breaker_failures: int = Field(
        5, ge=1, le=1000, description="failures in a row after which a base URL is left out for a while"
    )
    breaker_pause: float = Field(
        5.0, gt=0, le=60, description="seconds until it is tried again; doubled while it goes on failing, up to 60"
    )
    headers: dict[str, SecretStr] = Field({}, description="headers that each request has besides the usual ones")

    @field_validator("urls")
    @classmethod
    def _base_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, url in enumerate(value, 1):
            # By its number: it may hold a password.
            if fault := _url_fault(url):
                raise ValueError(f"the URL number {number} {fault}")
        bases = tuple(url.rstrip("/") for url in value)
        if len(set(bases)) < len(bases):
            raise ValueError("a URL stands there twice")
        if len({url.partition(":")[0].lower() for url in bases}) > 1:
            raise ValueError("its URLs are all of http:// or all of https://")
        return bases

    @field_validator("convention")
    @classmethod
    def _known_conventions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # Here, so that settings without endpoints do not bring in all of scoring.
        from prinz_enricher.scoring.remote.conventions import CONVENTIONS, template_fault

        for convention in value:
            if convention in CONVENTIONS:
                continue
            if not convention.startswith(("{base}", "/")):
                known = ", ".join(f'"{name}"' for name in CONVENTIONS)
                raise ValueError(
                    f'"{convention}" is no convention: {known} are, and templates that begin with {{base}}'
                )
            if fault := template_fault(convention):
                raise ValueError(f'the template "{convention}" can not be used: {fault}')
        return value

    @field_validator("models")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError('"" is no name pattern')
        return value

    @field_validator("headers")
    @classmethod
    def _sendable(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            text = secret.get_secret_value()
            if not _HEADER.fullmatch(name) or not (text.isascii() and text.isprintable()):
                raise ValueError(f'the header "{name}" can not be sent: it has characters that no header has')
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f'the header "{name}" is set by the service')
        if len({name.lower() for name in value}) < len(value):
            raise ValueError("a header stands there twice")
        return value


# The bases stand in this order so that the keys of access come last.
class EndpointSettings(AccessKeys, EndpointKeys):
    """Model servers elsewhere that score models in place of workers; see docs/remote.md."""

    @property
    def url(self) -> str:
        """The first of its base URLs, which the token endpoint of Databricks is next to."""
        return self.urls[0] if self.urls else ""

    @property
    def kind(self) -> Literal["mlflow"]:
        """What the rules of access take it for: a server that wants what the keys say."""
        return "mlflow"

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
    from prinz_enricher.scoring.remote.conventions import leads_elsewhere

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
    # Line breaks and tabs are dropped when a URL is taken apart.
    if not url.isprintable() or not _PATH.fullmatch(path) or "//" in path or leads_elsewhere(path):
        return "has a path that is none of a base URL"
    return ""
