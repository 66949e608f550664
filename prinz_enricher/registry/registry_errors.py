"""What can go wrong between us and a registry, and what may be shown of an error that someone else wrote.

They stay inside `registry/` and `catalog/`; callers of the service see those of `prinz_enricher.errors`. No message
holds credentials; of what the server said it holds what `redact` lets through.
"""

import re
from collections.abc import Collection
from http import HTTPStatus

MAX_SHOWN_CHARACTERS = 400
_MAX_SEARCHED_CHARACTERS = 1000  # This bounds the time that the pattern takes.

_NAMED_SECRET = re.compile(
    r"(?:authorization|cookie|token|passw(?:or)?d|pwd|secret|signature|\bsig|credential|(?:api|access|account)_?-?key)"
    # Not the name of an exception, such as NoCredentialsError.
    r"(?!\w*(?:error|exception)\b)[\w-]*[\"'\]]*\s*[=:]|\b(?:bearer|basic)\s+\S",
    re.IGNORECASE,
)

# Credentials may become valid again.
_TRANSIENT = (
    *(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
    *(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS),
)


class RegistryError(Exception):
    """The registry did not answer as it should; `transient` if the same request may be answered later.

    It says of a `missing` entity that it does not exist, of a `forbidden` one that we may not have it.
    """

    transient = True
    missing = False
    forbidden = False


class RegistryUnreachable(RegistryError):
    """No answer: no connection, or none in time."""


class RegistryRefused(RegistryError):
    """An answer with an HTTP status that is not 200, with MLflow's own code and redacted message, if any."""

    def __init__(self, message: str, status: int, error_code: str = "", words: str = "") -> None:
        # All of them, so that it can be copied.
        super().__init__(message, status, error_code, words)
        self.status = status
        self.error_code = error_code
        self.words = words
        self.missing = status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
        self.forbidden = status == HTTPStatus.FORBIDDEN
        self.transient = status in _TRANSIENT or not 400 <= status < 500

    def __str__(self) -> str:
        return str(self.args[0])


class TokenRefused(RegistryRefused):
    """An answer without a token of the token endpoint, so that the registry was not asked at all."""

    def __init__(self, message: str, status: int, error_code: str = "", words: str = "") -> None:
        super().__init__(message, status, error_code, words)
        self.missing = self.forbidden = False
        self.transient = True


class CredentialsUnavailable(RegistryError):
    """A password or token that can't be read from its file."""


class RegistryUnreadable(RegistryError):
    """An invalid answer: not JSON, too large, endless pages."""


class MlmodelUnreadable(RegistryError):
    """An invalid MLmodel file of a version, which stays so until it is logged anew."""

    transient = False


class ArtifactsRefused(RegistryError):
    """A list of a version's files that can not be those of a model, until it is logged anew."""

    transient = False


class PrivateServerError(Exception):
    """The private MLflow server can't be started."""


class AccessError(Exception):
    """Certificates or settings of the access to a server can't be used."""


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """Return what may be shown of a foreign message: its first line, printable, of at most `MAX_SHOWN_CHARACTERS`.

    The secrets are left out, and so is a word with an address, a query, or a user and password, and all that follows
    the name of a secret and `=` or `:`, since nobody knows where the secret ends.
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
