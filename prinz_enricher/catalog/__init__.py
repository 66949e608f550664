"""What the registry offers, from memory: the last good snapshot, its refresh, and how versions are found in it."""

from prinz_enricher.catalog.catalog import Catalog
from prinz_enricher.catalog.filter import parse_filter
from prinz_enricher.catalog.page import paginate
from prinz_enricher.catalog.selector import DEFAULT_POLICY, default_version, resolve, scorable
from prinz_enricher.catalog.snapshot import CatalogModel, CatalogVersion, Snapshot

__all__ = [
    "DEFAULT_POLICY",
    "Catalog",
    "CatalogModel",
    "CatalogVersion",
    "Snapshot",
    "default_version",
    "paginate",
    "parse_filter",
    "resolve",
    "scorable",
]
