"""What can go wrong between us and a registry, and what may be shown of an error that someone else wrote.

RegistryError
├── RegistryUnreachable     no answer: no connection, or none in time
├── RegistryRefused         an answer with a status that is not 200
│   └── TokenRefused            such an answer of the token endpoint
├── RegistryUnreadable      an invalid answer: not JSON, too large, endless pages
├── CredentialsUnavailable  the file of a password or token holds none
├── MlmodelUnreadable       the version's MLmodel file is invalid
└── ArtifactsRefused        what the registry lists as a version's files can not be those of a model
PrivateServerError          the private server could not be started
AccessError                 certificates or settings of the access to a registry can't be used

They stay inside `registry/` and `catalog/`; callers of the service see those of `prinz_enricher.errors`. No message
holds credentials; of what the server said it holds what `redact` lets through.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from http import HTTPStatus

MAX_SHOWN_CHARACTERS = 400
"""Of a foreign message."""

_MAX_SEARCHED_CHARACTERS = 1000
"""Of a foreign message: this bounds the time that the pattern takes."""

_NAMED_SECRET = re.compile(
    r"(?:authorization|cookie|token|passw(?:or)?d|pwd|secret|signature|\bsig|credential|(?:api|access|account)_?-?key)"
    # Not the name of an exception, such as NoCredentialsError.
    r"(?!\w*(?:error|exception)\b)[\w-]*[\"'\]]*\s*[=:]|\b(?:bearer|basic)\s+\S",
    re.IGNORECASE,
)

_TRANSIENT = frozenset(
    {
        # Credentials may become valid again.
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
        error_code: MLflow's own code, such as `RESOURCE_DOES_NOT_EXIST`, or empty.
        words: The first line of MLflow's message, redacted, or empty.
    """

    def __init__(self, message: str, status: int, error_code: str = "", words: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.words = words

    @property
    def missing(self) -> bool:
        """Whether the requested entity does not exist."""
        return self.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)

    @property
    def forbidden(self) -> bool:
        """Whether we may not have the requested entity."""
        return self.status == HTTPStatus.FORBIDDEN

    @property
    def transient(self) -> bool:
        """Whether the same request may be answered later."""
        return self.status in _TRANSIENT or not 400 <= self.status < 500


class TokenRefused(RegistryRefused):
    """The token endpoint issued no token, so that the registry was not asked at all."""

    missing = False
    forbidden = False
    transient = True


class CredentialsUnavailable(RegistryError):
    """A password or token can't be read from where it should be."""


class RegistryUnreadable(RegistryError):
    """The registry's answer is invalid."""


class MlmodelUnreadable(RegistryError):
    """A version's MLmodel file is invalid; it stays so until it is logged anew."""

    transient = False


class ArtifactsRefused(RegistryError):
    """What the registry lists as a version's files can not be those of a model; it stays so until it is logged anew."""

    transient = False


class PrivateServerError(Exception):
    """The private MLflow server can't be started; the message says why."""


class AccessError(Exception):
    """The access to a registry can't be set up; the message says why."""


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """Return what may be shown of a foreign message: its first line, printable, of at most `MAX_SHOWN_CHARACTERS`.

    A word with an address, a query, or a user and password is left out. So is all that follows the name of a secret and
    `=` or `:`, since nobody can tell where the secret ends.

    Args:
        text: The message.
        secrets: Texts that are left out wherever they stand.
    """
    for secret in secrets:
        text = text.replace(secret, "…")
    line = next(iter(text.strip().splitlines()), "")
    if len(line) > _MAX_SEARCHED_CHARACTERS:
        # The last word may be half a secret.
        line = line[:_MAX_SEARCHED_CHARACTERS].rpartition(" ")[0]
    line = "".join(character if character.isprintable() else " " for character in line)
    words = " ".join("…" if _is_address(word) else word for word in line.split(" "))
    if named := _NAMED_SECRET.search(words):
        words = words[: words.rfind(" ", 0, named.start()) + 1] + "…"
    return words if len(words) <= MAX_SHOWN_CHARACTERS else f"{words[: MAX_SHOWN_CHARACTERS - 1]}…"


def _is_address(word: str) -> bool:
    return "://" in word or ":" in word.rpartition("@")[0] or "?" in word[:-1] or "host=" in word
