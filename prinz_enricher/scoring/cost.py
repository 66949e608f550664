"""Estimates learned from what was seen: the seconds of a model call, and of a load.

A call of n rows takes about a + b·n seconds (Clipper, NSDI'17; BentoML's dispatcher fits the same line). Both are
fitted by least squares over the last few dozen calls, older ones weighted less. The estimate refuses what would come
too late; it never makes anybody wait. No clock is read.
"""

from __future__ import annotations

import threading
from collections import deque

from prinz_enricher.scoring.ports import Target

_DECAY = 0.95
"""Weight of a call after each later one: the last twenty or so decide."""

_MIN_CALLS = 5
"""Calls before which nothing is known."""

_OUTLIER = 10.0
"""Multiple of the estimate that a call counts as at most: one pause of the machine must not shut callers out."""

_FAR = 16
"""Multiple of the most rows lately seen in a call up to which the line is followed. Beyond, the noise of calls of a few
rows would become minutes, and one call of many rows shut out all others while it has its turn."""

UNKNOWN_LOAD_SECONDS = 5.0
"""Estimate of a load as long as none was timed."""

_LAST_LOADS = 5
_MAX_KINDS = 64
_ANY = ("", "")


class CallCost:
    """The cost of a version's model calls in seconds."""

    def __init__(self) -> None:
        self._calls = 0
        self._weight = self._x = self._y = self._xx = self._xy = self._most = 0.0
        self._fixed = self._each = 0.0

    @property
    def known(self) -> bool:
        """Whether enough calls were seen."""
        return self._calls >= _MIN_CALLS

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a call of some rows that took some seconds."""
        self._most = max(rows, self._most * _DECAY)
        if self.known:
            seconds = min(seconds, _OUTLIER * max(self.estimate(rows), 1e-4))
        self._calls += 1
        self._weight = self._weight * _DECAY + 1.0
        self._x = self._x * _DECAY + rows
        self._y = self._y * _DECAY + seconds
        self._xx = self._xx * _DECAY + rows * rows
        self._xy = self._xy * _DECAY + rows * seconds
        x, y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - x * x
        # If all calls had about as many rows, nothing shows what more of them cost: the cost counts as fixed.
        each = (self._xy / self._weight - x * y) / spread if spread > 1e-3 * x * x else 0.0
        self._each = min(max(0.0, each), y / x)
        self._fixed = y - self._each * x

    def estimate(self, rows: int) -> float:
        """Estimate a call's seconds; 0.0 if nothing is known."""
        return self._fixed + self._each * min(rows, _FAR * self._most)

    def wait(self, calls: float, rows: int, in_flight: float, workers: int) -> float:
        """Estimate the seconds until a job has its turn after waiting calls and work in flight; 0.0 if unknown."""
        if not self.known:
            return 0.0
        return (in_flight + calls * self._fixed + min(rows, calls * _FAR * self._most) * self._each) / workers


class LoadTimes:
    """The last loads of each kind: by what loads the model, and what its owner says it runs in. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], deque[float]] = {}

    def add(self, target: Target, seconds: float) -> None:
        """Note a load and its seconds, without the time to build an environment, which serves many loads."""
        with self._lock:
            for kind in {_ANY, _kind_of(target)}:
                times = self._kinds.pop(kind, None) or deque(maxlen=_LAST_LOADS)
                times.append(seconds)
                self._kinds[kind] = times
            if len(self._kinds) > _MAX_KINDS:
                # The one that was not loaded for the longest time.
                del self._kinds[next(iter(self._kinds))]

    def estimate(self, target: Target) -> float:
        """Return the median of the last loads of a target's kind, else of any kind."""
        with self._lock:
            times = sorted(self._kinds.get(_kind_of(target)) or self._kinds.get(_ANY) or [UNKNOWN_LOAD_SECONDS])
        return times[len(times) // 2]


def _kind_of(target: Target) -> tuple[str, str]:
    return target.loader, target.environment
