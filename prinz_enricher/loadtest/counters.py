"""What the calls of a step came to, as one generator process counted it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

LATE_NANOSECONDS: Final = 1_000_000
"""A call of an open loop that is sent later than this after its planned time is late."""
_BITS: Final = 7
"""Each power of two is divided into 2**7 buckets."""


@dataclass(slots=True)
class Histogram:
    """Durations in nanoseconds in logarithmic buckets, as HdrHistogram has them; histograms can be merged.

    Up to 256 ns each nanosecond has its own bucket. Above, a bucket is at most 1/128 of its values wide and stands for
    its middle, so a percentile is off by at most 0.4 %. The shortest, the longest, the count and the sum are exact.
    The `hdrhistogram` package rounds those four, drops what is beyond its range, and takes twice as long for a value.
    """

    counts: Counter[int] = field(default_factory=Counter)
    shortest: int = 0
    longest: int = 0
    total: int = 0

    def add(self, nanoseconds: int) -> None:
        """Count a duration; raises ValueError if it is negative."""
        if nanoseconds < 0:
            raise ValueError("a duration must not be negative")
        if not self.counts or nanoseconds < self.shortest:
            self.shortest = nanoseconds
        self.longest = max(self.longest, nanoseconds)
        self.total += nanoseconds
        shift = max(0, nanoseconds.bit_length() - _BITS - 1)
        self.counts[(shift << _BITS) + (nanoseconds >> shift)] += 1

    def merge(self, other: Histogram) -> None:
        """Add the durations of another histogram."""
        if other.counts:
            self.shortest = min(self.shortest, other.shortest) if self.counts else other.shortest
            self.longest = max(self.longest, other.longest)
            self.total += other.total
            self.counts.update(other.counts)

    @property
    def count(self) -> int:
        """The number of durations."""
        return self.counts.total()

    @property
    def mean(self) -> float:
        """The mean in nanoseconds; NaN without durations."""
        return self.total / self.count if self.counts else math.nan

    def percentile(self, percent: float) -> float:
        """Return the shortest duration that is not exceeded by `percent` (0 to 100) of all, in nanoseconds.

        By the nearest rank; NaN without durations.
        """
        rank = max(1, math.ceil(percent / 100 * self.count))
        for low, high, count in self.buckets():
            rank -= count
            if rank <= 0:
                return float(min(max((low + high) / 2, self.shortest), self.longest))
        return float(self.longest) if self.counts else math.nan

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Yield the first nanosecond, the last nanosecond and the count of each bucket in use, in ascending order."""
        for bucket in sorted(self.counts):
            shift = max(0, (bucket >> _BITS) - 1)
            low = (bucket - (shift << _BITS)) << shift
            yield low, low + (1 << shift) - 1, self.counts[bucket]


@dataclass(slots=True)
class Counters:
    """Counts of the calls of a step; `docs/load-testing.md` describes those that are in a report, too.

    Latencies are of correct answers to calls that began in the measured time; in an open loop from the planned time.
    Throughput is made of `answered`, the correct answers received in the measured time. Calls are `unsent` that were
    planned, and `cut` that were abandoned without an answer because the test was stopped. `processor_seconds` is the
    CPU time of the generator process in the measured time.
    """

    latencies: Histogram = field(default_factory=Histogram)
    lags: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    late: int = 0
    unsent: int = 0
    cut: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0

    @property
    def calls(self) -> int:
        """Calls that were sent."""
        return self.latencies.count + self.errors.total() + self.cut

    def add_sent(self, lag: int) -> None:
        """Count a planned call that was sent `lag` nanoseconds after its planned time."""
        self.lags.add(lag)
        self.late += lag > LATE_NANOSECONDS

    def merge(self, other: Counters) -> None:
        """Add what another process counted in the same time."""
        self.latencies.merge(other.latencies)
        self.lags.merge(other.lags)
        self.errors.update(other.errors)
        self.answered += other.answered
        self.late += other.late
        self.unsent += other.unsent
        self.cut += other.cut
        self.seconds = max(self.seconds, other.seconds)
        self.processor_seconds += other.processor_seconds
