"""The `WorkerPool` that keeps workers for the versions in use, whatever a worker is."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Collection

import pyarrow as pa
import structlog

from prinz_enricher.errors import DeadlineExceeded, EnricherError, InternalError, Overloaded, ShuttingDown
from prinz_enricher.provision.memory import default_budget
from prinz_enricher.scoring.cost import LoadTimes
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Job, ScoreResult, Status, Target, Worker, WorkerState
from prinz_enricher.scoring.queue import Pending, lane_of
from prinz_enricher.scoring.runtime.spares import Spares
from prinz_enricher.scoring.runtime.timer import Timer
from prinz_enricher.scoring.runtime.version import ModelVersionRuntime
from prinz_enricher.scoring.runtime.worker_group import WorkerGroup
from prinz_enricher.signature.arrow import output_schema
from prinz_enricher.telemetry.series import Series, Usage

log = structlog.get_logger(__name__)

Key = tuple[str, str, str, str]

_MAX_ATTEMPTS = 16
_NO_BUDGET = 1 << 62

_DISCOVERED = Status(WorkerState.DISCOVERED)
_UNLOADED = Status(WorkerState.DISCOVERED, was_loaded=True)
_MAX_UNLOADED = 4096
"""One for all: lists ask for the state of hundreds of versions that are not in use."""


class VersionPool:
    """Scores batches with workers for each version, started by its first job or by `load`."""

    def __init__(
        self,
        make_worker: Callable[[Target], Worker],
        settings: PoolSettings | None = None,
        on_change: Callable[[], object] = lambda: None,
        spares: Spares | None = None,
        series: Series | None = None,
    ) -> None:
        """Make a pool without workers; `make_worker` is called in the thread that will use the worker.

        `on_change` is called after each change of a status, from any thread, with locks held: it may only take note.
        Spares are held in memory so that workers start sooner, and dropped first when memory is short.
        What workers do is counted in the series.
        """
        self._series = series or Series()
        self._make_worker = make_worker
        self._on_change = on_change
        self._spares = spares
        self._timer = Timer("deadlines")
        self._load_times = LoadTimes()
        self._lock = threading.Lock()
        self._versions: dict[Key, ModelVersionRuntime] = {}
        self._leaving: list[ModelVersionRuntime] = []
        self.change(settings or PoolSettings())
        self._unloaded: dict[Key, None] = {}
        self._logged: dict[Key, str] = {}
        self._kept: dict[Key, Target] = {}
        self._over_budget = self._watching = self._closed = False
        self._correlations = itertools.count(1)
        self._correlation_prefix = uuid.uuid4().hex[:10]

    def submit(self, job: Job) -> None:
        """Accept a job; never blocks, and reports all faults of the job to `job.done`."""
        pending = Pending(job, f"{self._correlation_prefix}-{next(self._correlations):x}", lane_of(job))
        try:
            self._submit(pending)
        except Overloaded as exc:
            pending.answer(exc)
        except Exception:
            log.exception("a job could not be accepted", correlation_id=pending.correlation)
            pending.answer(InternalError(pending.correlation))

    def _submit(self, pending: Pending) -> None:
        job = pending.job
        if self._closed:
            pending.answer(ShuttingDown())
        elif job.deadline is not None and job.deadline <= pending.submitted:
            pending.answer(DeadlineExceeded("queue"))
        elif not pending.rows:
            # Many models raise on an empty frame, and the answer is known without them.
            empty = pa.RecordBatch.from_pylist([], output_schema(job.target.signature))
            pending.answer(ScoreResult(empty, 0.0, 0.0, 0))
        else:
            # Without the lock: a version that has stopped by then accepts nothing.
            version = self._versions.get(job.target.key)
            for _ in range(_MAX_ATTEMPTS):
                if version is not None and version.submit(pending):
                    return
                version = self._running(job.target)
                if version is None:
                    pending.answer(ShuttingDown())
                    return
            pending.answer(Overloaded("the version is being unloaded"))

    def refusal(self, target: Target, rows: int, deadline: float | None) -> EnricherError | None:
        """Return why a job of some rows would be refused now; None if it may be accepted, which `submit` decides."""
        # Without the lock: another version may be there by the time the job comes.
        version = self._versions.get(target.key)
        return None if version is None else version.overload(rows, deadline)

    def load(self, target: Target, *, instead: bool = False, if_room: bool = False) -> None:
        """Begin to load a target if it is not loaded; never blocks. See `WorkerPool`."""
        try:
            self._running(target, surge=int(instead), kept=target.keep, if_room=if_room)
        except (Overloaded, RuntimeError) as exc:
            why = str(exc)
            if self._logged.get(target.key) != why:
                self._logged[target.key] = why
                log.warning("a version is not loaded", model=target.name, version=target.version, why=why)

    def used(self) -> list[Target]:
        """Return the targets that are loaded or being loaded, without those that are leaving."""
        with self._lock:
            versions = list(self._versions.values())
        return [one.target for one in versions if one.status().state in (WorkerState.LOADING, WorkerState.AVAILABLE)]

    def retain(self, targets: Collection[Target]) -> None:
        """Unload all other targets after their last job, and apply what owners wish for these ones now."""
        wanted = {target.key: target for target in targets}
        with self._lock:
            self._kept = {key: target for key, target in wanted.items() if target.keep}
            for key in [key for key in self._versions if key not in wanted]:
                self._unload(key)
            versions = list(self._versions.items())
        for key, version in versions:
            version.wish(wanted[key])

    def change(self, settings: PoolSettings) -> None:
        """Go on with other limits and times; see `WorkerPool`."""
        with self._lock:
            self._settings = settings
            self._budget = settings.memory_budget or default_budget()
            versions = self._all()
        for version in versions:
            version.change(settings)

    def status(self, target: Target) -> Status:
        """Return where a target is in its life."""
        key = target.key
        with self._lock:
            version = self._versions.get(key)
            if version is None and self._leaving:
                leaving = (one for one in self._leaving if one.workers and one.target.key == key)
                version = next(leaving, None)
        if version is not None:
            return version.status()
        return _UNLOADED if key in self._unloaded else _DISCOVERED

    def usage(self) -> Usage:
        """Return what each version has that is in use, or could not be loaded; see `WorkerPool`."""
        with self._lock:
            versions = self._all()
        return [version.usage() for version in versions]

    def close(self, grace: float) -> None:
        """Accept no more jobs, finish those accepted within `grace` seconds, and stop every worker."""
        end = time.monotonic() + grace
        with self._lock:
            self._closed = True
            for key in list(self._versions):
                self._unload(key)
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

    def _running(
        self, target: Target, *, surge: int = 0, kept: bool = False, if_room: bool = False
    ) -> ModelVersionRuntime | None:
        # None if the pool is closed. There may be a `surge` of workers above the limit.
        key = target.key
        with self._lock:
            if self._closed:
                return None
            version = self._versions.get(key)
            if version is not None and not version.wants_start():
                return version
            leaver = self._make_room(self._settings.max_workers + surge, kept=kept, if_room=if_room)
            if version is None:
                group = WorkerGroup(target, self._settings, self._load_times, self._on_change, self._series)
                version = ModelVersionRuntime(group, self._make_worker, self._timer, self._have_room)
                self._versions[key] = version
            version.start(after=leaver.join if leaver is not None else lambda: None)
            self._logged.pop(key, None)
            self._keep_watch()
            return version

    # Room. With the lock held, except for `_have_room`.

    def _make_room(self, limit: int, *, kept: bool, if_room: bool) -> ModelVersionRuntime | None:
        """Make room for one more worker; returns the version whose end to wait for, if any."""
        self._leaving = [version for version in self._leaving if version.workers]
        if self._workers() >= limit:
            why = f"all {self._settings.max_workers} workers are in use by other models"
        elif self._memory() > 0 and not (self._drop_spares() and self._memory() <= 0):
            why = "other models hold all the memory that workers may have"
        else:
            return None
        if if_room:
            raise Overloaded(why)
        # One that leaves anyway makes room for as many as it has workers.
        leaver = next((version for version in self._leaving if version.awaited < version.workers), None)
        # One that stays loaded does not go for another one like it: they would take turns forever.
        leaver = leaver or self._unload_idle(kept=not kept)
        if leaver is None:
            raise Overloaded(why)
        leaver.awaited += 1
        return leaver

    def _have_room(self, start: Callable[[], bool]) -> bool:
        """Start one more worker of a version that has one, if there is room; returns whether it was started."""
        with self._lock:
            return not self._closed and self._workers() < self._settings.max_workers and start()

    def _all(self) -> list[ModelVersionRuntime]:
        return [*self._versions.values(), *self._leaving]

    def _workers(self) -> int:
        return sum(version.workers for version in self._all())

    def _memory(self) -> int:
        """Return the bytes that workers hold over their budget; negative if there is room."""
        if self._budget is None:
            return -_NO_BUDGET
        spares = self._spares.memory() if self._spares is not None else 0
        return spares + sum(version.memory() for version in self._all()) - self._budget

    def _drop_spares(self) -> bool:
        return self._spares is not None and self._spares.drop()

    def _unload_idle(self, *, before: float = float("inf"), kept: bool) -> ModelVersionRuntime | None:
        # The least recently used one. One that is to stay loaded may go only if `kept`, and if there is no other.
        idle = [
            (key in self._kept, since, key)
            for key, version in self._versions.items()
            if (since := version.idle_since) is not None and since < before
        ]
        chosen = min(idle, default=None)
        if chosen is None or (chosen[0] and not kept):
            return None
        return self._unload(chosen[2])

    def _unload(self, key: Key) -> ModelVersionRuntime:
        version = self._versions.pop(key)
        self._leaving.append(version)
        if version.status().state is WorkerState.AVAILABLE:
            self._unloaded[key] = None
            if len(self._unloaded) > _MAX_UNLOADED:
                del self._unloaded[next(iter(self._unloaded))]
        version.leave()
        return version

    # The watch, in the timer's thread.

    def _keep_watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._timer.call_at(time.monotonic() + self._settings.watch_interval, self._watch)

    def _watch(self) -> None:
        """Unload what is not used, enforce the limits, and load again what is to stay loaded."""
        try:
            with self._lock:
                if self._closed:
                    return
                self._leaving = [version for version in self._leaving if version.workers]
                greedy = self._enforce_limits(time.monotonic())
                versions = dict(self._versions)
                absent = [
                    target for key, target in self._kept.items() if key not in versions or versions[key].wants_start()
                ]
                free = -self._memory()
            if self._spares is not None:
                self._spares.restore(free)
            if greedy is not None:
                greedy.restart()
            for version in versions.values():
                version.grow()
            for target in absent:
                self.load(target)
        finally:
            # Whatever went wrong once: without it nothing is ever unloaded again.
            self._timer.call_at(time.monotonic() + self._settings.watch_interval, self._watch)

    def _enforce_limits(self, now: float) -> ModelVersionRuntime | None:
        """Unload what has no work for long, or is too much; returns the version whose worker is to be restarted."""
        if self._settings.idle_unload:
            while self._unload_idle(before=now - self._settings.idle_unload, kept=False) is not None:
                continue
        if self._leaving:
            return None
        if self._workers() > self._settings.max_workers:
            self._unload_idle(kept=False)
        over = self._memory()
        if over <= 0:
            self._over_budget = False
            return None
        if self._drop_spares():
            return None
        if self._unload_idle(kept=False) is not None:
            log.warning("a version is unloaded, since workers hold more memory than they may have")
            return None
        greedy = max(self._versions.values(), key=ModelVersionRuntime.growth, default=None)
        if greedy is not None and greedy.growth() > 0:
            model, version = greedy.target.name, greedy.target.version
            log.warning("a worker is restarted, since it holds ever more memory", model=model, version=version)
            return greedy
        if not self._over_budget:
            log.warning("the models in use hold more memory than workers may have", bytes_over=over)
            self._over_budget = True
        return None
