"""Where settings come from: a TOML file, environment variables, the command line."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from prinz_enricher.config.endpoints import EndpointSettings
from prinz_enricher.config.registry import RegistrySettings
from prinz_enricher.config.section import ConfigError, Section

ENVIRONMENT_PREFIX = "PRINZ_"

NAMED: dict[str, tuple[type[Section], str]] = {
    "registries": (RegistrySettings, "a registry"),
    "endpoints": (EndpointSettings, "an endpoint"),
}
"""Sections with a table for each of several things that have a name."""

_LIKE_JSON = re.compile(r'\s*\[(\s*".*|.*\]\s*)', re.DOTALL)
"""A pattern such as `[ab]*` begins with a bracket too."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: It can't be read, or is no TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def read_environment(environment: Mapping[str, str], known: Mapping[str, type[Section]]) -> dict[str, dict[str, Any]]:
    """Read `PRINZ_<SECTION>__<KEY>` variables.

    Args:
        environment: All variables.
        known: The sections.

    Raises:
        ConfigError: What looks like a list of JSON is none.
    """
    values: dict[str, dict[str, Any]] = {}
    for variable, text in environment.items():
        if not variable.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section, separator, key = variable[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if not separator:
            # Kubernetes sets PRINZ_ENRICHER_PORT and the like beside a Service of that name: none of ours.
            continue
        if section in NAMED:
            name, _, key = key.partition("__")
            values.setdefault(section, {}).setdefault(name, {})[key] = _split_if_list(
                NAMED[section][0], key, text, variable
            )
        else:
            values.setdefault(section, {})[key] = _split_if_list(known.get(section), key, text, variable)
    return values


def merge(
    read: Iterable[tuple[str, Mapping[str, Any]]], known: Mapping[str, type[Section]]
) -> dict[str, dict[str, Any]]:
    """Put sources over each other, key by key.

    Args:
        read: What each source is called, and what it says by section; the last one wins.
        known: The sections.

    Raises:
        ConfigError: A section or a key is unknown.
    """
    merged: dict[str, dict[str, Any]] = {}
    for where, values in read:
        _check_keys(where, values, known)
        for section, entries in values.items():
            if section in NAMED:
                _merge_named(merged.setdefault(section, {}), entries)
            else:
                merged.setdefault(section, {}).update(entries)
    return merged


def _split_if_list(kind: type[Section] | None, key: str, text: str, variable: str) -> object:
    field = kind.model_fields.get(key) if kind is not None else None
    # Where a word may stand for a list, it is the default.
    if field is not None and "tuple[" in str(field.annotation) and text != field.default:
        if _LIKE_JSON.fullmatch(text):
            try:
                return json.loads(text)
            except ValueError:
                raise ConfigError(
                    f'environment: {variable} is an invalid list; expected JSON such as ["a", "b"], or a, b'
                ) from None
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _merge_named(merged: dict[str, Any], entries: Mapping[str, Any]) -> None:
    """Put the keys of each thing over those of the sources before.

    No environment variable has a hyphen in its name, so that `TEAM_A` is `team-a` where there is one.
    """
    for name, keys in entries.items():
        known = next((other for other in merged if other.replace("-", "_").lower() == name), name)
        merged.setdefault(name if name in merged else known, {}).update(keys)


def _check_keys(where: str, values: Mapping[str, Any], known: Mapping[str, type[Section]]) -> None:
    for section, entries in values.items():
        if section not in known and section not in NAMED:
            raise ConfigError(f'{where}: unknown section "{section}"{_nearest(section, [*known, *NAMED])}')
        if not isinstance(entries, Mapping):
            raise ConfigError(f'{where}: "{section}" is a section; write it as [{section}]')
        if section not in NAMED:
            _check_section(where, section, known[section], entries)
            continue
        kind, thing = NAMED[section]
        for name, keys in entries.items():
            if not _NAME.fullmatch(name):
                raise ConfigError(f'{where}: "{name}" is no name of {thing}; letters, digits, "-" and "_" are')
            if not isinstance(keys, Mapping):
                raise ConfigError(f"{where}: {thing} has a name; write it as [{section}.NAME]")
            _check_section(where, f"{section}.{name}", kind, keys)


def _check_section(where: str, section: str, kind: type[Section], entries: Mapping[str, Any]) -> None:
    for key in entries:
        if key not in kind.model_fields:
            raise ConfigError(f'{where}: unknown key "{key}" in section "{section}"{_nearest(key, kind.model_fields)}')


def _nearest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(known)}"
