"""How a server is reached: our credentials, trusted certificates, and the variables by which workers do the same."""

from prinz_enricher.registry.auth.authentication import (
    BasicAuth,
    BearerAuth,
    GivenSecret,
    NoAuth,
    OAuth2Client,
    OAuth2Tokens,
    SecretFile,
)
from prinz_enricher.registry.auth.server_access import Access, TlsFiles, access_faults, auth_method, open_access
from prinz_enricher.registry.transport import Credentials

__all__ = [
    "Access",
    "BasicAuth",
    "BearerAuth",
    "Credentials",
    "GivenSecret",
    "NoAuth",
    "OAuth2Client",
    "OAuth2Tokens",
    "SecretFile",
    "TlsFiles",
    "access_faults",
    "auth_method",
    "open_access",
]
