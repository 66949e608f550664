"""The `WorkerPool` that keeps workers for the versions in use, whatever a worker is."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol

import pyarrow as pa
import structlog

from prinz_enricher.errors import DeadlineExceeded, EnricherError, InternalError, Overloaded, ShuttingDown
from prinz_enricher.provision.memory import default_budget
from prinz_enricher.scoring.ports import Job, Scores, Status, Target, WorkerState
from prinz_enricher.scoring.queue import Pending, lane_of
from prinz_enricher.scoring.runtime.load_times import LoadTimes
from prinz_enricher.scoring.runtime.timer import Timer
from prinz_enricher.scoring.runtime.version import Offer, Version
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.worker import Worker
from prinz_enricher.signature.arrow import output_schema

log = structlog.get_logger(__name__)

Key = tuple[str, str, str, str]

_MOST_OFFERS = 16
_NO_BUDGET = 1 << 62

_DISCOVERED = Status(WorkerState.DISCOVERED)
"""One for all: lists ask for the state of hundreds of versions that are not in use."""


class Spares(Protocol):
    """What a pool asks of the processes that workers are forked from."""

    def memory(self) -> int:
        """Tell the bytes of memory that they hold."""

    def drop(self) -> bool:
        """End them; tells whether there were any."""

    def tend(self, room: int) -> None:
        """Have them come back where they have ended, and there is room for so many bytes."""

    def close(self) -> None:
        """End them for good."""


class VersionPool:
    """Scores batches with workers for each version, started by its first job or by `load`."""

    def __init__(
        self,
        make_worker: Callable[[Target], Worker],
        settings: PoolSettings | None = None,
        on_change: Callable[[], object] = lambda: None,
        spares: Spares | None = None,
    ) -> None:
        """Make a pool without workers.

        Args:
            make_worker: Makes a worker of a target; called in the thread that will use it.
            settings: Limits and times.
            on_change: Called after each change of a status, from any thread, with locks held: it may only take note.
            spares: What is held in memory so that workers start sooner, and goes first where memory is short.
        """
        self._make_worker = make_worker
        self._on_change = on_change
        self._settings = settings or PoolSettings()
        self._spares = spares
        self._budget = self._settings.memory_budget or default_budget()
        self._timer = Timer("deadlines")
        self._load_times = LoadTimes()
        self._lock = threading.Lock()
        self._versions: dict[Key, Version] = {}
        self._leaving: list[Version] = []
        self._awaited: Counter[Version] = Counter()
        self._told: dict[Key, str] = {}
        self._over = False
        self._kept: dict[Key, Target] = {}
        self._watching = False
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

    def refusal(self, target: Target, rows: int, deadline: float | None) -> EnricherError | None:
        """Tell why a job would be refused if it came now; None where it may be taken, which `submit` alone decides."""
        # Without the lock: what is found is a version, and another one may be there by the time the job comes.
        version = self._versions.get(target.key)
        return None if version is None else version.overload(rows, time.monotonic(), deadline)

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
                version = self._running(job.target)
                if version is None:
                    pending.answer(ShuttingDown())
                    return
                # A version may stop between the two steps; then there is another one, or a reason, the next time.
                if version.offer(pending) is not Offer.NOT_RUNNING:
                    return
            pending.answer(Overloaded("the version is being unloaded"))

    def load(self, target: Target, *, instead: bool = False, if_room: bool = False) -> None:
        """Begin to load a target if it is not loaded; never blocks.

        Args:
            target: The version.
            instead: Whether it takes the place of another one that serves until then: for that time there may be one
                worker more than the limit.
            if_room: Whether only where there is room for it: no other version is unloaded.
        """
        try:
            self._running(target, surge=int(instead), kept=target.keep, if_room=if_room)
        except Overloaded as exc:
            self._log_once(target, exc.message)
        except RuntimeError as exc:
            self._log_once(target, str(exc))

    def used(self) -> list[Target]:
        """Return the targets that are loaded, or being loaded, and have not been told to leave."""
        with self._lock:
            versions = list(self._versions.values())
        states = (WorkerState.LOADING, WorkerState.AVAILABLE)
        return [version.target for version in versions if version.status().state in states]

    def retain(self, targets: Collection[Target]) -> None:
        """Unload, after their last job, all but some targets, and take over what is wished of these."""
        wanted = {target.key: target for target in targets}
        with self._lock:
            self._kept = {key: target for key, target in wanted.items() if target.keep}
            for key in [key for key in self._versions if key not in wanted]:
                self._let_go(key)
            versions = list(self._versions.items())
        for key, version in versions:
            version.wish(wanted[key])

    def status(self, target: Target) -> Status:
        """Tell where a target is in its life."""
        key = target.key
        with self._lock:
            version = self._versions.get(key)
            if version is None and self._leaving:
                leaving = (one for one in self._leaving if one.active and one.target.key == key)
                version = next(leaving, None)
        return version.status() if version is not None else _DISCOVERED

    def close(self, grace: float) -> None:
        """Take no more jobs, finish those taken within `grace` seconds, and end every worker."""
        end = time.monotonic() + grace
        with self._lock:
            self._closed = True
            for key in list(self._versions):
                self._let_go(key)
            leaving = list(self._leaving)
        if self._spares is not None:
            self._spares.close()
        unfinished = [version for version in leaving if not version.join(max(0.0, end - time.monotonic()))]
        for version in unfinished:
            version.abort()
        for version in unfinished:
            # A killed process ends at once; the bound is for one that the kernel can't kill, on a dead disk say.
            if not version.join(2 * self._settings.end_grace + 1):
                log.error("a worker does not end", model=version.target.name, version=version.target.version)
        self._timer.close()

    def _running(self, target: Target, *, surge: int = 0, kept: bool = False, if_room: bool = False) -> Version | None:
        """Give the target's version, started where it can be; None where the pool is closed.

        Args:
            target: The version.
            surge: How many workers there may be above the limit.
            kept: Whether it is started because it is to be loaded all the time, and not by a job.
            if_room: Whether it is started only where there is room for it.
        """
        key = target.key
        with self._lock:
            if self._closed:
                return None
            version = self._versions.get(key)
            if version is not None and not version.wants_start():
                return version
            room_after = self._make_room(self._settings.max_workers + surge, kept=kept, if_room=if_room)
            if version is None:
                version = self._versions[key] = Version(
                    target,
                    self._make_worker,
                    self._settings,
                    self._timer,
                    self._load_times,
                    self._on_change,
                    self._have_room,
                )
            version.start(after=room_after.join if room_after is not None else lambda: None)
            self._told.pop(key, None)
            self._keep_watch()
            return version

    def _keep_watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._timer.at(time.monotonic() + self._settings.watch_interval, self._watch)

    def _log_once(self, target: Target, why: str) -> None:
        """Log why a version is not loaded, unless that was told of it before."""
        if self._told.get(target.key) != why:
            self._told[target.key] = why
            log.warning("a version is not loaded", model=target.name, version=target.version, why=why)

    # Room. With the lock held, but for `_have_room`.

    def _make_room(self, limit: int, *, kept: bool, if_room: bool) -> Version | None:
        """Make room for one more worker; returns the version whose end to wait for, if any."""
        self._leaving = [version for version in self._leaving if version.active]
        if self._workers() >= limit:
            why = f"all {self._settings.max_workers} workers are in use by other models"
        elif self._memory() > 0 and not (self._drop_spares() and self._memory() <= 0):
            why = "other models hold all the memory that workers may have"
        else:
            return None
        if if_room:
            raise Overloaded(why)
        # One that leaves anyway makes room for as many as it has workers.
        self._awaited = Counter({one: n for one, n in self._awaited.items() if one in self._leaving})
        room = next((version for version in self._leaving if self._awaited[version] < version.workers), None)
        # One that is loaded all the time does not go for another one like it: they would take turns for ever.
        room = room or self._unload_idle(kept=not kept)
        if room is None:
            raise Overloaded(why)
        self._awaited[room] += 1
        return room

    def _workers(self) -> int:
        return sum(version.workers for version in (*self._versions.values(), *self._leaving))

    def _have_room(self, start: Callable[[], bool]) -> bool:
        """Start one more worker of a version that has one, if there is room; tells whether it was started."""
        with self._lock:
            return not self._closed and self._workers() < self._settings.max_workers and start()

    def _memory(self) -> int:
        """Tell the bytes that workers hold over their budget; negative where there is room."""
        if self._budget is None:
            return -_NO_BUDGET
        spares = self._spares.memory() if self._spares is not None else 0
        return spares + sum(one.memory() for one in (*self._versions.values(), *self._leaving)) - self._budget

    def _drop_spares(self) -> bool:
        return self._spares is not None and self._spares.drop()

    def _unload_idle(self, *, before: float | None = None, kept: bool) -> Version | None:
        """Unload the least recently used version that has no work.

        Args:
            before: Only one that was last used before that time.
            kept: Whether one that is to be loaded all the time may go as well, where there is no other.
        """
        idle = [
            (key in self._kept, since, key)
            for key, version in self._versions.items()
            if (since := version.idle_since) is not None and (before is None or since < before)
        ]
        chosen = min(idle, default=None)
        if chosen is None or (chosen[0] and not kept):
            return None
        return self._let_go(chosen[2])

    def _let_go(self, key: Key) -> Version:
        version = self._versions.pop(key)
        self._leaving.append(version)
        version.leave()
        return version

    # In the timer's thread, all the while.

    def _watch(self) -> None:
        """Unload what is not used, keep to the limits, and have what is wanted from the start come back."""
        try:
            with self._lock:
                if self._closed:
                    return
                self._leaving = [version for version in self._leaving if version.active]
                greedy = self._tidy(time.monotonic())
                absent = [target for key, target in self._kept.items() if self._is_absent(key)]
                versions = list(self._versions.values())
                room = -self._memory()
            if self._spares is not None:
                self._spares.tend(room)
            if greedy is not None:
                greedy.restart()
            for version in versions:
                version.grow()
            for target in absent:
                try:
                    self._running(target, kept=True)
                except Overloaded as exc:
                    self._log_once(target, exc.message)
        finally:
            # Whatever went wrong once: without it nothing is ever unloaded again.
            self._timer.at(time.monotonic() + self._settings.watch_interval, self._watch)

    def _tidy(self, now: float) -> Version | None:
        """Unload what has no work for long, or is too much; gives the version whose worker is to be restarted."""
        if self._settings.idle_unload:
            while self._unload_idle(before=now - self._settings.idle_unload, kept=False) is not None:
                continue
        if self._leaving:
            return None
        if self._workers() > self._settings.max_workers:
            self._unload_idle(kept=False)
        over = self._memory()
        if over <= 0:
            self._over = False
            return None
        if self._drop_spares():
            return None
        if self._unload_idle(kept=False) is not None:
            log.warning("a version is unloaded, since workers hold more memory than they may have")
            return None
        greedy = max(self._versions.values(), key=Version.growth, default=None)
        if greedy is not None and greedy.growth() > 0:
            target = greedy.target
            log.warning(
                "a worker is restarted, since it holds ever more memory", model=target.name, version=target.version
            )
            return greedy
        if not self._over:
            log.warning("the models in use hold more memory than workers may have", bytes_over=over)
            self._over = True
        return None

    def _is_absent(self, key: Key) -> bool:
        version = self._versions.get(key)
        return version is None or version.wants_start()


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch of a schema without rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
