"""The queue of one model version: which jobs share a model call, and which a free worker gets next.

Policy, without threads or I/O. A lane holds jobs that may share a call: same parameters, same columns. A job that fills
a call alone waits in another lane, so that small jobs do not wait behind several large ones. A free worker gets at once
what waits in the lane whose turn it is, up to a number of rows: jobs are batched only while something else is scored,
never by waiting (work-conserving, unless a delay is set). Lanes take turns.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import IntEnum

import pyarrow as pa
import structlog

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.ports import Job, ScoreResult
from prinz_enricher.signature import AnyValue, ListOf, MapOf, Origin, Record, Signature, Tensor, Type

log = structlog.get_logger(__name__)

_PLAIN = (None, (), "")
"""The lane of jobs with all columns, no nulls and no parameters."""


class Stage(IntEnum):
    """How far a job has come; PREPARED is sent to a worker that still scores another batch."""

    QUEUED = 0
    PREPARED = 1
    RUNNING = 2


class Pending:
    """A job without an answer; it is answered once, by whoever comes first.

    `correlation` is its id in the caller's error and the worker's log; `submitted` is by `time.monotonic()`. It
    `is_alone` if it must not share a model call, since a worker died of it; `kills` counts those it was alone with.
    """

    __slots__ = (
        *("_callback", "_lane", "_on_answer", "cancel_alarm", "correlation"),
        *("is_alone", "job", "kills", "rows", "stage", "submitted"),
    )

    def __init__(self, job: Job, correlation: str, lane: Hashable = None) -> None:
        self.job = job
        self.rows: int = job.batch.num_rows
        self.correlation = correlation
        self.submitted = time.monotonic()
        self.cancel_alarm: Callable[[], None] | None = None
        self.is_alone = False
        self.kills = 0
        self.stage = Stage.QUEUED
        self._lane = lane
        self._on_answer: Callable[[], None] | None = None
        # Popping the callback off a list is atomic: of two threads that answer at once, one finds it empty.
        self._callback: list[Callable[[ScoreResult | EnricherError], None]] = [job.done]

    @property
    def answered(self) -> bool:
        """Whether the job has its answer."""
        return not self._callback

    @property
    def lane(self) -> Hashable:
        """Key that jobs which may share a model call have in common; a job that must be alone has its own."""
        return id(self) if self.is_alone else self._lane

    def split(self) -> list[Pending]:
        """Make a job of each call; the alarm of this one is cancelled when all of them are answered."""
        jobs = self.job.split_calls()
        left = list(range(1, len(jobs)))

        def answered() -> None:
            # As with `_callback`, popping off a list is atomic.
            try:
                left.pop()
            except IndexError:
                if self.cancel_alarm is not None:
                    self.cancel_alarm()

        parts = []
        for job in jobs:
            part = Pending(job, self.correlation, self._lane)
            part.submitted = self.submitted
            part._on_answer = answered
            parts.append(part)
        return parts

    def unwanted(self, now: float) -> bool:
        """Whether scoring it is useless by now: it is answered, its deadline has passed or its caller has gone."""
        if self.answered or (self.job.deadline is not None and self.job.deadline <= now):
            return True
        try:
            return self.job.cancelled()
        except Exception:
            log.exception("a job's cancelled callback failed", correlation_id=self.correlation)
            return False

    def answer(self, outcome: ScoreResult | EnricherError) -> bool:
        """Answer the caller, unless that was done before; returns whether it was not. Call without holding a lock."""
        try:
            callback = self._callback.pop()
        except IndexError:
            return False
        if self.cancel_alarm is not None:
            self.cancel_alarm()
        if self._on_answer is not None:
            self._on_answer()
        try:
            callback(outcome)
        except Exception:
            # One caller's fault must not end the thread that serves all the others.
            log.exception("a job's done callback failed", correlation_id=self.correlation)
        return True


_Lane = OrderedDict[int, Pending]


@dataclass(frozen=True, slots=True)
class NextBatch:
    """What a queue has for a free worker: jobs to be scored in one call, and unwanted ones to be answered.

    `wait` is the seconds after which to ask again although no job has come; None if only a job changes anything.
    """

    jobs: list[Pending]
    dropped: list[Pending] = field(default_factory=list)
    wait: float | None = None


class Queue:
    """A queue of jobs of at most `max_rows` rows, first in, first out within a lane.

    Jobs that share a call have at most `batch_rows` rows; the first may wait `delay` seconds for others to join it.
    """

    def __init__(self, max_rows: int, batch_rows: int = 1, delay: float = 0.0) -> None:
        # The lane whose turn it is comes first.
        self._lanes: OrderedDict[Hashable, _Lane] = OrderedDict()
        self._rows = self._jobs = self._calls = self._shared_rows = 0
        self.limit(max_rows, batch_rows, delay)

    def limit(self, max_rows: int, batch_rows: int, delay: float) -> None:
        """Go on with other limits; the jobs that wait stay, however many they are."""
        # The lane of a job depends on them.
        jobs = self.clear()
        self._max_rows, self._batch_rows, self._delay = max_rows, batch_rows, delay
        self.put_back(jobs)

    def __len__(self) -> int:
        return self._jobs

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    def calls(self, *, share: bool) -> int:
        """Return about how many model calls the jobs that wait will need, if they may share calls or not."""
        # A job of more rows than are shared takes one call.
        return max(len(self._lanes), -(-self._shared_rows // self._batch_rows)) if share else self._calls

    def push(self, pending: Pending) -> bool:
        """Queue a job; False if there is no room for it. An empty queue has room for a job of any size."""
        if self._jobs and self._rows + pending.rows > self._max_rows:
            return False
        key = self._key(pending)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = OrderedDict()
        lane[id(pending)] = pending
        self._count(pending)
        return True

    def remove(self, pending: Pending) -> bool:
        """Remove a job; False if it does not wait here."""
        key = self._key(pending)
        lane = self._lanes.get(key)
        if lane is None or lane.pop(id(pending), None) is None:
            return False
        self._count(pending, -1)
        if not lane:
            del self._lanes[key]
        return True

    def next_batch(self, now: float, *, share: bool = True, cost: Callable[[int], float] = lambda _: 0.0) -> NextBatch:
        """Remove the jobs of the next call, and all before them that are not wanted any more.

        If jobs may share it, none joins a call that would, by the cost of its rows in seconds, be too late for one that
        came before.
        """
        dropped: list[Pending] = []
        soonest: float | None = None
        for key in list(self._lanes):
            lane = self._lanes[key]
            limit = self._batch_rows if share else 0
            while lane and (first := next(iter(lane.values()))).unwanted(now):
                self._pop_first(lane)
                dropped.append(first)
            if not lane:
                del self._lanes[key]
                continue
            wait = first.submitted + self._delay - now
            if self._delay and wait > 0 and sum(pending.rows for pending in lane.values()) < limit:
                soonest = wait if soonest is None else min(soonest, wait)
                continue
            jobs = self._pop_batch(lane, limit, now, dropped, cost)
            if lane:
                self._lanes.move_to_end(key)
            else:
                del self._lanes[key]
            return NextBatch(jobs, dropped)
        return NextBatch([], dropped, soonest)

    def put_back(self, jobs: list[Pending]) -> None:
        """Queue jobs again that were removed and not scored, before all others, whatever the limit."""
        for pending in reversed(jobs):
            pending.stage = Stage.QUEUED
            key = self._key(pending)
            self._push_first(self._lanes.setdefault(key, OrderedDict()), pending)
            self._lanes.move_to_end(key, last=False)

    def clear(self) -> list[Pending]:
        """Remove every job; returns them in the order they came."""
        jobs = sorted((one for lane in self._lanes.values() for one in lane.values()), key=lambda one: one.submitted)
        self._lanes.clear()
        self._rows = self._jobs = self._calls = self._shared_rows = 0
        return jobs

    def _key(self, pending: Pending) -> Hashable:
        return pending.lane if pending.rows < self._batch_rows else (pending.lane, "large")

    def _pop_batch(
        self, lane: _Lane, limit: int, now: float, dropped: list[Pending], cost: Callable[[int], float]
    ) -> list[Pending]:
        """Remove the jobs that share the next call: the first one, and those behind it that fit."""
        jobs: list[Pending] = []
        rows = 0
        end = float("inf")
        while lane:
            pending = next(iter(lane.values()))
            if pending.unwanted(now):
                dropped.append(pending)
            elif pending.job.calls > 1 and not limit:
                self._pop_first(lane)
                for part in reversed(pending.split()):
                    self._push_first(lane, part)
                continue
            elif jobs and (rows + pending.rows > limit or now + cost(rows + pending.rows) > end):
                break
            else:
                jobs.append(pending)
                rows += pending.rows
                end = end if pending.job.deadline is None else min(end, pending.job.deadline)
            self._pop_first(lane)
        return jobs

    def _pop_first(self, lane: _Lane) -> None:
        self._count(lane.popitem(last=False)[1], -1)

    def _push_first(self, lane: _Lane, pending: Pending) -> None:
        lane[id(pending)] = pending
        lane.move_to_end(id(pending), last=False)
        self._count(pending)

    def _count(self, pending: Pending, sign: int = 1) -> None:
        self._rows += sign * pending.rows
        self._jobs += sign
        self._calls += sign * pending.job.calls
        self._shared_rows += sign * min(pending.rows, self._batch_rows)


def can_share(signature: Signature) -> bool:
    """Return whether rows of several callers can be batched without a change of what the model sees of each.

    What an `any` becomes, or a tensor whose rows have any size, depends on all the rows of a call.
    """
    return signature.origin is not Origin.MISSING and all(_is_settled(field.type) for field in signature.inputs)


def _is_settled(type: Type) -> bool:
    match type:
        case ListOf():
            return _is_settled(type.items)
        case MapOf():
            return _is_settled(type.values)
        case Record():
            return all(_is_settled(field.type) for field in type.fields)
        case Tensor():
            return all(size >= 0 for size in type.shape[1:])
    return not isinstance(type, AnyValue)


def lane_of(job: Job) -> Hashable:
    """Return a key that differs for jobs that can't share a call: other parameters, other columns, or other nulls.

    A column of whole numbers is another one to a model as soon as one of them is missing. The text of the parameters
    distinguishes 1 from 1.0 and True, which are equal to Python.
    """
    if not job.nulls and not job.params:
        return _PLAIN
    batch = job.batch
    columns = None if batch.num_columns == len(job.target.signature.inputs) else tuple(batch.schema.names)
    nulls = tuple(i for i, column in enumerate(batch.columns) if column.null_count)
    return (columns, nulls, repr(sorted(job.params.items())) if job.params else "")


def concat_jobs(jobs: list[Pending]) -> pa.RecordBatch:
    """Concatenate the rows of jobs of one lane, in their order."""
    return jobs[0].job.batch if len(jobs) == 1 else pa.concat_batches([pending.job.batch for pending in jobs])


def split_scores(jobs: list[Pending], batch: pa.RecordBatch, began: float, compute: float) -> list[ScoreResult]:
    """Return the scores of each job that was part of a model call, in the order in which they were concatenated.

    The answer has as many rows as they have; the call began at a time by `time.monotonic()` and took some seconds.
    """
    if len(jobs) == 1:
        return [ScoreResult(batch, began - jobs[0].submitted, compute, batch.num_rows)]
    shares, start = [], 0
    for pending in jobs:
        shares.append(ScoreResult(batch.slice(start, pending.rows), began - pending.submitted, compute, batch.num_rows))
        start += pending.rows
    return shares


def single_calls(jobs: list[Pending]) -> list[Pending]:
    """Split jobs into their calls, except those that have their answer."""
    return [
        part
        for pending in jobs
        for part in (pending.split() if pending.job.calls > 1 and not pending.answered else (pending,))
    ]
