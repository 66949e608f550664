"""What others say of an error, as far as it may be shown: whoever wrote it may have quoted anything."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Collection
from contextlib import suppress

MAX_CHARACTERS = 400
"""How much of a message is told on."""

_MOST_READ = 1000
"""How much of a message is looked at: the time that a pattern takes has a bound, whatever was sent."""

_NAMED_SECRET = re.compile(
    r"(?:authorization|cookie|token|passw(?:or)?d|pwd|secret|signature|\bsig|credential|(?:api|access|account)_?-?key)"
    # Not the name of an exception, such as NoCredentialsError.
    r"(?!\w*(?:error|exception)\b)[\w-]*[\"'\]]*\s*[=:]|\b(?:bearer|basic)\s+\S",
    re.IGNORECASE,
)


def hidden(text: str, secrets: Collection[str] = ()) -> str:
    """Return what may be shown of a message: its first line, printable, of at most `MAX_CHARACTERS`.

    A word with an address, a query, or a user and password is left out. So is all that follows the name of a secret and
    `=` or `:`, since nobody can tell where the secret ends.

    Args:
        text: What somebody said.
        secrets: What is left out wherever it stands.
    """
    for secret in secrets:
        text = text.replace(secret, "…")
    line = next(iter(text.strip().splitlines()), "")
    if len(line) > _MOST_READ:
        # The last word may be half a secret.
        line = line[:_MOST_READ].rpartition(" ")[0]
    line = "".join(character if character.isprintable() else " " for character in line)
    words = " ".join("…" if _is_address(word) else word for word in line.split(" "))
    if named := _NAMED_SECRET.search(words):
        words = words[: words.rfind(" ", 0, named.start()) + 1] + "…"
    return words if len(words) <= MAX_CHARACTERS else f"{words[: MAX_CHARACTERS - 1]}…"


def read_words(content: bytes, authorization: str) -> tuple[str, str]:
    """Read an answer that is an error.

    Args:
        content: MLflow's JSON, or anything else.
        authorization: The header that was sent, of which nothing is told on.

    Returns:
        MLflow's own code, such as `RESOURCE_DOES_NOT_EXIST`, and what may be shown of its message. Both are empty where
        it is no error of MLflow's.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return "", ""
    code = parsed.get("error_code") if isinstance(parsed, dict) else None
    if not (isinstance(code, str) and len(code) < 64 and code.isascii() and code.replace("_", "").isalnum()):
        return "", ""
    message = parsed.get("message")
    return code, hidden(message, _secrets(authorization)) if isinstance(message, str) else ""


def _is_address(word: str) -> bool:
    return "://" in word or ":" in word.rpartition("@")[0] or "?" in word[:-1] or "host=" in word


def _secrets(authorization: str) -> list[str]:
    """Return what a header holds that nobody else may know: the token, or the password too."""
    scheme, _, token = authorization.partition(" ")
    secrets = [token]
    if scheme.lower() == "basic":
        with suppress(ValueError):
            secrets.append(b64decode(token).decode().partition(":")[2])
    return [secret for secret in secrets if secret]
