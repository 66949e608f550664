"""The model calls that a worker has in hand: one it makes, one that waits at it, and parts of those that failed."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

from prinz_enricher.scoring.queue import Pending, Stage, halves, singles
from prinz_enricher.scoring.runtime.timer import Alarm

DEPTH = 2
"""Calls that a worker has at most: it goes on with the second one while the first one's answer is on its way."""


@dataclass(slots=True, eq=False)
class Call:
    """Jobs that are scored together.

    Attributes:
        id: Tells it from the worker's other calls.
        jobs: In the order they came.
        rows: Of all of them.
        end: The first of their deadlines, by `time.monotonic()`: whoever is in a call with a row that never ends must
            not wait for the last one.
        began: When the worker was free for it, by `time.monotonic()`.
        given: Whether the worker has it.
        hang: Ends the worker where the call takes too long.
    """

    id: int
    jobs: list[Pending]
    rows: int
    end: float
    began: float = 0.0
    given: bool = False
    hang: Alarm | None = None


class Hand:
    """What one worker has in hand. Every method is called with the version's lock held."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        # The part that is to be scored next comes last.
        self._parts: list[list[Pending]] = []
        self._ids = itertools.count(1)

    def __len__(self) -> int:
        """Tell how many calls the worker has."""
        return len(self._calls)

    def __iter__(self) -> itertools.chain[Call]:
        return itertools.chain(self._calls)

    @property
    def busy(self) -> bool:
        """Whether there are jobs in hand."""
        return bool(self._calls or self._parts)

    @property
    def first(self) -> Call | None:
        """The call that is made now."""
        return self._calls[0] if self._calls else None

    @property
    def jobs(self) -> list[Pending]:
        """Every job in hand, in the order in which they are scored."""
        parts = (*(call.jobs for call in self._calls), *reversed(self._parts))
        return [pending for jobs in parts for pending in jobs]

    def add(self, jobs: list[Pending]) -> Call:
        """Make a call of jobs, behind those in hand."""
        deadlines = (pending.job.deadline for pending in jobs)
        end = min(float("inf") if one is None else one for one in deadlines)
        call = Call(next(self._ids), jobs, sum(pending.rows for pending in jobs), end)
        self._calls.append(call)
        for pending in jobs:
            pending.stage = Stage.PREPARED
        return call

    def next_part(self) -> list[Pending] | None:
        """Take out the next part of a call that failed; None where there is none."""
        while self._parts:
            jobs = [pending for pending in self._parts.pop() if not pending.answered]
            if jobs:
                return jobs
        return None

    def finish(self) -> Call:
        """Take out the call that was made."""
        call = self._calls.popleft()
        if call.hang is not None:
            call.hang.cancel()
        return call

    def drop(self, call: Call, jobs: list[Pending]) -> None:
        """Take jobs out of a call that the worker does not have yet; without any, it is none."""
        call.jobs = [pending for pending in call.jobs if pending not in jobs]
        call.rows = sum(pending.rows for pending in call.jobs)
        if not call.jobs:
            self._calls.remove(call)

    def cut(self, call: Call) -> None:
        """Score the halves of a call that failed, so that one bad row fails alone."""
        self._parts.extend(reversed(halves(singles(call.jobs))))

    def let_go(self) -> tuple[list[Pending], list[Pending]]:
        """Give back the jobs in hand, once the worker has ended: those that it scored then, and those that waited."""
        first = self.first
        for call in self._calls:
            if call.hang is not None:
                call.hang.cancel()
        every = self.jobs
        self._calls.clear()
        self._parts.clear()
        if first is None or not first.given:
            return [], every
        return first.jobs, every[len(first.jobs) :]
