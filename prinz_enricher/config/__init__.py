"""The settings of the service: frozen values, with every default in this one place.

They come from, each over the one before: the defaults, a TOML file, environment variables (`PRINZ_` + section + `__` +
key, such as `PRINZ_SERVER__PORT`), and the flags of the command line.
"""

from __future__ import annotations

from prinz_enricher.config.endpoints import EndpointSettings
from prinz_enricher.config.registry import RegistrySettings
from prinz_enricher.config.scoring import CacheSettings, ScoringSettings, WorkerSettings
from prinz_enricher.config.section import MIB, ConfigError, Section
from prinz_enricher.config.service import HttpSettings, LoggingSettings, ServerSettings
from prinz_enricher.config.settings import Settings, sections
from prinz_enricher.config.sources import ENVIRONMENT_PREFIX

__all__ = [
    "ENVIRONMENT_PREFIX",
    "MIB",
    "CacheSettings",
    "ConfigError",
    "EndpointSettings",
    "HttpSettings",
    "LoggingSettings",
    "RegistrySettings",
    "ScoringSettings",
    "Section",
    "ServerSettings",
    "Settings",
    "WorkerSettings",
    "sections",
]
