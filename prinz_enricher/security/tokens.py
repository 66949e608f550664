"""Static tokens, of which a file has names and digests: `[[token]]` with `name`, `sha256`, and `expires` if at all."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
import tomllib
from dataclasses import dataclass

from prinz_enricher.security.principal import MAX_NAME, Principal, Principals, is_name
from prinz_enricher.security.watched_files import SecurityError, WatchedFiles

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"at line \d+, column \d+")
_KEYS = {"name", "sha256", "expires"}


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A token's principal, and when it expires, in seconds since 1970."""

    principal: Principal
    expires: float = math.inf


def token_digest(token: str) -> bytes:
    """Return what a token is known by; it has the entropy of a key, so that a plain hash can't be reversed."""
    return hashlib.sha256(token.encode()).digest()


def open_tokens(path: str, principals: Principals) -> WatchedFiles[dict[bytes, StaticToken]]:
    """Return the tokens of a file, which is not watched yet; raises SecurityError as `parse_tokens`."""
    return WatchedFiles("tokens", [path], lambda contents: parse_tokens(path, contents[0], principals))


def parse_tokens(path: str, content: bytes, principals: Principals) -> dict[bytes, StaticToken]:
    """Return the tokens of a file by their digests.

    A date without a time is the start of that day, and a time without a zone is in UTC. Raises SecurityError where the
    file has no tokens, such as one that is being written, or an invalid one.
    """
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        # No other of the parser's words, which may show a part of the file.
        place = _PLACE.search(str(error))
        raise SecurityError(f"the tokens file {path} is not TOML{f' ({place[0]})' if place else ''}") from None
    entries = document.get("token")
    if not isinstance(entries, list) or len(document) > 1:
        raise SecurityError(
            f"the tokens file {path} must have [[token]] tables, or `token = []` for none, and no others"
        )
    tokens: dict[bytes, StaticToken] = {}
    for number, entry in enumerate(entries, 1):
        digest, token = _token(f"the {number}. [[token]] of {path}", entry, principals)
        if digest in tokens:
            raise SecurityError(f"the {number}. [[token]] of {path} is listed twice")
        tokens[digest] = token
    return tokens


def _token(where: str, entry: object, principals: Principals) -> tuple[bytes, StaticToken]:
    if not isinstance(entry, dict):
        raise SecurityError(f"{where} is not a table")
    if unknown := sorted(entry.keys() - _KEYS):
        raise SecurityError(f"{where} has an unknown key; known are {', '.join(sorted(_KEYS))} ({len(unknown)} others)")
    name, digest = entry.get("name"), entry.get("sha256")
    if not is_name(name):
        raise SecurityError(f"{where}: name must be a text of 1 to {MAX_NAME} printable characters")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest.lower()):
        raise SecurityError(f"{where}: sha256 must be the token's SHA-256 in 64 hexadecimal digits")
    return bytes.fromhex(digest), StaticToken(principals.get(name), _seconds(where, entry.get("expires")))


def _seconds(where: str, expires: object) -> float:
    if expires is None:
        return math.inf
    if isinstance(expires, dt.date) and not isinstance(expires, dt.datetime):
        expires = dt.datetime.combine(expires, dt.time())
    if not isinstance(expires, dt.datetime):
        raise SecurityError(f"{where}: expires must be a date such as 2027-01-01, without quotes")
    return (expires if expires.tzinfo else expires.replace(tzinfo=dt.UTC)).timestamp()
