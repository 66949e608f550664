"""The settings of the service: frozen values, with every default in this one place.

They come from, each over the one before: the defaults, a TOML file, environment variables (`PRINZ_` + section + `__` +
key, such as `PRINZ_SERVER__PORT` or `PRINZ_SERVER__TLS__KEY`), and the flags of the command line.
"""

from prinz_enricher.config.caller_settings import AccessRule as AccessRule
from prinz_enricher.config.caller_settings import AuditSettings as AuditSettings
from prinz_enricher.config.caller_settings import AuthSettings as AuthSettings
from prinz_enricher.config.caller_settings import JwtSettings as JwtSettings
from prinz_enricher.config.caller_settings import QuotaSettings as QuotaSettings
from prinz_enricher.config.connections import AccessKeys as AccessKeys
from prinz_enricher.config.connections import EndpointSettings as EndpointSettings
from prinz_enricher.config.connections import RegistrySettings as RegistrySettings
from prinz_enricher.config.reloading import is_reloaded as is_reloaded
from prinz_enricher.config.reloading import reload as reload
from prinz_enricher.config.sections import MIB as MIB
from prinz_enricher.config.sections import CacheSettings as CacheSettings
from prinz_enricher.config.sections import ConnectionSettings as ConnectionSettings
from prinz_enricher.config.sections import FlightSettings as FlightSettings
from prinz_enricher.config.sections import HttpSettings as HttpSettings
from prinz_enricher.config.sections import LoggingSettings as LoggingSettings
from prinz_enricher.config.sections import Section as Section
from prinz_enricher.config.sections import ServerSettings as ServerSettings
from prinz_enricher.config.sections import TlsSettings as TlsSettings
from prinz_enricher.config.sections import WorkerSettings as WorkerSettings
from prinz_enricher.config.sections import is_loopback as is_loopback
from prinz_enricher.config.settings import ENVIRONMENT_PREFIX as ENVIRONMENT_PREFIX
from prinz_enricher.config.settings import ConfigError as ConfigError
from prinz_enricher.config.settings import Settings as Settings
from prinz_enricher.config.settings import section_of as section_of
from prinz_enricher.config.settings import sections as sections
