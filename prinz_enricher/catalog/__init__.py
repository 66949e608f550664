"""What the registry offers, from memory: the last good snapshot, its refresh, and how versions are found in it."""

from prinz_enricher.catalog.catalog import Catalog as Catalog
from prinz_enricher.catalog.catalog import CatalogState as CatalogState
from prinz_enricher.catalog.publisher import ChangeKind as ChangeKind
from prinz_enricher.catalog.publisher import ChangeSet as ChangeSet
from prinz_enricher.catalog.publisher import Watch as Watch
from prinz_enricher.catalog.queries import default_version as default_version
from prinz_enricher.catalog.queries import paginate as paginate
from prinz_enricher.catalog.queries import parse_filter as parse_filter
from prinz_enricher.catalog.queries import resolve as resolve
from prinz_enricher.catalog.queries import scorable as scorable
from prinz_enricher.catalog.serving_rules import DEFAULT_POLICY as DEFAULT_POLICY
from prinz_enricher.catalog.serving_rules import ENVIRONMENT_TAG as ENVIRONMENT_TAG
from prinz_enricher.catalog.serving_rules import Selection as Selection
from prinz_enricher.catalog.serving_rules import wants_preload as wants_preload
from prinz_enricher.catalog.snapshot import CatalogModel as CatalogModel
from prinz_enricher.catalog.snapshot import CatalogVersion as CatalogVersion
from prinz_enricher.catalog.snapshot import Snapshot as Snapshot
from prinz_enricher.catalog.store import SnapshotStore as SnapshotStore
from prinz_enricher.catalog.store import UsedFile as UsedFile
from prinz_enricher.catalog.store import UsedVersion as UsedVersion
from prinz_enricher.catalog.union import Member as Member
from prinz_enricher.catalog.union import Union as Union
