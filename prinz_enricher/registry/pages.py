"""Reads listings that come in pages."""

from __future__ import annotations

from collections.abc import Iterator

from prinz_enricher.registry.errors import RegistryUnreadable
from prinz_enricher.registry.transport import QueryParams, Transport

MAX_PAGE_BYTES = 64 * 1024 * 1024
MAX_PAGES = 10_000


def read_pages(transport: Transport, path: str, key: str, params: QueryParams) -> Iterator[list[object]]:
    """Read the entries page by page.

    Args:
        transport: To the registry.
        path: Of the listing.
        key: Under which a page has its entries.
        params: Of each request.

    Raises:
        RegistryUnreadable: A page is not what it should be, or the pages never end.
        RegistryError: A page can't be got.
    """
    tokens: set[str] = set()
    token = ""
    for _ in range(MAX_PAGES):
        page = transport.get_json(path, {**params, "page_token": token} if token else params, max_bytes=MAX_PAGE_BYTES)
        entries = page.get(key, [])
        following = page.get("next_page_token") or ""
        if not isinstance(entries, list) or not isinstance(following, str):
            raise RegistryUnreadable(f"a page of {path} is not as MLflow writes it")
        yield entries
        if not following:
            return
        if following in tokens:
            raise RegistryUnreadable(f"the pages of {path} go round in a circle")
        tokens.add(following)
        token = following
    raise RegistryUnreadable(f"there are more than {MAX_PAGES} pages of {path}")
