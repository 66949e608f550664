"""Loads at the start the versions that were in use at the last end, and saves those in use for the next start."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping

from prinz_enricher.catalog import CatalogVersion, Union, UsedFile, UsedVersion
from prinz_enricher.scoring.ports import Target, WorkerPool, WorkerState

SAVE_SECONDS = 1.0
"""Seconds between two writes."""


class InUse:
    """Follows a pool. One thread uses it, after each change of a status or of the catalog.

    Args:
        target_of: Returns the target of a version; None where it can't be scored.
        files: The list of versions in use of each registry, by its name.
        at_once: Versions that load at the same time.
    """

    def __init__(
        self,
        catalog: Union,
        pool: WorkerPool,
        target_of: Callable[[CatalogVersion], Target | None],
        files: Mapping[str, UsedFile],
        *,
        at_once: int = os.cpu_count() or 1,
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._target_of = target_of
        self._files = files
        self._at_once = at_once
        self._waiting = {name: file.load() for name, file in files.items()}
        self._due = 0.0

    def follow(self, files: Mapping[str, UsedFile]) -> None:
        """Save to other lists; what is in one that was not saved to is of an earlier time, and not loaded."""
        self._files = files
        self._waiting = {name: self._waiting.get(name, set()) for name in files}

    def load(self) -> None:
        """Load versions that were in use, a few at a time, those with an alias first."""
        if not any(self._waiting.values()):
            return
        loading = sum(self._pool.status(target).state is WorkerState.LOADING for target in self._pool.used())
        for name, used, target in sorted(self._found(), key=lambda found: (not found[2].aliases, found[1])):
            if loading >= self._at_once:
                return
            self._waiting[name].discard(used)
            self._pool.load(target, if_room=True)
            loading += self._pool.status(target).state is WorkerState.LOADING

    def save(self, *, at_once: bool = False) -> float | None:
        """Write what is in use and what still waits to be loaded, once in `SAVE_SECONDS` unless `at_once`.

        Returns the seconds after which to call again; None where all is written.
        """
        if not self._files:
            return None
        now = time.monotonic()
        if now < self._due and not at_once:
            return self._due - now
        self._due = now + SAVE_SECONDS
        in_use = self._pool.used()
        for name, file in self._files.items():
            file.save([*self._waiting[name], *(_used(target) for target in in_use if target.registry_name == name)])
        return None

    def _found(self) -> list[tuple[str, UsedVersion, Target]]:
        """Return the waiting versions that the catalog has; forget those that it will not have."""
        # A stored snapshot may be older than what was in use. Read before the snapshot.
        read = {member.name for member in self._catalog.members if not member.catalog.stale}
        snapshot = self._catalog.current
        found: list[tuple[str, UsedVersion, Target]] = []
        if snapshot is None:
            return found
        for member in self._catalog.members:
            for used in list(self._waiting.get(member.name, ())):
                model = snapshot.models.get(member.prefix + used.name)
                version = model.by_number.get(used.version) if model is not None else None
                target = self._target_of(version) if version is not None and version.registry == member.name else None
                if target is not None and _used(target) == used:
                    found.append((member.name, used, target))
                elif member.name in read and not (version is not None and version.pending):
                    self._waiting[member.name].discard(used)
        return found


def _used(target: Target) -> UsedVersion:
    content = hashlib.sha256(f"{target.fingerprint} {target.signature.digest}".encode()).hexdigest()
    return UsedVersion(target.registered_name, target.version, content)
