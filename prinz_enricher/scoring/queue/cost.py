"""What a model call costs, learnt from those that were made, and how long a job would wait for its turn.

Pure: no clock, threads or I/O.

A call of n rows takes about a + b·n seconds (Clipper, NSDI'17; BentoML's dispatcher fits the same line). Both are
fitted by least squares over the last few dozen calls, older ones counting less. The estimate refuses what would come
too late; it never makes anybody wait.
"""

from __future__ import annotations

from dataclasses import dataclass

_FORGET = 0.95
"""What a call counts once another one has come: the last twenty or so decide."""

_FEWEST = 5
"""Calls before which nothing is known."""

_OUTLIER = 10.0
"""How many times the estimate a call counts as at most: one pause of the machine must not shut callers out."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What stands before a job that comes now.

    Attributes:
        calls: Model calls that wait, about.
        rows: Their rows.
        in_hand: Seconds until the workers are done with what they have in hand, on average.
        workers: Those that share the work; 1 or more.
    """

    calls: float
    rows: int
    in_hand: float
    workers: int


class Cost:
    """The cost of a version's model calls in seconds."""

    def __init__(self) -> None:
        self._calls = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._fixed = self._each = 0.0

    @property
    def known(self) -> bool:
        """Whether enough calls were seen."""
        return self._calls >= _FEWEST

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a call.

        Args:
            rows: Its rows.
            seconds: What it took.
        """
        if self.known:
            seconds = min(seconds, _OUTLIER * max(self.of(rows), 1e-4))
        self._calls += 1
        self._weight = self._weight * _FORGET + 1.0
        self._x = self._x * _FORGET + rows
        self._y = self._y * _FORGET + seconds
        self._xx = self._xx * _FORGET + rows * rows
        self._xy = self._xy * _FORGET + rows * seconds
        x, y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - x * x
        # Where all calls had about as many rows, nothing tells what more of them cost: the cost is taken as fixed.
        each = (self._xy / self._weight - x * y) / spread if spread > 1e-3 * x * x else 0.0
        self._each = min(max(0.0, each), y / x)
        self._fixed = y - self._each * x

    def of(self, rows: int) -> float:
        """Estimate a call's seconds; 0.0 where nothing is known."""
        return self._fixed + self._each * rows

    def wait(self, ahead: Ahead) -> float:
        """Estimate the seconds until a job that comes now has its turn; 0.0 where nothing is known."""
        if not self.known:
            return 0.0
        return ahead.in_hand + (ahead.calls * self._fixed + ahead.rows * self._each) / ahead.workers
