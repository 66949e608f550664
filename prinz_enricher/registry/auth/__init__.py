"""How a registry is to be reached: who we say we are, whose certificates we trust, and what workers are told of it."""

from prinz_enricher.registry.auth.access import Access, open_access
from prinz_enricher.registry.auth.credentials import Basic, Bearer, Credentials, NoCredentials
from prinz_enricher.registry.auth.oauth2 import OAuth2Client, OAuth2Tokens
from prinz_enricher.registry.auth.rules import AccessSettings, access_faults
from prinz_enricher.registry.auth.secret import GivenSecret, SecretFile
from prinz_enricher.registry.auth.tls import TlsFiles

__all__ = [
    "Access",
    "AccessSettings",
    "Basic",
    "Bearer",
    "Credentials",
    "GivenSecret",
    "NoCredentials",
    "OAuth2Client",
    "OAuth2Tokens",
    "SecretFile",
    "TlsFiles",
    "access_faults",
    "open_access",
]
