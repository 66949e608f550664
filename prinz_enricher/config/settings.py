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

from prinz_enricher.config.connections import EndpointSettings, RegistrySettings
from prinz_enricher.config.sections import (
    CacheSettings,
    HttpSettings,
    LoggingSettings,
    ScoringSettings,
    Section,
    ServerSettings,
    WorkerSettings,
)

ENVIRONMENT_PREFIX = "PRINZ_"

# Sections with a table for each of several things that have a name.
_NAMED: dict[str, tuple[type[Section], str]] = {
    "registries": (RegistrySettings, "a registry"),
    "endpoints": (EndpointSettings, "an endpoint"),
}
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
    http: HttpSettings = HttpSettings()
    scoring: ScoringSettings = ScoringSettings()
    workers: WorkerSettings = WorkerSettings()
    cache: CacheSettings = CacheSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def all_registries(self) -> dict[str, RegistrySettings]:
        """The registries that are served, by their names; the one of `[registry]` has none."""
        return ({"": self.registry} if self.registry.url else {}) | self.registries

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
        try:
            return cls(**_merge(sources))
        except ValidationError as error:
            faults = (
                ".".join(map(str, e["loc"])) + (": " if e["loc"] else "") + e["msg"].removeprefix("Value error, ")
                for e in error.errors()
            )
            raise ConfigError("; ".join(faults)) from None


def sections() -> dict[str, type[Section]]:
    """Return the class of each section that has no names, by its own name."""
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
    """Read `PRINZ_<SECTION>__<KEY>` and `PRINZ_<SECTION>__<NAME>__<KEY>`.

    Variables without a double underscore are none of ours: Kubernetes sets PRINZ_ENRICHER_PORT and the like beside a
    Service of that name.
    """
    known = sections() | {section: kind for section, (kind, _) in _NAMED.items()}
    values: dict[str, dict[str, Any]] = {}
    for variable, text in environment.items():
        section, separator, key = variable.upper().removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not separator or not variable.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        table = values.setdefault(section, {})
        if section in _NAMED:
            name, _, key = key.partition("__")
            table = table.setdefault(name, {})
        field = known[section].model_fields.get(key) if section in known else None
        # Where a word may stand for a list, it is the default.
        is_list = field is not None and "tuple[" in str(field.annotation) and text != field.default
        table[key] = _split_list(variable, text) if is_list else text
    return values


def _split_list(variable: str, text: str) -> object:
    if not _LIKE_JSON.fullmatch(text):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except ValueError:
        expected = 'expected JSON such as ["a", "b"], or a, b'
        raise ConfigError(f"environment: {variable} is an invalid list; {expected}") from None


def _merge(sources: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Put sources, each with what it is called, over each other, key by key; the last one wins."""
    known = sections()
    merged: dict[str, dict[str, Any]] = {}
    for where, values in sources:
        for section, entries in values.items():
            if section not in known and section not in _NAMED:
                raise ConfigError(f'{where}: unknown section "{section}"{_nearest(section, [*known, *_NAMED])}')
            if not isinstance(entries, Mapping):
                raise ConfigError(f'{where}: "{section}" is a section; write it as [{section}]')
            table = merged.setdefault(section, {})
            if section not in _NAMED:
                _check_keys(where, section, known[section], entries)
                table.update(entries)
                continue
            kind, thing = _NAMED[section]
            for name, keys in entries.items():
                if not _NAME.fullmatch(name):
                    raise ConfigError(f'{where}: invalid name of {thing}: "{name}"; expected letters, digits, "-", "_"')
                if not isinstance(keys, Mapping):
                    raise ConfigError(f"{where}: {thing} has a name; write it as [{section}.NAME]")
                _check_keys(where, f"{section}.{name}", kind, keys)
                # No environment variable has a hyphen in its name, so that `TEAM_A` is `team-a` where there is one.
                same = next((other for other in table if other.replace("-", "_").lower() == name), name)
                table.setdefault(name if name in table else same, {}).update(keys)
    return merged


def _check_keys(where: str, section: str, kind: type[Section], entries: Mapping[str, Any]) -> None:
    for key in entries:
        if key not in kind.model_fields:
            raise ConfigError(f'{where}: unknown key "{key}" in section "{section}"{_nearest(key, kind.model_fields)}')


def _nearest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(known)}"
