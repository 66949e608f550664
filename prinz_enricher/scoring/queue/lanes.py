"""The queue policy of one model version: which jobs a free worker gets next, and which can't be taken.

Pure: no clock, threads or I/O.

A lane holds the jobs that may share a model call: the same parameters, and the same columns. A large job has a call of
its own, and waits in a lane of its own, so that small ones do not wait behind several large ones. A free worker gets at
once what waits in the lane whose turn it is, up to the limit of rows: jobs come together only while something else is
being scored, never by waiting (work-conserving; `max_delay` can say otherwise). Lanes take turns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from prinz_enricher.scoring.queue.pending import Pending, Stage


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """What a queue holds and gives out.

    Attributes:
        queue_rows: Rows that wait at most.
        batch_rows: Rows of jobs that share a call at most.
        delay: Seconds that the first job of a call may wait for others to join it.
    """

    queue_rows: int
    batch_rows: int = 1
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Next:
    """What a queue has for a free worker.

    Attributes:
        jobs: Those to score in one call, in the order they came; empty where none is to be scored now.
        late: Jobs whose deadline has passed or whose caller has gone: to be answered, not run.
        wait: Seconds after which to ask again although no job has come; None where only a job changes anything.
    """

    jobs: list[Pending]
    late: list[Pending] = field(default_factory=list)
    wait: float | None = None


class Queue:
    """A bounded queue of jobs, counted by their rows: first in, first out within a lane."""

    def __init__(self, limits: LaneLimits) -> None:
        self._limits = limits
        # The lane whose turn it is comes first.
        self._lanes: OrderedDict[Hashable, OrderedDict[int, Pending]] = OrderedDict()
        self._rows = 0
        self._jobs = 0
        self._calls = 0

    def __len__(self) -> int:
        return self._jobs

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._rows

    def calls(self, *, share: bool) -> int:
        """Tell about how many model calls the jobs that wait will take.

        Args:
            share: Whether jobs may share a call.
        """
        if not share:
            return self._calls
        return max(len(self._lanes), -(-self._rows // self._limits.batch_rows))

    def push(self, pending: Pending) -> bool:
        """Queue a job; False where there is no room for it. An empty queue has room for a job of any size."""
        if self._jobs and self._rows + pending.rows > self._limits.queue_rows:
            return False
        key = self._key(pending)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = OrderedDict()
        lane[id(pending)] = pending
        self._count_in(pending)
        return True

    def remove(self, pending: Pending) -> bool:
        """Take a job out; False where it does not wait here."""
        key = self._key(pending)
        lane = self._lanes.get(key)
        if lane is None or lane.pop(id(pending), None) is None:
            return False
        self._count_out(pending)
        if not lane:
            del self._lanes[key]
        return True

    def take(self, now: float, *, share: bool = True, cost: Callable[[int], float] = lambda _: 0.0) -> Next:
        """Take the jobs of the next call, and all before them that are not wanted any more.

        Args:
            now: The time, as jobs know it.
            share: Whether jobs may share a call.
            cost: Tells the seconds of a call of so many rows: none joins a call that would be too late by it for one
                that has come before.
        """
        late: list[Pending] = []
        soonest: float | None = None
        for key in list(self._lanes):
            lane = self._lanes[key]
            limit = self._limits.batch_rows if share else 0
            self._drop_unwanted(lane, now, late)
            if not lane:
                del self._lanes[key]
                continue
            first = next(iter(lane.values()))
            wait = first.taken + self._limits.delay - now
            if self._limits.delay and wait > 0 and self._may_grow(lane, limit):
                soonest = wait if soonest is None else min(soonest, wait)
                continue
            jobs = self._call(lane, limit, now, late, cost)
            if lane:
                self._lanes.move_to_end(key)
            else:
                del self._lanes[key]
            return Next(jobs, late)
        return Next([], late, soonest)

    def put_back(self, jobs: list[Pending]) -> None:
        """Queue jobs again that were taken and not scored, before all others, whatever the limit."""
        for pending in reversed(jobs):
            pending.stage = Stage.QUEUED
            key = self._key(pending)
            lane = self._lanes.setdefault(key, OrderedDict())
            lane[id(pending)] = pending
            lane.move_to_end(id(pending), last=False)
            self._lanes.move_to_end(key, last=False)
            self._count_in(pending)

    def clear(self) -> list[Pending]:
        """Take out every job, in the order they came."""
        every = sorted((one for lane in self._lanes.values() for one in lane.values()), key=lambda one: one.taken)
        self._lanes.clear()
        self._rows = self._jobs = self._calls = 0
        return every

    def _key(self, pending: Pending) -> Hashable:
        # One that fills a call alone can't share it: it waits with its like.
        return pending.lane if pending.rows < self._limits.batch_rows else (pending.lane, "large")

    def _may_grow(self, lane: OrderedDict[int, Pending], limit: int) -> bool:
        rows: int = sum(pending.rows for pending in lane.values())
        return rows < limit

    def _drop_unwanted(self, lane: OrderedDict[int, Pending], now: float, late: list[Pending]) -> None:
        """Take out the jobs at the head of a lane that are not wanted any more."""
        while lane:
            key, pending = next(iter(lane.items()))
            if not pending.unwanted(now):
                return
            del lane[key]
            self._count_out(pending)
            late.append(pending)

    def _call(
        self,
        lane: OrderedDict[int, Pending],
        limit: int,
        now: float,
        late: list[Pending],
        cost: Callable[[int], float],
    ) -> list[Pending]:
        """Take the jobs that share the next call: the first one, and those behind it that fit."""
        jobs: list[Pending] = []
        rows = 0
        end = float("inf")
        while lane:
            key, pending = next(iter(lane.items()))
            if pending.unwanted(now):
                late.append(pending)
            elif pending.job.calls > 1 and not limit:
                self._put_apart(lane, pending)
                continue
            elif jobs and (rows + pending.rows > limit or now + cost(rows + pending.rows) > end):
                break
            else:
                jobs.append(pending)
                rows += pending.rows
                end = end if pending.job.deadline is None else min(end, pending.job.deadline)
            del lane[key]
            self._count_out(pending)
        return jobs

    def _put_apart(self, lane: OrderedDict[int, Pending], pending: Pending) -> None:
        """Put the calls of a job in its place."""
        del lane[id(pending)]
        self._count_out(pending)
        for part in reversed(pending.apart()):
            lane[id(part)] = part
            lane.move_to_end(id(part), last=False)
            self._count_in(part)

    def _count_in(self, pending: Pending) -> None:
        self._rows += pending.rows
        self._jobs += 1
        self._calls += pending.job.calls

    def _count_out(self, pending: Pending) -> None:
        self._rows -= pending.rows
        self._jobs -= 1
        self._calls -= pending.job.calls
