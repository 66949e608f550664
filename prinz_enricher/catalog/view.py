"""What a service asks of a catalog, whichever process reads the registries."""

from __future__ import annotations

from typing import Protocol

from prinz_enricher.catalog.publisher import Listener, Watch
from prinz_enricher.catalog.snapshot import CatalogVersion, Snapshot
from prinz_enricher.errors import RegistryUnavailable


class CatalogView(Protocol):
    """Answers from memory. All methods can be called from any thread; `Union` says what each does."""

    def snapshot(self) -> Snapshot:
        """Return the last good snapshot; raises RegistryUnavailable."""

    def find(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a revision of the last minute; None where it is not known any more."""

    def unknown(self, name: str) -> RegistryUnavailable | None:
        """Tell why a model that is not listed may be there all the same."""

    def age(self) -> float:
        """Return how many seconds ago the registry was read whose last reading is the oldest."""

    def watch(self, token: str, listener: Listener) -> Watch:
        """Begin a watch, or resume one."""

    def want(self, version: CatalogVersion) -> None:
        """Have a signature that was not read yet read before others; never blocks."""

    def url_of(self, version: CatalogVersion) -> str:
        """Return where the registry is that a version is of, without user and password."""
