"""The settings of the service: frozen values, with every default in this one place.

They come from, each over the one before: the defaults, a TOML file, environment variables (`PRINZ_` + section + `__` +
key, such as `PRINZ_SERVER__PORT`), and the flags of the command line.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from prinz_enricher.registry.auth.rules import access_faults

ENVIRONMENT_PREFIX = "PRINZ_"
MIB = 1024 * 1024

REGISTRIES = "registries"
"""The section with a table for each registry that has a name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class ConfigError(Exception):
    """The settings can't be used; the message tells every fault and where it stands."""


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class RegistrySettings(Section):
    """Which MLflow registry is served, and how it is reached."""

    # It may hold a password.
    url: str = Field(
        "", repr=False, description="an MLflow server (http://mlflow:5000), or a local store (sqlite:///mlflow.db)"
    )
    prefix: str | None = Field(
        None,
        max_length=200,
        description="put before the name of each of its models; none by default, and `NAME.` in `[registries.NAME]`",
    )
    kind: Literal["mlflow", "unity"] = Field(
        "mlflow", description="unity for the Unity Catalog of the Databricks workspace at the url"
    )
    refresh_interval: float = Field(10.0, gt=0, le=3600, description="seconds between two looks at the registry")
    timeout: float = Field(10.0, gt=0, le=600, description="seconds that one request to the registry may take")
    signature_ttl: float = Field(
        300.0,
        gt=0,
        le=86400,
        description="seconds within which each signature is looked at again; with up to 64 versions, at each look",
    )
    snapshot_folder: str | None = Field(
        None,
        description="folder for the last good list of models, served when the registry is down at the start; by "
        'default `${XDG_CACHE_HOME:-~/.cache}/prinz-enricher/catalog`, and `""` is none',
    )
    include: tuple[str, ...] = Field(
        ("*",), min_length=1, description="models to serve: name patterns such as `fraud-*`, or `tag:<key>=<pattern>`"
    )
    exclude: tuple[str, ...] = Field(
        (), description="models not to serve, likewise; they are as if they were not there"
    )
    auth: Literal["auto", "none", "basic", "token", "oauth2", "databricks"] = Field(
        "auto", description="how requests are authenticated; auto is what the other keys say"
    )
    username: str = Field("", description="user of basic authentication")
    password: SecretStr = Field(SecretStr(""), description="its password")
    password_file: str = Field("", description="file with the password, read again when it changes")
    token: SecretStr = Field(SecretStr(""), description="bearer token")
    token_file: str = Field("", description="file with the bearer token, read again when it changes")
    oauth2_token_url: str = Field("", description="token endpoint of OAuth 2.0 (client credentials)")
    oauth2_client_id: str = Field("", description="client id there")
    oauth2_client_secret: SecretStr = Field(SecretStr(""), description="client secret there")
    oauth2_client_secret_file: str = Field("", description="file with the client secret, read again when it changes")
    oauth2_scope: str = Field("", description="scope asked for; with databricks, all-apis where it is empty")
    oauth2_audience: str = Field("", description="audience asked for, where the token endpoint wants one")
    ca_file: str = Field("", description="PEM file of the only authorities that are trusted for https")
    client_certificate: str = Field("", description="PEM file of the certificate that is shown to the server")
    client_key: str = Field("", description="PEM file of its key, without a password, where it is not in the same file")

    @field_validator("include", "exclude")
    @classmethod
    def _known_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for rule in value:
            key, separator, _ = rule.removeprefix("tag:").partition("=")
            if not rule or (rule.startswith("tag:") and not (key and separator)):
                raise ValueError(f'"{rule}" is no rule: a name pattern or "tag:<key>=<pattern>" is')
        return value

    def prefix_of(self, name: str) -> str:
        """Return what is put before the names of its models.

        Args:
            name: The registry's; empty for the one without a name.
        """
        default = f"{name}." if name else ""
        return default if self.prefix is None else self.prefix

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if faults := access_faults(self):
            raise ValueError("; ".join(faults))
        return self


class ServerSettings(Section):
    """Where and how the service listens."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for all")
    port: int = Field(50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    max_message_bytes: int = Field(
        128 * MIB, ge=1024, le=2**31 - 1, description="bytes of a request at most, and of its Arrow stream decompressed"
    )
    max_calls: int = Field(10_000, ge=1, description="calls in flight at most; more are refused as OVERLOADED")
    front: Literal["auto", "native", "grpcio"] = Field(
        "auto", description="what speaks gRPC: native is quicker, auto takes it where pygrpc-native is installed"
    )
    grace_period: float = Field(30.0, ge=0, le=3600, description="seconds that calls get to end at SIGTERM")


class HttpSettings(Section):
    """The HTTP door: metrics, probes, and MLflow's webhooks; see docs/operations.md."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for all")
    port: int | None = Field(None, ge=0, le=65535, description="port to listen on; 0 takes a free one, none is no door")
    webhook_secret: SecretStr = Field(SecretStr(""), description="secret that MLflow signs its webhooks with")
    webhook_secret_file: str = Field(
        "", description="file with such secrets, one a line, read again when it changes; any of them will do"
    )

    @property
    def has_webhook(self) -> bool:
        """Whether webhooks are taken."""
        return bool(self.webhook_secret.get_secret_value() or self.webhook_secret_file)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.has_webhook and self.port is None:
            raise ValueError("webhooks are taken by the HTTP door, which needs a port")
        return self


class ScoringSettings(Section):
    """How models are loaded and scored."""

    default_version: tuple[str, ...] = Field(
        ("alias:champion", "latest"), min_length=1, description="which version is meant where a call names none"
    )
    preload: tuple[str, ...] = Field((), description="models to load at start, by name; * stands for any text")
    max_workers: int = Field(16, ge=1, le=1024, description="worker processes at most, one for each version in use")
    max_batch_rows: int = Field(1_000_000, ge=1, description="rows of a request at most")
    max_queue_rows: int = Field(2_000_000, ge=1, description="rows waiting for one version at most")
    batching: Literal["auto", "exact", "off"] = Field(
        "auto",
        description="whether rows of several callers share model calls: `auto`, where each was shown to get its own "
        "answer up to rounding; `exact`, where no bit of it changes; or `off`",
    )
    max_shared_rows: int = Field(1024, ge=1, description="rows of several callers in one model call at most")
    max_delay: float = Field(
        0.0, ge=0, le=1, description="seconds that a call may wait for others while its worker is idle"
    )
    load_timeout: float = Field(300.0, gt=0, description="seconds that loading a version may take")

    @field_validator("default_version")
    @classmethod
    def _known_policies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for policy in value:
            if policy != "latest" and not (policy.startswith("alias:") and len(policy) > len("alias:")):
                raise ValueError(f'"{policy}" is no policy: "latest" or "alias:<name>" are')
        return value


class LoggingSettings(Section):
    """What the service logs."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least level that is logged")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="console for people, json for machines; auto is console on a terminal"
    )


class Settings(Section):
    """All settings of the service."""

    registry: RegistrySettings = RegistrySettings()
    registries: dict[str, RegistrySettings] = Field({}, description="more registries, each under a name")
    server: ServerSettings = ServerSettings()
    http: HttpSettings = HttpSettings()
    scoring: ScoringSettings = ScoringSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def all_registries(self) -> dict[str, RegistrySettings]:
        """The registries that are served, by their names; the one of `[registry]` has none."""
        return ({"": self.registry} if self.registry.url else {}) | self.registries

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        prefixes: dict[str, str] = {}
        for name, registry in self.all_registries.items():
            where = f"registries.{name}" if name else "registry"
            if not registry.url:
                raise ValueError(f"{where}.url: is required")
            other = prefixes.setdefault(registry.prefix_of(name), where)
            if other != where:
                raise ValueError(f"{where}.prefix: is that of {other} too, so that their models can't be told apart")
        return self

    @classmethod
    def load(
        cls,
        flags: Mapping[str, Mapping[str, object]] | None = None,
        file: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Read the settings from all their sources.

        Args:
            flags: Section → key → value of the command line; they win.
            file: A TOML file.
            environment: Environment variables; those of the process by default.

        Raises:
            ConfigError: A source can't be read, a key is unknown, or a value is out of its range.
        """
        sources: list[tuple[str, Mapping[str, Any]]] = []
        if file is not None:
            sources.append((str(file), _read_toml(file)))
        sources.append(("environment", _read_environment(os.environ if environment is None else environment)))
        sources.append(("command line", flags or {}))
        merged: dict[str, Any] = {}
        for where, values in sources:
            _check_keys(where, values)
            for section, entries in values.items():
                if section == REGISTRIES:
                    _merge_registries(merged.setdefault(section, {}), entries)
                else:
                    merged.setdefault(section, {}).update(entries)
        try:
            return cls(**merged)
        except ValidationError as error:
            faults = (
                ".".join(map(str, e["loc"])) + (": " if e["loc"] else "") + e["msg"].removeprefix("Value error, ")
                for e in error.errors()
            )
            raise ConfigError("; ".join(faults)) from None


def sections() -> dict[str, type[Section]]:
    """Return the class of each section by its name."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _read_environment(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {}
    for variable, text in environment.items():
        if not variable.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section, separator, key = variable[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if not separator:
            # Kubernetes sets PRINZ_ENRICHER_PORT and the like beside a Service of that name: none of ours.
            continue
        if section == REGISTRIES:
            name, _, key = key.partition("__")
            values.setdefault(section, {}).setdefault(name, {})[key] = _split_if_list(RegistrySettings, key, text)
        else:
            values.setdefault(section, {})[key] = _split_if_list(sections().get(section), key, text)
    return values


def _split_if_list(kind: type[Section] | None, key: str, text: str) -> object:
    field = kind.model_fields.get(key) if kind is not None else None
    if field is not None and str(field.annotation).startswith("tuple"):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _merge_registries(merged: dict[str, Any], entries: Mapping[str, Any]) -> None:
    """Put the keys of each registry over those of the sources before.

    No environment variable has a hyphen in its name, so that `TEAM_A` is `team-a` where there is one.
    """
    for name, keys in entries.items():
        known = next((other for other in merged if other.replace("-", "_").lower() == name), name)
        merged.setdefault(name if name in merged else known, {}).update(keys)


def _check_keys(where: str, values: Mapping[str, Any]) -> None:
    known = sections()
    for section, entries in values.items():
        if section not in known and section != REGISTRIES:
            raise ConfigError(f'{where}: unknown section "{section}"{_nearest(section, [*known, REGISTRIES])}')
        if not isinstance(entries, Mapping):
            raise ConfigError(f'{where}: "{section}" is a section; write it as [{section}]')
        if section != REGISTRIES:
            _check_section(where, section, known[section], entries)
            continue
        for name, keys in entries.items():
            if not _NAME.fullmatch(name):
                raise ConfigError(f'{where}: "{name}" is no name of a registry; letters, digits, "-" and "_" are')
            if not isinstance(keys, Mapping):
                raise ConfigError(f"{where}: a registry has a name; write it as [{REGISTRIES}.NAME]")
            _check_section(where, f"{REGISTRIES}.{name}", RegistrySettings, keys)


def _check_section(where: str, section: str, kind: type[Section], entries: Mapping[str, Any]) -> None:
    for key in entries:
        if key not in kind.model_fields:
            raise ConfigError(f'{where}: unknown key "{key}" in section "{section}"{_nearest(key, kind.model_fields)}')


def _nearest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(known)}"
