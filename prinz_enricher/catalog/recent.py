"""The last few snapshots, so that a caller who pages through one ends with the one that it began with."""

from __future__ import annotations

from collections import deque

from prinz_enricher.catalog.snapshot import Snapshot

KEPT_SECONDS = 60.0
"""How long a snapshot is kept after another took its place."""

MIN_KEPT = 3
"""How many are kept however old they are."""

MAX_KEPT = 16
"""How many are kept at most; what two of them have in common is there once."""


class RecentSnapshots:
    """Snapshots by revision. One thread writes, any may read."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._kept: tuple[tuple[float, Snapshot], ...] = ()

    def copy(self) -> RecentSnapshots:
        """Return another one that keeps the same."""
        other = RecentSnapshots()
        other._kept = self._kept
        return other

    def keep(self, snapshot: Snapshot, now: float) -> None:
        """Take in the snapshot that is current from now on, and forget what is too old.

        Args:
            snapshot: The new one.
            now: Seconds of a clock that never goes back.
        """
        others = [(since, one) for since, one in self._kept if one.revision != snapshot.revision]
        kept = deque([*others, (now, snapshot)], MAX_KEPT)
        # A snapshot was replaced when the next one came.
        while len(kept) > MIN_KEPT and now - kept[1][0] > KEPT_SECONDS:
            kept.popleft()
        self._kept = tuple(kept)

    def find(self, revision: str) -> Snapshot | None:
        """Return the snapshot of a revision; None where it is not kept."""
        return next((one for _, one in self._kept if one.revision == revision), None)
