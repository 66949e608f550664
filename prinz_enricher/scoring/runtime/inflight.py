"""The batches that one worker has in flight: one it scores, one sent ahead, and the parts of those that failed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from prinz_enricher.scoring.queue import Pending, Stage, single_calls
from prinz_enricher.scoring.runtime.timer import Alarm
from prinz_enricher.telemetry.tracing import BatchTrace

MAX_IN_FLIGHT = 2
"""Batches that a worker has at most: it goes on with the second one while the answer to the first is in transit."""


@dataclass(slots=True, eq=False)
class InFlightBatch:
    """Jobs that are scored together; times by `time.monotonic()`.

    `end` is the first of their deadlines: who shares a batch with a row that never ends must not wait for the last one.
    It `began` when the worker was free for it; `hang` kills the worker if the call takes too long.
    """

    id: int
    jobs: list[Pending]
    rows: int
    end: float
    began: float = 0.0
    sent: bool = False
    hang: Alarm | None = None
    trace: BatchTrace | None = None


class InFlightBatches:
    """The batches of one worker; guarded by the lock of its group."""

    __slots__ = ("_batches", "_ids", "_parts")

    def __init__(self) -> None:
        self._batches: deque[InFlightBatch] = deque()
        # The part that is to be scored next comes last.
        self._parts: list[list[Pending]] = []
        self._ids = itertools.count(1)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[InFlightBatch]:
        # A copy, made at once: another thread may add one.
        return iter([*self._batches])

    @property
    def busy(self) -> bool:
        """Whether there are jobs."""
        return bool(self._batches or self._parts)

    @property
    def first(self) -> InFlightBatch | None:
        """The batch that is scored now."""
        return self._batches[0] if self._batches else None

    @property
    def jobs(self) -> list[Pending]:
        """Every job, in the order in which they are scored."""
        parts = (*(batch.jobs for batch in self._batches), *reversed(self._parts))
        return [pending for jobs in parts for pending in jobs]

    @property
    def rows(self) -> int:
        """Rows of the jobs that have no answer yet."""
        return sum(pending.rows for pending in self.jobs if not pending.answered)

    def add(self, jobs: list[Pending], *, sent: bool = False) -> InFlightBatch:
        """Make a batch of jobs, behind the others."""
        deadlines = (pending.job.deadline for pending in jobs)
        end = min(float("inf") if one is None else one for one in deadlines)
        batch = InFlightBatch(next(self._ids), jobs, sum(pending.rows for pending in jobs), end, sent=sent)
        if callers := [(trace, pending.submitted) for pending in jobs for trace in pending.job.traces]:
            batch.trace = BatchTrace(callers, batch.rows)
        self._batches.append(batch)
        for pending in jobs:
            pending.stage = Stage.PREPARED
        return batch

    def next_part(self) -> list[Pending] | None:
        """Remove the next part of a batch that failed; None if there is none."""
        while self._parts:
            jobs = [pending for pending in self._parts.pop() if not pending.answered]
            if jobs:
                return jobs
        return None

    def finish(self) -> None:
        """Remove the batch that was scored."""
        batch = self._batches.popleft()
        if batch.hang is not None:
            batch.hang.cancel()

    def drop(self, batch: InFlightBatch, jobs: list[Pending]) -> None:
        """Remove jobs from a batch that was not sent yet, and the batch if none are left."""
        batch.jobs = [pending for pending in batch.jobs if pending not in jobs]
        batch.rows = sum(pending.rows for pending in batch.jobs)
        if not batch.jobs:
            self._batches.remove(batch)

    def halve(self, batch: InFlightBatch) -> None:
        """Have the halves of a batch that failed scored next, so that one bad row fails alone."""
        jobs = single_calls(batch.jobs)
        middle = len(jobs) // 2
        self._parts += [jobs[middle:], jobs[:middle]]

    def release(self) -> tuple[list[Pending], list[Pending]]:
        """Remove all jobs once the worker has ended; returns those that it scored then, and those that waited."""
        first, jobs = self.first, self.jobs
        for batch in self._batches:
            if batch.hang is not None:
                batch.hang.cancel()
        self._batches.clear()
        self._parts.clear()
        if first is None or not first.sent:
            return [], jobs
        return first.jobs, jobs[len(first.jobs) :]
