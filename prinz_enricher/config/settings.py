"""All settings together, and how they are read: each source over the one before."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from prinz_enricher.config.caller_settings import AccessRule, AuditSettings, AuthSettings, QuotaSettings
from prinz_enricher.config.connections import EndpointSettings, RegistrySettings
from prinz_enricher.config.sections import (
    ApiSettings,
    CacheSettings,
    FlightSettings,
    HttpSettings,
    LoggingSettings,
    ScoringSettings,
    Section,
    ServerSettings,
    WorkerSettings,
    is_loopback,
)

ENVIRONMENT_PREFIX = "PRINZ_"

# Sections with a table for each of several things that have a name.
_NAMED: dict[str, tuple[type[Section], str]] = {
    "registries": (RegistrySettings, "a registry"),
    "endpoints": (EndpointSettings, "an endpoint"),
}
# Sections that are lists of tables.
_LISTED: dict[str, type[Section]] = {"access": AccessRule}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_LIKE_JSON = re.compile(r'\s*\[(\s*".*|.*\]\s*)', re.DOTALL)  # A pattern such as `[ab]*` begins with a bracket too.


class ConfigError(Exception):
    """The settings can't be used; the message names every fault and where it is."""


class Settings(Section):
    """All settings of the service."""

    registry: RegistrySettings = RegistrySettings()
    registries: dict[str, RegistrySettings] = Field({}, description="more registries, each under a name")
    endpoints: dict[str, EndpointSettings] = Field({}, description="model servers elsewhere, each under a name")
    server: ServerSettings = ServerSettings()
    api: ApiSettings = ApiSettings()
    flight: FlightSettings = FlightSettings()
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    access: tuple[AccessRule, ...] = ()
    quota: QuotaSettings = QuotaSettings()
    audit: AuditSettings = AuditSettings()
    scoring: ScoringSettings = ScoringSettings()
    workers: WorkerSettings = WorkerSettings()
    cache: CacheSettings = CacheSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def all_registries(self) -> dict[str, RegistrySettings]:
        """The registries that are served, by their names; the one of `[registry]` has none."""
        return ({"": self.registry} if self.registry.url else {}) | self.registries

    @property
    def authenticates(self) -> bool:
        """Whether callers must authenticate, by a token or a client certificate."""
        return self.auth.enabled or bool(self.server.tls.client_ca)

    @model_validator(mode="after")
    def _are_safe(self) -> Self:
        hosts = {"server.host": self.server.host} | ({} if self.http.port is None else {"http.host": self.http.host})
        hosts |= {} if self.api.port is None else {"api.host": self.api.host}
        opened = next((key for key, host in hosts.items() if not is_loopback(host)), None)
        if opened is not None and not self.server.tls.enabled and not self.server.insecure:
            hint = "set server.tls.certificate and key, or allow it by server.insecure (--insecure)"
            raise ValueError(f"{opened}: {hosts[opened]} is reachable by other machines without TLS; {hint}")
        if self.access and not self.authenticates:
            raise ValueError("access: needs authentication; set auth.tokens_file, auth.jwt or server.tls.client_ca")
        return self

    @model_validator(mode="after")
    def _have_different_prefixes(self) -> Self:
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
        """Read the settings from a TOML file, environment variables (by default the process's), and flags, which win.

        Flags are section → key → value. Raises ConfigError if a source can't be read, a key is unknown, or a value is
        out of its range.
        """
        variables = _read_environment(os.environ if environment is None else environment)
        sources = [("environment", variables), ("command line", flags or {})]
        if file is not None:
            sources.insert(0, (str(file), _read_toml(file)))
        return cls.of(_merge(sources))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings of these values by section; raises ConfigError with every fault."""
        try:
            return cls(**values)
        except ValidationError as error:
            faults = (
                ".".join(map(str, e["loc"])) + (": " if e["loc"] else "") + e["msg"].removeprefix("Value error, ")
                for e in error.errors()
            )
            raise ConfigError("; ".join(faults)) from None


def sections() -> dict[str, type[Section]]:
    """Return the class of each section that has no names, by its own name."""
    return {name: kind for name in Settings.model_fields if (kind := section_of(Settings, name)) is not None}


def section_of(kind: type[Section], key: str) -> type[Section] | None:
    """Return the class of the table under a key of a section; None where there is no such key, or it is a value."""
    found = kind.model_fields[key].annotation if key in kind.model_fields else None
    return found if isinstance(found, type) and issubclass(found, Section) else None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Read `PRINZ_<SECTION>__<KEY>`, with names and tables between them, and `PRINZ_ACCESS`.

    Other variables without a double underscore are none of ours: Kubernetes sets PRINZ_ENRICHER_PORT and the like
    beside a Service of that name.
    """
    known = sections() | {section: kind for section, (kind, _) in _NAMED.items()}
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section, separator, key = variable.upper().removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not separator:
            if section in _LISTED:
                values[section] = _read_json(variable, text, '[{"principals": …}]')
            continue
        table = values.setdefault(section, {})
        kind = known.get(section)
        if section in _NAMED:
            name, _, key = key.partition("__")
            table = table.setdefault(name, {})
        while kind is not None and (inner := section_of(kind, key.partition("__")[0])) is not None:
            name, separator, key = key.partition("__")
            if not separator:
                raise ConfigError(f"environment: {variable} is a section; set {variable.upper()}__<KEY>")
            table, kind = table.setdefault(name, {}), inner
        field = kind.model_fields.get(key) if kind is not None else None
        # Where a word may stand for a list, it is the default.
        is_list = field is not None and "tuple[" in str(field.annotation) and text != field.default
        table[key] = _split_list(variable, text) if is_list else text
    return values


def _split_list(variable: str, text: str) -> object:
    if not _LIKE_JSON.fullmatch(text):
        return [part.strip() for part in text.split(",") if part.strip()]
    return _read_json(variable, text, '["a", "b"], or a, b')


def _read_json(variable: str, text: str, example: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        expected = f"expected JSON such as {example}"
        raise ConfigError(f"environment: {variable} is an invalid list; {expected}") from None


def _merge(sources: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Put sources, each with what it is called, over each other, key by key; the last one wins."""
    known = sections()
    merged: dict[str, Any] = {}
    for where, values in sources:
        for section, entries in values.items():
            if section in _LISTED:
                merged[section] = _checked_list(where, section, entries)
                continue
            if section not in known and section not in _NAMED:
                hint = _nearest(section, [*known, *_NAMED, *_LISTED])
                raise ConfigError(f'{where}: unknown section "{section}"{hint}')
            table = merged.setdefault(section, {})
            if section not in _NAMED:
                _overlay(where, section, known[section], table, entries)
                continue
            if not isinstance(entries, Mapping):
                raise ConfigError(f'{where}: "{section}" is a section; write it as [{section}]')
            kind, thing = _NAMED[section]
            for name, keys in entries.items():
                if not _NAME.fullmatch(name):
                    raise ConfigError(f'{where}: invalid name of {thing}: "{name}"; expected letters, digits, "-", "_"')
                if not isinstance(keys, Mapping):
                    raise ConfigError(f"{where}: {thing} has a name; write it as [{section}.NAME]")
                # No environment variable has a hyphen in its name, so that `TEAM_A` is `team-a` where there is one.
                same = next((other for other in table if other.replace("-", "_").lower() == name), name)
                _overlay(where, f"{section}.{name}", kind, table.setdefault(name if name in table else same, {}), keys)
    return merged


def _overlay(where: str, section: str, kind: type[Section], table: dict[str, Any], entries: object) -> None:
    """Put the entries of a section, and of the tables in it, over those of the sources before."""
    if not isinstance(entries, Mapping):
        raise ConfigError(f'{where}: "{section}" is a section; write it as [{section}]')
    for key, value in entries.items():
        if key not in kind.model_fields:
            hint = _nearest(key.partition("__")[0], kind.model_fields)
            raise ConfigError(f'{where}: unknown key "{key}" in section "{section}"{hint}')
        if (inner := section_of(kind, key)) is not None:
            _overlay(where, f"{section}.{key}", inner, table.setdefault(key, {}), value)
        else:
            table[key] = value


def _checked_list(where: str, section: str, entries: object) -> list[dict[str, Any]]:
    """Return the tables of a section that has several without a name."""
    if not isinstance(entries, list):
        raise ConfigError(f'{where}: "{section}" is a list of sections; write each as [[{section}]]')
    tables: list[dict[str, Any]] = [{} for _ in entries]
    for table, entry in zip(tables, entries, strict=True):
        _overlay(where, section, _LISTED[section], table, entry)
    return tables


def _nearest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(known)}"
