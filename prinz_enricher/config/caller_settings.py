"""The settings of who may call: tokens, access rules, quotas, and the audit of calls; see docs/security.md."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from prinz_enricher.config.sections import MIB, Section, is_loopback

_GROUP = "group:"


def _check_principal(pattern: str) -> str:
    if not pattern.removeprefix(_GROUP):
        raise ValueError(f'invalid principal "{pattern}"; expected a name, "group:<name>", or a pattern such as "nk-*"')
    return pattern


_PrincipalPattern = Annotated[str, AfterValidator(_check_principal)]
_ModelPattern = Annotated[str, Field(min_length=1)]


class JwtSettings(Section):
    """JSON Web Tokens of one issuer, signed with RS256, RS384, RS512, PS256, ES256, ES384 or EdDSA."""

    issuer: str = ""
    """required claim `iss`"""
    audience: str = ""
    """required claim `aud`, or one of its list"""
    jwks_url: str = ""
    """https URL of the issuer's keys, fetched every 10 minutes and for an unknown key"""
    jwks_file: str = ""
    """file of the issuer's keys, read again when it changes; instead of `jwks_url`"""
    principal_claim: str = Field("sub", min_length=1)
    """claim with the name of the caller"""
    groups_claim: str = Field("groups", min_length=1)
    """optional claim with the groups of the caller, a list of strings"""

    @property
    def enabled(self) -> bool:
        """Whether such tokens are accepted."""
        return bool(self.issuer)

    @field_validator("jwks_url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if url and (not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))):
            raise ValueError("must begin with https://; otherwise the keys can be replaced on their way")
        if parts.username or parts.password:
            raise ValueError("must not contain a user or password")
        return url

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.jwks_url and self.jwks_file:
            raise ValueError("jwks_url and jwks_file: only one of them can be set")
        keys = {
            "issuer": self.issuer,
            "audience": self.audience,
            "jwks_url or jwks_file": self.jwks_url or self.jwks_file,
        }
        missing = [key for key, value in keys.items() if not value]
        if 0 < len(missing) < len(keys):
            raise ValueError(f"{' and '.join(missing)}: required")
        return self


class AuthSettings(Section):
    """Tokens of callers; without them and `server.tls.client_ca`, calls are not authenticated."""

    tokens_file: str = ""
    """TOML file with digests of tokens, read again when it changes; see `prinz-enricher token new`"""
    jwt: JwtSettings = JwtSettings()

    @property
    def enabled(self) -> bool:
        """Whether tokens are accepted."""
        return bool(self.tokens_file or self.jwt.enabled)


class AccessRule(Section):
    """One access rule; without any, every authenticated caller may do everything."""

    principals: tuple[_PrincipalPattern, ...] = Field(min_length=1)
    """names of callers, or `group:<name>` (`*` wildcard)"""
    models: tuple[_ModelPattern, ...] = Field(min_length=1)
    """names of models (`*` wildcard)"""
    methods: tuple[Literal["list", "describe", "score", "watch"], ...] = Field(min_length=1)
    """allowed methods: `list`, `describe`, `score`, `watch`"""


class QuotaSettings(Section):
    """Limits per caller and instance; calls without authentication share one quota."""

    rows_per_second: int | None = Field(None, ge=1)
    """maximum rows per second and caller, also in one call; unlimited by default. A larger batch passes if the caller
    has sent nothing for a second, and delays the next"""
    calls_in_flight: int | None = Field(None, ge=1)
    """maximum simultaneous calls per caller; unlimited by default"""


class AuditSettings(Section):
    """The audit log: a JSON line per call, without values of rows."""

    output: str = ""
    """`stdout` or a file; disabled by default"""
    max_bytes: int = Field(100 * MIB, ge=MIB)
    """maximum bytes of the file before it is rotated"""
    backups: int = Field(5, ge=0, le=1000)
    """maximum number of rotated files"""
    required: bool = False
    """refuse calls while the audit log can't be written"""

    @model_validator(mode="after")
    def _has_an_output(self) -> Self:
        if self.required and not self.output:
            raise ValueError("required: needs output")
        return self
