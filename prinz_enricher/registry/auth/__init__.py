"""How a server is reached: our credentials, trusted certificates, and the variables by which workers do the same."""

from prinz_enricher.registry.auth.authentication import (
    BasicAuth,
    BearerAuth,
    GivenSecret,
    OAuth2Tokens,
    SecretFile,
)
from prinz_enricher.registry.auth.server_access import (
    Access,
    TlsFiles,
    access_faults,
    auth_method,
    open_access,
    url_login,
)
from prinz_enricher.registry.transport import Credentials

__all__ = [
    "Access",
    "BasicAuth",
    "BearerAuth",
    "Credentials",
    "GivenSecret",
    "OAuth2Tokens",
    "SecretFile",
    "TlsFiles",
    "access_faults",
    "auth_method",
    "open_access",
    "url_login",
]
