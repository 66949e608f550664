"""What became of the calls of a step, as one process counted them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Self

from prinz_enricher.loadtest.histogram import Histogram

LATE_NANOSECONDS: Final = 1_000_000
"""From here on a call of an open loop was sent late: the generator, not the server, was behind its plan."""


class Tally:
    """Counts of the calls of a step's measured time; several add up.

    Attributes:
        latencies: Of the right answers to calls that began in it, in nanoseconds; in an open loop from their planned
            times.
        lags: Of an open loop: from the planned time of each call to its sending, in nanoseconds.
        errors: How many calls ended with an error, by reason.
        answered: Right answers that came within the measured time: what throughput is made of.
        late: Calls that were sent more than `LATE_NANOSECONDS` after their planned time.
        unsent: Calls that were planned and never sent.
        cut: Calls that were given up without an answer, since the run was ended.
        seconds: The measured time.
        processor_seconds: Processor time of the generator's process within it.
    """

    def __init__(self) -> None:
        self.latencies = Histogram()
        self.lags = Histogram()
        self.errors: Counter[str] = Counter()
        self.answered = self.late = self.unsent = self.cut = 0
        self.seconds = self.processor_seconds = 0.0

    @property
    def calls(self) -> int:
        """Calls that were sent."""
        return self.latencies.count + self.errors.total() + self.cut

    def sent(self, lag: int) -> None:
        """Count that a planned call was sent, so many nanoseconds after its time."""
        self.lags.add(lag)
        self.late += lag > LATE_NANOSECONDS

    def merge(self, other: Tally) -> None:
        """Add what another process counted at the same time."""
        self.latencies.merge(other.latencies)
        self.lags.merge(other.lags)
        self.errors.update(other.errors)
        self.answered += other.answered
        self.late += other.late
        self.unsent += other.unsent
        self.cut += other.cut
        self.seconds = max(self.seconds, other.seconds)
        self.processor_seconds += other.processor_seconds

    def to_json(self) -> dict[str, Any]:
        """Write it as what JSON can tell; `from_json` reads it."""
        return {
            "latencies": self.latencies.to_json(),
            "lags": self.lags.to_json(),
            "errors": dict(self.errors),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        tally = cls()
        tally.latencies = Histogram.from_json(written["latencies"])
        tally.lags = Histogram.from_json(written["lags"])
        tally.errors = Counter(written["errors"])
        for name in _PLAIN:
            setattr(tally, name, written[name])
        return tally


_PLAIN: Final = ("answered", "late", "unsent", "cut", "seconds", "processor_seconds")
