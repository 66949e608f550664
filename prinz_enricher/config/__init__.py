"""The settings of the service: frozen values, with every default in this one place.

They come from, each over the one before: the defaults, a TOML file, environment variables (`PRINZ_` + section + `__` +
key, such as `PRINZ_SERVER__PORT`), and the flags of the command line.
"""

from prinz_enricher.config.connections import AccessKeys, EndpointSettings, RegistrySettings
from prinz_enricher.config.sections import (
    MIB,
    CacheSettings,
    HttpSettings,
    Section,
    ServerSettings,
    WorkerSettings,
)
from prinz_enricher.config.settings import ENVIRONMENT_PREFIX, ConfigError, Settings, sections

__all__ = [
    "ENVIRONMENT_PREFIX",
    "MIB",
    "AccessKeys",
    "CacheSettings",
    "ConfigError",
    "EndpointSettings",
    "HttpSettings",
    "RegistrySettings",
    "Section",
    "ServerSettings",
    "Settings",
    "WorkerSettings",
    "sections",
]
