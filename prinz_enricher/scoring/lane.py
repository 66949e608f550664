"""The queue policy of one model version: which job is next, and which can't be taken.

Pure: no clock, threads or I/O. Today a lane is one bounded first-in, first-out queue and a job is a model call of its
own; putting the jobs of several callers together is decided here too when it comes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from prinz_enricher.scoring.pending import Pending


@dataclass(frozen=True, slots=True)
class Next:
    """What a lane has for a free worker.

    Attributes:
        pending: The job to run; None where none waits.
        late: Jobs whose deadline has passed or whose caller has gone: to be answered, not run.
    """

    pending: Pending | None
    late: list[Pending]


class Lane:
    """A bounded first-in, first-out queue of jobs, counted by their rows."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._queue: OrderedDict[int, Pending] = OrderedDict()
        self._rows = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._rows

    def push(self, pending: Pending) -> bool:
        """Queue a job; False where there is no room for it. An empty queue has room for a job of any size."""
        if self._queue and self._rows + pending.rows > self._max_rows:
            return False
        self._queue[id(pending)] = pending
        self._rows += pending.rows
        return True

    def remove(self, pending: Pending) -> bool:
        """Take a job out; False where it does not wait here."""
        if self._queue.pop(id(pending), None) is None:
            return False
        self._rows -= pending.rows
        return True

    def take(self, now: float) -> Next:
        """Take the next job that is still wanted at a time, and all before it that are not."""
        late: list[Pending] = []
        while self._queue:
            _, pending = self._queue.popitem(last=False)
            self._rows -= pending.rows
            if pending.unwanted(now):
                late.append(pending)
            else:
                return Next(pending, late)
        return Next(None, late)

    def clear(self) -> list[Pending]:
        """Take out every job."""
        every = list(self._queue.values())
        self._queue.clear()
        self._rows = 0
        return every
