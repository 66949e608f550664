"""Pages of ListModels: by name, all of the snapshot that the first one was of."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from prinz_enricher.catalog.filter import parse_filter
from prinz_enricher.catalog.snapshot import CatalogModel, Snapshot
from prinz_enricher.errors import InvalidPageToken, InvalidRequest

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

_KEY = secrets.token_bytes(32)
"""Signs the tokens of this process."""

_CHECKSUM_BYTES = 16
_SEPARATOR = "\n"
_MAX_TOKEN_CHARACTERS = 64 * 1024


class Page(NamedTuple):
    """One page.

    Attributes:
        models: Sorted by name.
        next_token: Of the next page; empty where this is the last.
        snapshot: What the page is of.
    """

    models: list[CatalogModel]
    next_token: str
    snapshot: Snapshot


def paginate(
    snapshot: Snapshot,
    page_size: int = 0,
    page_token: str = "",
    filter_text: str = "",
    view: str = "",
    *,
    find: Callable[[str], Snapshot | None] = lambda _: None,
) -> Page:
    """Return one page of the models.

    Args:
        snapshot: What there is; the first page is of it.
        page_size: How many models at most; 0 means 100, more than 1000 means 1000.
        page_token: Of the page before; empty for the first.
        filter_text: By the grammar of `filter`.
        view: What the caller wants of each model; only bound to the token.
        find: Returns an earlier snapshot by its revision; None where it is not known any more.

    Raises:
        InvalidRequest: The page size is negative.
        InvalidFilter: The filter can't be read.
        InvalidPageToken: The token is none of ours, of a request with another filter or view, or of a snapshot that
            is not known any more.
    """
    if page_size < 0:
        raise InvalidRequest("page_size", "must not be negative")
    limit = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    passes = parse_filter(filter_text)
    request = _fingerprint(filter_text, view)
    start = 0
    if page_token:
        revision, last = _read_token(page_token, request)
        began = snapshot if revision == snapshot.revision else find(revision)
        if began is None:
            raise InvalidPageToken("is of a list that has changed too long ago; start again without one")
        snapshot = began
        start = bisect_right(snapshot.names, last)
    page: list[CatalogModel] = []
    for position in range(start, len(snapshot.names)):
        model = snapshot.models[snapshot.names[position]]
        if not passes(model):
            continue
        if len(page) == limit:
            return Page(page, _write_token(snapshot.revision, page[-1].name, request), snapshot)
        page.append(model)
    return Page(page, "", snapshot)


def _fingerprint(filter_text: str, view: str) -> bytes:
    """Tell requests apart; lengths are part of it, so that no text can run over into the other."""
    parts = (filter_text.encode("utf-8", "surrogatepass"), view.encode())
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def _checksum(place: bytes, request: bytes) -> bytes:
    return hmac.digest(_KEY, request + place, "sha256")[:_CHECKSUM_BYTES]


def _write_token(revision: str, name: str, request: bytes) -> str:
    # A revision has no line break in it, a name may.
    place = f"{revision}{_SEPARATOR}{name}".encode()
    return base64.urlsafe_b64encode(_checksum(place, request) + place).rstrip(b"=").decode()


def _read_token(token: str, request: bytes) -> tuple[str, str]:
    """Return the revision and the last name that a token carries."""
    if len(token) > _MAX_TOKEN_CHARACTERS or not token.isascii():
        raise InvalidPageToken
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPageToken from None
    checksum, place = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if not hmac.compare_digest(checksum, _checksum(place, request)):
        raise InvalidPageToken
    revision, _, name = place.decode().partition(_SEPARATOR)
    return revision, name
