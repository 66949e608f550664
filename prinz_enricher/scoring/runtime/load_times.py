"""What loads took lately, by kind, so that callers are told when to come again."""

from __future__ import annotations

import threading
from collections import deque

from prinz_enricher.scoring.ports import Target

UNKNOWN_SECONDS = 5.0
"""What a load takes about, as long as none has been timed."""

_LAST = 5
_MOST_KINDS = 64
_ANY = ("", "")


class LoadTimes:
    """Remembers the last loads of each kind: what loads the model, and what its owner says it runs in.

    All methods can be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], deque[float]] = {}

    def add(self, target: Target, seconds: float) -> None:
        """Take note of a load.

        Args:
            target: What was loaded.
            seconds: What it took, without an environment: that is built once for many loads.
        """
        with self._lock:
            for kind in {_ANY, _kind(target)}:
                times = self._kinds.pop(kind, None) or deque(maxlen=_LAST)
                times.append(seconds)
                self._kinds[kind] = times
            if len(self._kinds) > _MOST_KINDS:
                # The one that was not loaded for the longest time.
                del self._kinds[next(iter(self._kinds))]

    def usual(self, target: Target) -> float:
        """Return the median of the last loads of a target's kind, else of any."""
        with self._lock:
            times = sorted(self._kinds.get(_kind(target)) or self._kinds.get(_ANY) or [UNKNOWN_SECONDS])
        return times[len(times) // 2]


def _kind(target: Target) -> tuple[str, str]:
    return target.loader, target.environment
