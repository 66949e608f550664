"""The `WorkerPool` that keeps a worker for each version in use, whatever a worker is."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable

import pyarrow as pa
import structlog

from prinz_enricher.errors import DeadlineExceeded, InternalError, Overloaded, ShuttingDown
from prinz_enricher.scoring.pending import Pending
from prinz_enricher.scoring.pool import Job, Scores, Status, Target, WorkerState
from prinz_enricher.scoring.replica import Offer, Replica
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.shared import lane_of
from prinz_enricher.scoring.timer import Timer
from prinz_enricher.scoring.worker import Worker
from prinz_enricher.signature.arrow import output_schema

log = structlog.get_logger(__name__)

Key = tuple[str, str, str, str]

_MOST_OFFERS = 16

_DISCOVERED = Status(WorkerState.DISCOVERED)
"""One for all: lists ask for the state of hundreds of versions that are not in use."""


class ReplicaPool:
    """Scores batches with one worker for each version, started by its first job or by `load`."""

    def __init__(
        self,
        make_worker: Callable[[Target], Worker],
        settings: PoolSettings | None = None,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        """Make a pool without workers.

        Args:
            make_worker: Makes the worker of a target; called in the thread that will use it.
            settings: Limits and times.
            on_change: Called after each change of a status, from any thread, with locks held: it may only take note.
        """
        self._make_worker = make_worker
        self._on_change = on_change
        self._settings = settings or PoolSettings()
        self._timer = Timer("deadlines")
        self._lock = threading.Lock()
        self._replicas: dict[Key, Replica] = {}
        self._leaving: list[Replica] = []
        self._awaited: set[Replica] = set()
        self._closed = False
        self._correlations = itertools.count(1)
        self._correlation_prefix = uuid.uuid4().hex[:10]

    def submit(self, job: Job) -> None:
        """Take a job; never blocks, and never raises for a fault of the job: `job.done` is told."""
        pending = Pending(job, f"{self._correlation_prefix}-{next(self._correlations):x}", lane_of(job))
        try:
            self._submit(pending)
        except Overloaded as exc:
            pending.answer(exc)
        except Exception:
            log.exception("a job could not be taken", correlation_id=pending.correlation)
            pending.answer(InternalError(pending.correlation))

    def _submit(self, pending: Pending) -> None:
        job = pending.job
        if self._closed:
            pending.answer(ShuttingDown())
        elif job.deadline is not None and job.deadline <= pending.taken:
            pending.answer(DeadlineExceeded("queue"))
        elif not pending.rows:
            # Many models raise on an empty frame, and the answer is known without them.
            pending.answer(Scores(empty_batch(output_schema(job.target.signature)), 0.0, 0.0, 0))
        else:
            for _ in range(_MOST_OFFERS):
                replica = self._running_replica(job.target)
                if replica is None:
                    pending.answer(ShuttingDown())
                    return
                # A replica may stop between the two steps; then there is another one, or a reason, the next time.
                if replica.offer(pending) is not Offer.NOT_RUNNING:
                    return
            pending.answer(Overloaded("the version is being unloaded"))

    def load(self, target: Target) -> None:
        """Begin to load a target if it is not loaded; never blocks."""
        try:
            self._running_replica(target)
        except Overloaded as exc:
            log.warning("a version is not loaded", model=target.name, version=target.version, why=exc.message)

    def retain(self, wanted: set[Key]) -> None:
        """Unload, after their last job, the targets whose keys are not wanted any more."""
        with self._lock:
            for key in [key for key in self._replicas if key not in wanted]:
                self._let_go(key)

    def status(self, target: Target) -> Status:
        """Tell where a target is in its life."""
        key = target.key
        with self._lock:
            replica = self._replicas.get(key)
            if replica is None and self._leaving:
                leaving = (one for one in self._leaving if one.active and one.target.key == key)
                replica = next(leaving, None)
        return replica.status() if replica is not None else _DISCOVERED

    def close(self, grace: float) -> None:
        """Take no more jobs, finish those taken within `grace` seconds, and end every worker."""
        end = time.monotonic() + grace
        with self._lock:
            self._closed = True
            for key in list(self._replicas):
                self._let_go(key)
            leaving = list(self._leaving)
        unfinished = [replica for replica in leaving if not replica.join(max(0.0, end - time.monotonic()))]
        for replica in unfinished:
            replica.abort()
        for replica in unfinished:
            # A killed process ends at once; the bound is for one that the kernel can't kill, on a dead disk say.
            if not replica.join(2 * self._settings.end_grace + 1):
                log.error("a worker does not end", model=replica.target.name, version=replica.target.version)
        self._timer.close()

    def _running_replica(self, target: Target) -> Replica | None:
        """Give the target's replica, started where it can be; None where the pool is closed."""
        key = target.key
        with self._lock:
            if self._closed:
                return None
            replica = self._replicas.get(key)
            if replica is not None and not replica.wants_start():
                return replica
            room_after = self._make_room()
            if replica is None:
                replica = self._replicas[key] = Replica(
                    target, self._make_worker, self._settings, self._timer, self._on_change
                )
            replica.start(after=room_after)
            return replica

    def _make_room(self) -> Replica | None:
        """Make room for one more worker; returns the replica whose end to wait for, if any. Call with the lock held."""
        self._leaving = [replica for replica in self._leaving if replica.active]
        active = sum(replica.active for replica in self._replicas.values()) + len(self._leaving)
        if active < self._settings.max_workers:
            return None
        # One that leaves anyway makes room for one that comes.
        self._awaited.intersection_update(self._leaving)
        room = next((replica for replica in self._leaving if replica not in self._awaited), None)
        if room is None:
            room = self._unload_idle()
        self._awaited.add(room)
        return room

    def _unload_idle(self) -> Replica:
        idle = [(since, key) for key, replica in self._replicas.items() if (since := replica.idle_since) is not None]
        if not idle:
            raise Overloaded(f"all {self._settings.max_workers} workers are busy with other models")
        return self._let_go(min(idle)[1])

    def _let_go(self, key: Key) -> Replica:
        replica = self._replicas.pop(key)
        self._leaving.append(replica)
        replica.leave()
        return replica


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch of a schema without rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
