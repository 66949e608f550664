"""What can go wrong between us and a registry.

RegistryError
├── RegistryUnreachable     no answer: no connection, or none in time
├── RegistryRefused         an answer with a status that is not 200
│   └── TokenRefused            such an answer of the endpoint that gives tokens
├── RegistryUnreadable      an answer that is not what it should be: no JSON, too large, pages that never end
├── CredentialsUnavailable  the file of a password or token holds none
├── MlmodelUnreadable       the version's MLmodel file is not what it should be
└── ArtifactsRefused        what the registry lists as a version's files is not what a model may be
PrivateServerError          the private server could not be started
AccessError                 certificates or settings of the access to a registry can't be used

They stay inside `registry/` and `catalog/`; callers of the service see those of `prinz_enricher.errors`. No message
holds credentials; of what the server said it holds what `registry/words.py` lets through.
"""

from __future__ import annotations

from http import HTTPStatus

_MAY_PASS = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)


class RegistryError(Exception):
    """The registry did not answer as it should."""

    @property
    def transient(self) -> bool:
        """Whether the same request may be answered later."""
        return True


class RegistryUnreachable(RegistryError):
    """The registry gave no answer."""


class RegistryRefused(RegistryError):
    """The registry answered with a status that is not 200.

    Attributes:
        status: The HTTP status.
        error_code: MLflow's own code, such as `RESOURCE_DOES_NOT_EXIST`; empty where there is none.
        words: The first line of MLflow's own message, without addresses and credentials; empty where there is none.
    """

    def __init__(self, message: str, status: int, error_code: str = "", words: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.words = words

    @property
    def missing(self) -> bool:
        """Whether what was asked for does not exist."""
        return self.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)

    @property
    def forbidden(self) -> bool:
        """Whether it was said that we may not have what was asked for."""
        return self.status == HTTPStatus.FORBIDDEN

    @property
    def transient(self) -> bool:
        """Whether the same request may be answered later; credentials, too, may be right again."""
        return self.status in _MAY_PASS or not 400 <= self.status < 500


class TokenRefused(RegistryRefused):
    """The token endpoint gave no token; whether what was asked of the registry exists is not known."""

    @property
    def missing(self) -> bool:
        """Whether what was asked for does not exist: nobody said so."""
        return False

    @property
    def forbidden(self) -> bool:
        """Whether it was said that we may not have what was asked for: nobody was asked."""
        return False

    @property
    def transient(self) -> bool:
        """Whether the same request may be answered later: once the endpoint gives tokens."""
        return True


class CredentialsUnavailable(RegistryError):
    """A password or token can't be had from where it should be."""


class RegistryUnreadable(RegistryError):
    """The registry's answer is not what it should be."""


class MlmodelUnreadable(RegistryError):
    """A version's MLmodel file is not what it should be."""

    @property
    def transient(self) -> bool:
        """The file stays as it is until someone writes it anew."""
        return False


class ArtifactsRefused(RegistryError):
    """What the registry lists as a version's files is not what a model may be."""

    @property
    def transient(self) -> bool:
        """What was logged stays as it is."""
        return False


class PrivateServerError(Exception):
    """The private MLflow server can't be started; the message says why."""


class AccessError(Exception):
    """The access to a registry can't be set up; the message says why."""
