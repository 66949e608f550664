"""One model version in use: which of its jobs are accepted, and how its workers come and go."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

from prinz_enricher.errors import DeadlineExceeded, EnricherError, ModelLoading, Overloaded, ShuttingDown
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Status, Target, Worker, WorkerState
from prinz_enricher.scoring.queue import Pending, Stage
from prinz_enricher.scoring.runtime.inflight import MAX_IN_FLIGHT
from prinz_enricher.scoring.runtime.restart_backoff import digest_of
from prinz_enricher.scoring.runtime.timer import Timer
from prinz_enricher.scoring.runtime.worker_group import WorkerGroup, WorkerSlot
from prinz_enricher.scoring.runtime.worker_supervisor import WorkerSupervisor
from prinz_enricher.telemetry.series import VersionUsage

_CAUTION = 0.5
"""Share of the time until its deadline in which a job should be answered. The estimate is a mean; and jobs that come to
their turn with little time left can share no large batch, which costs everyone."""


_usage = lru_cache(1_024)(VersionUsage)
"""Most of thousands of versions have the same."""


class ModelVersionRuntime:
    """Serves the jobs of one model version with a group of workers. All methods can be called from any thread."""

    def __init__(
        self,
        group: WorkerGroup,
        make_worker: Callable[[Target], Worker],
        timer: Timer,
        have_room: Callable[[Callable[[], bool]], bool],
    ) -> None:
        """Make a version without workers; `have_room` starts one more if there is room, and returns whether it did."""
        self.group = group
        self._key = group.target.name, group.target.version
        # How many workers of other versions begin to load once its own have ended; the pool's to count.
        self.awaited = 0
        self._lock = group.lock
        self._make_worker = make_worker
        self._timer = timer
        self._have_room = have_room

    @property
    def target(self) -> Target:
        """The version, as its owner wishes it now."""
        return self.group.target

    @property
    def workers(self) -> int:
        """How many workers it has, starts or ends, which is what the limit of workers counts."""
        return len(self.group.slots)

    @property
    def idle_since(self) -> float | None:
        """When it last had work, by `time.monotonic()`; None while it has, or has no loaded worker."""
        group = self.group
        with self._lock:
            busy = len(group.queue) or any(slot.batches.busy for slot in group.slots)
            return group.last_used if group.state is WorkerState.AVAILABLE and not busy else None

    def status(self) -> Status:
        """Return where the version is in its life."""
        group = self.group
        with self._lock:
            state = WorkerState.UNLOADING if group.leaving and group.slots else group.state
            return Status(state, group.message, group.batching)

    def memory(self) -> int:
        """Return the bytes of memory that its workers hold."""
        with self._lock:
            return sum(slot.memory() for slot in self.group.slots)

    def usage(self) -> tuple[tuple[str, str], VersionUsage]:
        """Return its name and number, and what it has now; one that could not be loaded counts as a failed worker."""
        group, slots = self.group, tuple(self.group.slots)
        live = in_flight = memory = 0
        for slot in slots:
            live += slot.live
            if (worker := slot.worker) is not None:  # Read once: it may go meanwhile.
                memory += worker.memory()
            # The lock is only for what is added up: thousands of versions are asked at each scrape.
            if slot.batches.busy:
                with self._lock:
                    in_flight += slot.batches.rows
        failed = int(group.state is WorkerState.FAILED)
        workers = (0, 0, len(slots), failed) if group.leaving else (len(slots) - live, live, 0, failed)
        return self._key, _usage(group.queue.rows, in_flight, memory, *workers, live * group.accelerated)

    def growth(self) -> int:
        """Return what the worker that grew most leaks, in bytes; see `WorkerSlot.growth`."""
        with self._lock:
            return max((slot.growth() for slot in self.group.slots if slot.live), default=0)

    def restart(self) -> None:
        """Replace the worker that grew most, once it has nothing in flight."""
        with self._lock:
            live = [slot for slot in self.group.slots if slot.live and not slot.restart]
            if live:
                chosen = max(live, key=WorkerSlot.growth)
                chosen.restart = True
                chosen.wake()

    def wish(self, target: Target) -> None:
        """Apply what the owner of the version wishes now: sharing of calls, and how many workers."""
        group = self.group
        with self._lock:
            wanted = group.wanted
            group.target = target
            if len(group.slots) > min(wanted, group.wanted):
                for slot in group.slots:
                    slot.wake()
                self._lock.notify_all()
        self.grow()

    def change(self, settings: PoolSettings) -> None:
        """Go on with other limits and times."""
        with self._lock:
            self.group.settings = settings
            self.group.queue.limit(settings.max_queue_rows, settings.max_shared_rows, settings.max_delay)

    # Starting and ending.

    def wants_start(self) -> bool:
        """Whether a job or a wish to load would start a worker now."""
        with self._lock:
            return not (self.group.slots or self.group.leaving or self._is_backing_off())

    def start(self, after: Callable[[], object]) -> None:
        """Begin to load, once something else has ended: `after` blocks until then."""
        with self._lock:
            self.group.loading_since = time.monotonic()
            self._add_worker(after)
            self.group.set_state(WorkerState.LOADING)

    def grow(self) -> None:
        """Start the workers that are missing, once one has shown that the version can be loaded."""
        while self._misses_worker() and self._have_room(self._add_missing_worker):
            continue  # Room is asked for last: it takes a count of the workers of all versions.

    def _misses_worker(self) -> bool:
        group = self.group
        return group.state is WorkerState.AVAILABLE and not group.leaving and len(group.slots) < group.wanted

    def _add_missing_worker(self) -> bool:
        with self._lock:
            if not self._misses_worker():
                return False
            try:
                self._add_worker(lambda: None)
            except RuntimeError as exc:
                self.group.log.warning("one more worker of a version can't be started", why=str(exc))
                return False
            return True

    def _add_worker(self, after: Callable[[], object]) -> None:
        """Start one more worker; raises RuntimeError if the system has no thread for it. Call with the lock held."""
        slot = WorkerSlot()
        supervisor = WorkerSupervisor(self.group, slot, self._make_worker, self._timer, self.grow)
        self.group.slots.append(slot)
        try:
            supervisor.start(after)
        except BaseException:
            self.group.slots.remove(slot)
            raise

    def leave(self) -> None:
        """Accept no more jobs, finish those accepted, and end the workers."""
        group = self.group
        with self._lock:
            group.leaving = True
            self._lock.notify_all()
            for slot in group.slots:
                if slot.live or len(group.queue):
                    slot.wake()
                else:
                    # Nobody waits for what it loads.
                    slot.kill()

    def abort(self) -> None:
        """Answer every job with a refusal, and end the workers at once."""
        group = self.group
        with self._lock:
            group.leaving = group.aborted = True
            self._lock.notify_all()
            left = group.queue.clear()
            for slot in group.slots:
                left += slot.batches.jobs
                slot.kill()
        for pending in left:
            pending.answer(ShuttingDown())

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every worker has ended and every job has its answer; returns whether that is so."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            threads = [slot.thread for slot in self.group.slots if slot.thread is not None]
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # Accepting jobs.

    def overload(self, rows: int, deadline: float | None) -> Overloaded | None:
        """Return why a job of some rows would come too late now; None if it would not."""
        if not len(self.group.queue):
            return None
        with self._lock:
            return self._overload(rows, time.monotonic(), deadline)

    def submit(self, pending: Pending) -> bool:
        """Queue a job, or answer it with why not; False if there is no worker to score it, nor a reason."""
        group = self.group
        digest = b""
        if group.backoff.poison:
            if pending.job.calls > 1:
                return self._submit_each(pending)
            # Costs as much as a small model call, and is needed only for versions that something has killed.
            digest = digest_of(pending)
        send: Callable[[], None] | None = None
        with self._lock:
            if not group.slots or group.leaving:
                if group.leaving or not self._is_backing_off():
                    return False
                refusal: EnricherError | None = group.refusal()
            elif digest in group.backoff.poison:
                refusal = group.poisonous(pending, "workers died of the same rows before")
            else:
                refusal, send = self._admit(pending)
        if send is not None:
            send()
        if refusal is not None:
            pending.answer(refusal)
        return True

    def _submit_each(self, pending: Pending) -> bool:
        """Submit the calls of a job each for itself: one of them may be what a worker died of."""
        group = self.group
        with self._lock:
            if group.leaving or not (group.slots or self._is_backing_off()):
                return False
        for part in pending.split():
            if not self.submit(part):
                part.answer(Overloaded("the version is being unloaded"))
        return True

    # With the lock held.

    def _is_backing_off(self) -> bool:
        return self.group.state is WorkerState.FAILED and time.monotonic() < self.group.backoff.not_before

    def _admit(self, pending: Pending) -> tuple[EnricherError | None, Callable[[], None] | None]:
        """Queue a job, or return why not; or what sends it to an idle worker, to be called without the lock."""
        group, deadline = self.group, pending.job.deadline
        if (overload := self._overload(pending.rows, pending.submitted, deadline)) is not None:
            return overload, None
        if deadline is not None:
            # Set before a supervisor can see the job, so that its answer cancels the alarm.
            when = deadline
            if group.state is not WorkerState.AVAILABLE:
                # Early enough that the reason reaches the caller, but never the greater part of a short deadline.
                when -= max(0.0, min(group.settings.loading_margin, (deadline - pending.submitted) / 5))
            pending.cancel_alarm = self._timer.call_at(when, lambda: self._on_deadline(pending, deadline)).cancel
        if (send := self._send_at_once(pending)) is None and not group.queue.push(pending):
            return Overloaded(f"{group.queue.rows} rows are waiting for this model already"), None
        group.last_used = pending.submitted
        if send is None and group.state is WorkerState.AVAILABLE:
            self._wake_one()
        return None, send

    def _send_at_once(self, pending: Pending) -> Callable[[], None] | None:
        group, job = self.group, pending.job
        # Several calls are apart where the version has it so, which is the queue's to do.
        if not job.lone or job.calls > 1 or len(group.queue) or group.settings.max_delay:
            return None
        return next((send for slot in group.slots if (send := slot.send_at_once(pending)) is not None), None)

    def _overload(self, rows: int, now: float, deadline: float | None) -> Overloaded | None:
        group = self.group
        if group.state is not WorkerState.AVAILABLE or not group.cost.known:
            return None
        if not len(group.queue) and any(slot.idle for slot in group.slots):
            # One that is scored at once is accepted in any case: its cost is learned anew, whatever was believed.
            return None
        in_flight, workers = 0.0, 0
        for slot in group.slots:
            workers += slot.live
            for batch in slot.batches:
                done = now - batch.began if batch is slot.batches.first and batch.sent else 0.0
                in_flight += max(0.0, group.cost.estimate(batch.rows) - done)
        calls = group.queue.calls(share=group.batching)
        wait = group.cost.wait(calls, group.queue.rows, in_flight, max(1, workers))
        limit = group.settings.max_wait
        if deadline is not None:
            limit = min(limit, (deadline - now) * _CAUTION - group.cost.estimate(rows))
        if wait <= limit:
            return None
        return Overloaded(f"a call would wait {wait:.2g} s for this model, too long for it", max(0.01, wait))

    def _wake_one(self) -> None:
        """Have one supervisor ask for batches: that of an idle worker, else of one that can be sent a batch ahead."""
        chosen = None
        for slot in self.group.slots:
            if slot.idle:
                chosen = slot
                break
            if chosen is None and slot.live and len(slot.batches) < MAX_IN_FLIGHT:
                chosen = slot
        if chosen is not None:
            chosen.wake()

    # In the timer's thread.

    def _on_deadline(self, pending: Pending, deadline: float) -> None:
        group = self.group
        answer: EnricherError | None = None
        with self._lock:
            now = time.monotonic()
            if group.state is not WorkerState.AVAILABLE and group.queue.remove(pending):
                left = group.load_times.estimate(group.target) - (now - group.loading_since)
                answer = ModelLoading(group.target.name, group.target.version, max(1.0, left), step=group.message)
            elif now < deadline:
                alarm = self._timer.call_at(deadline, lambda: self._on_deadline(pending, deadline))
                pending.cancel_alarm = alarm.cancel
            elif pending.stage is Stage.RUNNING:
                answer = DeadlineExceeded("compute")
            else:
                group.queue.remove(pending)
                answer = DeadlineExceeded("queue")
        if answer is not None:
            pending.answer(answer)
