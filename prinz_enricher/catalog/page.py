"""Pages of ListModels: by name, so that they fit together even where the catalog changes between two of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from bisect import bisect_right

from prinz_enricher.catalog.filter import parse_filter
from prinz_enricher.catalog.snapshot import CatalogModel, Snapshot
from prinz_enricher.errors import InvalidPageToken, InvalidRequest

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

PROCESS_KEY = secrets.token_bytes(32)
"""Signs the tokens of this process; processes that share their callers must share a key."""

_CHECKSUM_BYTES = 16
_MAX_TOKEN_CHARACTERS = 64 * 1024


def paginate(
    snapshot: Snapshot,
    page_size: int = 0,
    page_token: str = "",
    filter_text: str = "",
    view: str = "",
    *,
    key: bytes = PROCESS_KEY,
) -> tuple[list[CatalogModel], str]:
    """Return one page of the models, sorted by name.

    Args:
        snapshot: What there is.
        page_size: How many models at most; 0 means 100, more than 1000 means 1000.
        page_token: Of the page before; empty for the first.
        filter_text: By the grammar of `filter`.
        view: What the caller wants of each model; only bound to the token.
        key: Signs the tokens.

    Returns:
        The models, and the token of the next page; empty where this is the last.

    Raises:
        InvalidRequest: The page size is negative.
        InvalidFilter: The filter can't be read.
        InvalidPageToken: The token is none of ours, or of a request with another filter or view.
    """
    if page_size < 0:
        raise InvalidRequest("page_size", "must not be negative")
    limit = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    passes = parse_filter(filter_text)
    request = _fingerprint(filter_text, view)
    start = bisect_right(snapshot.names, _read_token(page_token, request, key)) if page_token else 0
    page: list[CatalogModel] = []
    for position in range(start, len(snapshot.names)):
        model = snapshot.models[snapshot.names[position]]
        if not passes(model):
            continue
        if len(page) == limit:
            return page, _write_token(page[-1].name, request, key)
        page.append(model)
    return page, ""


def _fingerprint(filter_text: str, view: str) -> bytes:
    """Tell requests apart; lengths are part of it, so that no text can run over into the other."""
    parts = (filter_text.encode("utf-8", "surrogatepass"), view.encode())
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def _checksum(name: bytes, request: bytes, key: bytes) -> bytes:
    return hmac.digest(key, request + name, "sha256")[:_CHECKSUM_BYTES]


def _write_token(name: str, request: bytes, key: bytes) -> str:
    last = name.encode()
    return base64.urlsafe_b64encode(_checksum(last, request, key) + last).rstrip(b"=").decode()


def _read_token(token: str, request: bytes, key: bytes) -> str:
    """Return the name that a token carries."""
    if len(token) > _MAX_TOKEN_CHARACTERS or not token.isascii():
        raise InvalidPageToken
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPageToken from None
    checksum, name = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if not hmac.compare_digest(checksum, _checksum(name, request, key)):
        raise InvalidPageToken
    return name.decode()
