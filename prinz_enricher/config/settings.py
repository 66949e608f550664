"""All settings together, and how they are read: each source over the one before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from prinz_enricher.config import sources
from prinz_enricher.config.endpoints import EndpointSettings
from prinz_enricher.config.registry import RegistrySettings
from prinz_enricher.config.scoring import CacheSettings, ScoringSettings, WorkerSettings
from prinz_enricher.config.section import ConfigError, Section
from prinz_enricher.config.service import HttpSettings, LoggingSettings, ServerSettings


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
        read: list[tuple[str, Mapping[str, Any]]] = []
        known = sections()
        if file is not None:
            read.append((str(file), sources.read_toml(file)))
        read.append(
            ("environment", sources.read_environment(os.environ if environment is None else environment, known))
        )
        read.append(("command line", flags or {}))
        try:
            return cls(**sources.merge(read, known))
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
