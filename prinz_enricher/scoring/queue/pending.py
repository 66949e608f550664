"""A job on its way through a pool: answered once, whoever comes first."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import TYPE_CHECKING

import structlog

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.ports import Job, Scores

if TYPE_CHECKING:
    from prinz_enricher.scoring.runtime.timer import Alarm

log = structlog.get_logger(__name__)


class Stage(IntEnum):
    """How far a job has come."""

    QUEUED = 0
    PREPARED = 1
    """A worker has it, behind the call that it is making."""
    RUNNING = 2


class Pending:
    """A job that was taken and not answered yet.

    Attributes:
        job: The job.
        rows: Its rows.
        correlation: An id that is in the caller's error and in the worker's log.
        taken: When it was taken, by `time.monotonic()`.
        alarm: What rings when its time is up; None for no deadline.
        is_alone: Whether it must not share a model call, because a worker died while it was scored.
        kills: How many workers died of it while it was alone.
        stage: How far it has come.
    """

    __slots__ = (
        "_after",
        "_done",
        "_lane",
        "alarm",
        "correlation",
        "is_alone",
        "job",
        "kills",
        "rows",
        "stage",
        "taken",
    )

    def __init__(self, job: Job, correlation: str, lane: Hashable = None) -> None:
        self.job = job
        self.rows: int = job.batch.num_rows
        self.correlation = correlation
        self.taken = time.monotonic()
        self.alarm: Alarm | None = None
        self.is_alone = False
        self.kills = 0
        self.stage = Stage.QUEUED
        self._lane = lane
        self._after: Callable[[], None] | None = None
        # Taking the callback out of a list is atomic: of two threads that answer at once, one finds it empty.
        self._done: list[Callable[[Scores | EnricherError], None]] = [job.done]

    @property
    def answered(self) -> bool:
        """Whether the job has its answer."""
        return not self._done

    @property
    def lane(self) -> Hashable:
        """What jobs that may share a model call have in common; one that must be alone has its own."""
        return id(self) if self.is_alone else self._lane

    def apart(self) -> list[Pending]:
        """Give each call of a job as a job of its own; the alarm of this one rings for those that are left then."""
        jobs = self.job.apart()
        left = list(range(1, len(jobs)))

        def one_less() -> None:
            # As with `_done`, taking out of a list is atomic.
            try:
                left.pop()
            except IndexError:
                if self.alarm is not None:
                    self.alarm.cancel()

        parts = []
        for job in jobs:
            part = Pending(job, self.correlation, self._lane)
            part.taken = self.taken
            part._after = one_less
            parts.append(part)
        return parts

    def unwanted(self, now: float) -> bool:
        """Whether it is of no use to begin with the job at a time: its deadline has passed or its caller has gone."""
        if self.answered or (self.job.deadline is not None and self.job.deadline <= now):
            return True
        try:
            return self.job.cancelled()
        except Exception:
            log.exception("a caller failed to tell whether it has gone", correlation_id=self.correlation)
            return False

    def answer(self, outcome: Scores | EnricherError) -> bool:
        """Tell the caller, unless it was told before; call without holding a lock.

        Returns:
            Whether this was the answer.
        """
        try:
            done = self._done.pop()
        except IndexError:
            return False
        if self.alarm is not None:
            self.alarm.cancel()
        if self._after is not None:
            self._after()
        try:
            done(outcome)
        except Exception:
            # One caller's fault must not end the thread that serves all the others.
            log.exception("a caller failed to take its answer", correlation_id=self.correlation)
        return True
