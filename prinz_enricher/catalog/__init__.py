"""What the registry offers, from memory: the last good snapshot, its refresh, and how versions are found in it."""

from prinz_enricher.catalog.catalog import Catalog, CatalogState
from prinz_enricher.catalog.changes import Change, Kind
from prinz_enricher.catalog.filter import parse_filter
from prinz_enricher.catalog.history import ChangeSet
from prinz_enricher.catalog.page import Page, paginate
from prinz_enricher.catalog.policy import DEFAULT_POLICY
from prinz_enricher.catalog.publisher import Listener, Publisher, Watch
from prinz_enricher.catalog.selection import Selection
from prinz_enricher.catalog.selector import default_version, resolve, scorable
from prinz_enricher.catalog.snapshot import CatalogModel, CatalogVersion, Snapshot
from prinz_enricher.catalog.store import SnapshotStore
from prinz_enricher.catalog.union import Member, Union
from prinz_enricher.catalog.used import Used, UsedFile
from prinz_enricher.catalog.view import CatalogView
from prinz_enricher.catalog.wishes import ENVIRONMENT_TAG, Wishes, wants_preload

__all__ = [
    "DEFAULT_POLICY",
    "ENVIRONMENT_TAG",
    "Catalog",
    "CatalogModel",
    "CatalogState",
    "CatalogVersion",
    "CatalogView",
    "Change",
    "ChangeSet",
    "Kind",
    "Listener",
    "Member",
    "Page",
    "Publisher",
    "Selection",
    "Snapshot",
    "SnapshotStore",
    "Union",
    "Used",
    "UsedFile",
    "Watch",
    "Wishes",
    "default_version",
    "paginate",
    "parse_filter",
    "resolve",
    "scorable",
    "wants_preload",
]
