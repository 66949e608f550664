"""Which version serves an alias: one that moves drops no call: the former one serves until the new one can."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from prinz_enricher.catalog import CatalogModel, CatalogVersion, Snapshot
from prinz_enricher.scoring import Target, WorkerPool, WorkerState

log = structlog.stdlib.get_logger(__name__)


class AliasRouter:
    """Remembers which version serves each alias, and each default, that was called.

    The policy is TensorFlow Serving's "availability preserving": the new version is loaded first, and takes over once
    it is available. Where it can't be loaded, the former one stays; the state of the new one says why. A former version
    that is not loaded, or that the registry does not offer any more, is replaced at once.

    Args:
        pool: Loads versions.
        target_of: Returns the target of a version; None for one that can't be scored.
    """

    def __init__(self, pool: WorkerPool, target_of: Callable[[CatalogVersion], Target | None]) -> None:
        self._pool = pool
        self._target_of = target_of
        self._serving: dict[tuple[str, str | None], CatalogVersion] = {}

    def choose(self, model: CatalogModel, alias: str | None, wanted: CatalogVersion) -> CatalogVersion:
        """Return the version that serves an alias, or the default, now; `wanted` is what the registry means by it."""
        key = (model.name, alias)
        serving = self._serving.get(key)
        if serving is wanted:
            return wanted
        if serving is not None and serving.version != wanted.version:
            former = model.by_number.get(serving.version)
            state = self._state(former) if former is not None else None
            if former is not None and state is not None:
                new = self._state_or_load(wanted)
                if new is not WorkerState.AVAILABLE:
                    stays = (
                        new is WorkerState.FAILED
                        if state is WorkerState.DISCOVERED
                        else state is not WorkerState.FAILED
                    )
                    # It is remembered in either case: a new one that turns out not to load gives way to it again.
                    return former if stays else wanted
            log.info("an alias is served by another version", model=model.name, alias=alias, version=wanted.version)
        self._serving[key] = wanted
        return wanted

    def follow(self, snapshot: Snapshot, resolve: Callable[[str, str | None], CatalogVersion | None]) -> None:
        """Load what aliases mean in a snapshot before anybody calls.

        Args:
            snapshot: The models there are.
            resolve: Returns the version that the registry means by a model's name and an alias, None for the default.
        """
        for name, alias in list(self._serving):
            model = snapshot.models.get(name)
            wanted = resolve(name, alias) if model is not None else None
            if model is None or wanted is None:
                self._serving.pop((name, alias), None)
            else:
                self.choose(model, alias, wanted)

    def _state(self, version: CatalogVersion) -> WorkerState | None:
        """Return the state of a version; None where it can't be scored."""
        target = self._target_of(version)
        return None if target is None else self._pool.status(target).state

    def _state_or_load(self, version: CatalogVersion) -> WorkerState:
        """Return the state of a version; one that is not loaded begins to load beside the one that serves."""
        target = self._target_of(version)
        if target is None:
            # Its signature is not read yet, or can't be.
            return WorkerState.FAILED
        state = self._pool.status(target).state
        if state is not WorkerState.AVAILABLE:
            self._pool.load(target, instead=True)
        return state
