"""What the registry offers, from memory: the last good snapshot, its refresh, and how versions are found in it."""

from prinz_enricher.catalog.catalog import Catalog, CatalogState
from prinz_enricher.catalog.publisher import ChangeKind, ChangeSet
from prinz_enricher.catalog.queries import default_version, paginate, parse_filter, resolve, scorable
from prinz_enricher.catalog.serving_rules import DEFAULT_POLICY, ENVIRONMENT_TAG, Selection, wants_preload
from prinz_enricher.catalog.snapshot import CatalogModel, CatalogVersion, Snapshot
from prinz_enricher.catalog.store import SnapshotStore, UsedFile, UsedVersion
from prinz_enricher.catalog.union import Member, Union

__all__ = [
    "DEFAULT_POLICY",
    "ENVIRONMENT_TAG",
    "Catalog",
    "CatalogModel",
    "CatalogState",
    "CatalogVersion",
    "ChangeKind",
    "ChangeSet",
    "Member",
    "Selection",
    "Snapshot",
    "SnapshotStore",
    "Union",
    "UsedFile",
    "UsedVersion",
    "default_version",
    "paginate",
    "parse_filter",
    "resolve",
    "scorable",
    "wants_preload",
]
