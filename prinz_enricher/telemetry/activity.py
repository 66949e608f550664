"""What versions have done in the last minutes: differences of the series between samples, kept in bounded memory.

Nothing is noted while a call is answered. A sample keeps the counts of the versions that were called since the one
before, as they are; differences are made when somebody looks.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from prinz_enricher.telemetry.series import SECONDS, Series, VersionSeries

SAMPLE_SECONDS: Final = 15.0
SAMPLES: Final = 40
"""Intervals that are kept: ten minutes."""
MAX_ROWS: Final = 32_768
"""Counts that are kept, of one version and one interval each: where more than 800 versions are called in every
interval, what is known goes back less far."""

PHASES: Final = ("queue", "compute", "total")

_SIZE: Final = len(SECONDS) + 1
_WIDTH: Final = 2 + len(PHASES) * _SIZE
# Calls, those that got scores, and the buckets of each phase. Bytes take half as much as tuples, and no time of the
# garbage collector.
_Row = bytes
_write: Final = struct.Struct(f"{_WIDTH}q").pack
_NOTHING: Final[_Row] = _write(*[0] * _WIDTH)


@dataclass(frozen=True, slots=True)
class Interval:
    """What was done between two samples.

    Attributes:
        end: When it ended, by the clock that `sample` is called with.
        seconds: How long it was.
        calls: Calls that ended, errors included.
        errors: Those that got no scores.
        counts: By phase, the answered calls in each bucket of `SECONDS`, and beyond.
    """

    end: float
    seconds: float
    calls: int
    errors: int
    counts: Mapping[str, Sequence[int]]


@dataclass(slots=True, eq=False)
class _History:
    """The counts of a version: before all intervals, and at the end of those in which it was called."""

    series: VersionSeries
    calls: int = 0
    base: _Row = _NOTHING
    rows: list[tuple[int, _Row]] = field(default_factory=list)

    def sample(self, number: int) -> None:
        """Keep the counts at the end of an interval."""
        series = self.series
        with series.lock:
            self.calls = sum(series.calls.values())
            queue, compute, total = series.queue.counts, series.compute.counts, series.total.counts
            row = _write(self.calls, series.calls["ok"], *queue, *compute, *total)
        self.rows.append((number, row))


class Activity:
    """Samples the versions of a series; one thread samples, any thread looks. `now` is when it begins."""

    def __init__(self, series: Series, now: float) -> None:
        self._series = series
        self._lock = threading.Lock()
        # When the oldest interval began, and all ended.
        self._ends: deque[float] = deque([now])
        self._called: deque[list[_History]] = deque()
        self._first = self._rows = 0
        self._histories: dict[tuple[str, str], _History] = {}

    def sample(self, now: float) -> None:
        """End an interval; versions that the series has forgotten are forgotten here, too."""
        with self._lock:
            number = self._first + len(self._called)
            versions = self._series.versions.copy()
            histories = self._histories
            called = []
            for key, series in versions.items():
                history = histories.get(key)
                if history is None or history.series is not series:
                    history = histories[key] = _History(series)
                # Without its lock: most versions have no calls, and one that is counted right now is seen next time.
                if sum(series.calls.values()) != history.calls:
                    history.sample(number)
                    called.append(history)
            if len(histories) > len(versions):
                for key in histories.keys() - versions.keys():
                    del histories[key]
            self._ends.append(now)
            self._called.append(called)
            self._rows += len(called)
            while len(self._called) > SAMPLES or (self._rows > MAX_ROWS and len(self._called) > 1):
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        called = self._called.popleft()
        for history in called:
            history.base = history.rows.pop(0)[1]
        self._rows -= len(called)
        self._first += 1
        self._ends.popleft()

    def of(self, model: str, version: str | None = None) -> list[Interval]:
        """Return the intervals of a version, or of all versions of a model together, the oldest first."""
        with self._lock:
            ends, first = tuple(self._ends), self._first
            found = [
                (one.base, tuple(one.rows))
                for (name, number), one in self._histories.items()
                if name == model and version in {None, number}
            ]
        sums = np.zeros((len(ends) - 1, _WIDTH), np.int64)
        for base, rows in found:
            before = np.frombuffer(base, np.int64)
            for number, row in rows:
                counts = np.frombuffer(row, np.int64)
                sums[number - first] += counts - before
                before = counts
        return [
            Interval(end, end - begin, calls, calls - ok, _by_phase(counts))
            for begin, end, (calls, ok, *counts) in zip(ends, ends[1:], sums.tolist(), strict=False)
        ]


def _by_phase(counts: Sequence[int]) -> dict[str, Sequence[int]]:
    return {phase: counts[place * _SIZE : (place + 1) * _SIZE] for place, phase in enumerate(PHASES)}


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float] = SECONDS) -> float | None:
    """Return the value that a share of all values is up to; None where there are none.

    As histogram_quantile of Prometheus: within a bucket, values are taken for evenly spread, in the first one from 0;
    beyond the last bound, that bound is returned.

    Examples:
        >>> quantile(0.5, [0, 4, 0], (1.0, 2.0))
        1.5
    """
    rank = share * sum(counts)
    if not rank:
        return None
    below, lower = 0, 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below, lower = below + count, upper
    return bounds[-1]
