"""What MLflow says of an error, as far as it may be shown: whoever wrote it may have quoted anything."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from contextlib import suppress

MAX_CHARACTERS = 200
"""How much of MLflow's message is told on."""

_HIDDEN = re.compile(
    # A URL, which may hold a password, or a signature in its query; user and password before a host without one.
    r"\b[A-Za-z][A-Za-z0-9+.-]*://\S*|\S+:\S+@\S+|\?\S+"
    r"|\b(?:bearer|basic)\s+\S+"
    r"|[\w-]*(?:authorization|token|passw(?:or)?d|secret|signature|credential|api_?key|access_?key)[\w-]*"
    r"[\"']?\s*[=:]\s*(?:(?:bearer|basic)\s+)?(?:'[^']*'|\"[^\"]*\"|\S+)",
    re.IGNORECASE,
)


def read_words(content: bytes, authorization: str) -> tuple[str, str]:
    """Read an answer that is an error.

    Args:
        content: MLflow's JSON, or anything else.
        authorization: The header that was sent, of which nothing is told on.

    Returns:
        MLflow's own code, such as `RESOURCE_DOES_NOT_EXIST`, and the first line of its message: printable, without
        addresses and credentials, and of at most `MAX_CHARACTERS`. Both are empty where it is no error of MLflow's.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return "", ""
    code = parsed.get("error_code") if isinstance(parsed, dict) else None
    if not (isinstance(code, str) and len(code) < 64 and code.isascii() and code.replace("_", "").isalnum()):
        return "", ""
    message = parsed.get("message")
    lines = message.strip().splitlines() if isinstance(message, str) else []
    line = "".join(character if character.isprintable() else " " for character in lines[0]) if lines else ""
    for secret in _secrets(authorization):
        line = line.replace(secret, "…")
    words = _HIDDEN.sub("…", line)
    return code, words if len(words) <= MAX_CHARACTERS else f"{words[: MAX_CHARACTERS - 1]}…"


def _secrets(authorization: str) -> list[str]:
    """Return what a header holds that nobody else may know: the token, or the password too."""
    scheme, _, token = authorization.partition(" ")
    secrets = [token]
    if scheme.lower() == "basic":
        with suppress(ValueError):
            secrets.append(b64decode(token).decode().partition(":")[2])
    return [secret for secret in secrets if secret]
