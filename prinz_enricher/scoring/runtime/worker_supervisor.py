"""The thread that keeps one worker of a version: starts it, feeds it, replaces it if it dies, and stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from prinz_enricher.errors import DeadlineExceeded, EnricherError, InternalError, UnavailableError
from prinz_enricher.provision.progress import steps_reported_to
from prinz_enricher.scoring.ports import LoadFailed, ModelCall, Target, Worker, WorkerAnswer, WorkerDied
from prinz_enricher.scoring.queue import Pending, Stage, concat_jobs, split_scores
from prinz_enricher.scoring.runtime.inflight import InFlightBatch
from prinz_enricher.scoring.runtime.timer import Timer
from prinz_enricher.scoring.runtime.worker_group import WorkerGroup, WorkerSlot


class WorkerSupervisor:
    """Keeps the worker of a slot, in a thread that lives as long as the slot needs one.

    The thread that starts a worker process must outlive it: Linux sends the parent-death signal when the thread that
    forked ends, not when its process does.
    """

    def __init__(
        self,
        group: WorkerGroup,
        slot: WorkerSlot,
        make_worker: Callable[[Target], Worker],
        timer: Timer,
        grow: Callable[[], None],
    ) -> None:
        self._group = group
        self._slot = slot
        self._make_worker = make_worker
        self._timer = timer
        self._grow = grow

    def start(self, after: Callable[[], object]) -> None:
        """Begin to load, once something else has ended: `after` is called first, and blocks until then."""
        name = f"replica-{self._group.target.name}-{self._group.target.version}"
        self._slot.send_at_once = self._send_at_once
        self._slot.thread = threading.Thread(target=self._run, args=(after,), name=name, daemon=True)
        self._slot.thread.start()

    def _run(self, after: Callable[[], object]) -> None:
        try:
            after()
            replaces = False
            while (worker := self._start_worker()) is not None:
                if replaces:
                    self._group.series.restarted()
                replaces = True
                self._serve(worker)
        except BaseException as exc:
            # Whatever went wrong here, callers must not wait for a thread that is gone.
            self._group.log.exception("the thread of a worker failed")
            self._stop_worker()
            self._group.supervisor_failed(self._slot, f"the service failed ({type(exc).__name__}); its log says why")
            self._grow()

    def _start_worker(self) -> Worker | None:
        """Start a worker and have it load the model; None if none is needed any more."""
        group, slot = self._group, self._slot
        while group.may_start(slot):
            worker = self._make_worker(group.target)
            with group.lock:
                slot.worker = worker
                if not group.is_needed(slot):
                    # Whoever decided so meanwhile had no worker to kill.
                    worker.kill()
            began = time.monotonic()
            limit = self._timer.call_at(began + self._group.settings.load_timeout, worker.kill)
            try:
                with steps_reported_to(lambda step: group.report_step(slot, step)):
                    loaded = worker.start()
            except (LoadFailed, WorkerDied) as exc:
                late = time.monotonic() - began >= self._group.settings.load_timeout
                ended = self._stop_worker()
                if late:
                    why = f"loading took longer than {self._group.settings.load_timeout:g} s"
                else:
                    why = f"its worker ended while loading ({ended or exc})"
                failure = exc if isinstance(exc, LoadFailed) and not late else LoadFailed(why)
                group.load_failed(slot, failure, died=isinstance(exc, WorkerDied) and not late)
                continue
            finally:
                limit.cancel()
            slot.loaded_memory = worker.memory()
            group.loaded(slot, loaded, time.monotonic() - began)
            self._grow()
            return worker
        return None

    def _stop_worker(self) -> str:
        """Stop the worker and let go of it; returns how it ended."""
        with self._group.lock:
            worker, self._slot.worker = self._slot.worker, None
            self._slot.live = self._slot.restart = False
        with self._slot.sending:
            return worker.end() if worker is not None else ""

    def _serve(self, worker: Worker) -> None:
        """Score until the worker ends."""
        while True:
            wait, ends = self._group.next_batches(self._slot)
            if ends:
                self._stop_worker()
                return
            try:
                if self._send_batches(worker) and (answer := worker.receive(wait)) is not None:
                    self._handle(answer)
            except WorkerDied as exc:
                first = self._slot.batches.first
                if first is not None and first.sent and first.trace is not None:
                    first.trace.end(first.began, "WORKER_DIED")
                ended = self._stop_worker() or "unknown"
                self._group.log.debug("a worker is gone", how=ended, why=str(exc))
                self._group.died(self._slot, ended)
                return

    def _send_batches(self, worker: Worker) -> bool:
        """Send the batches that the worker does not have yet; False if one ended that way, so that there is room."""
        batches = self._slot.batches
        for batch in [batch for batch in batches if not batch.sent]:
            if not self._drop_unwanted(batch):
                return False
            first = batches.first is batch
            job = batch.jobs[0]
            if first:
                with self._group.lock:
                    # Before it is sent: a worker that does not even accept it hangs as well.
                    self._begin(batch)
            try:
                call = _call_of(batch)
                with self._slot.sending:
                    if not worker.send(batch.id, call):
                        return True
            except WorkerDied:
                raise
            except Exception as exc:
                if not first:
                    return True
                if not isinstance(exc, EnricherError):
                    self._group.log.exception("a batch could not be sent to its worker", correlation_id=job.correlation)
                    exc = InternalError(job.correlation)
                self._handle_error(batch, exc)
                return False
            batch.sent = True
        return True

    # In the thread of a caller.

    def _send_at_once(self, pending: Pending) -> Callable[[], None] | None:
        """Have the worker score a job, if it has nothing to do; see `WorkerSlot`. Its answer wakes the supervisor."""
        slot, worker = self._slot, self._slot.worker
        if not slot.idle or worker is None or not worker.sends_at_once(pending.job.batch):
            return None
        if not slot.sending.acquire(blocking=False):
            return None
        batch = slot.batches.add([pending], sent=True)
        self._begin(batch)
        return partial(self._send_lone, worker, batch)

    def _send_lone(self, worker: Worker, batch: InFlightBatch) -> None:
        slot, sent = self._slot, False
        try:
            sent = worker.send(batch.id, _call_of(batch))
        except WorkerDied:
            batch.sent = False  # It is not what the worker died of.
        except Exception:
            self._group.log.exception("a batch could not be sent to its worker")
        finally:
            slot.sending.release()
        if not sent:
            with self._group.lock:
                # Its supervisor has it scored by another worker, as whatever a worker dies of.
                if slot.batches.first is batch:
                    slot.kill()

    # In its own thread.

    def _drop_unwanted(self, batch: InFlightBatch) -> bool:
        """Answer the jobs of a batch that nobody waits for any more; returns whether there are others."""
        now = time.monotonic()
        late = [pending for pending in batch.jobs if pending.unwanted(now)]
        if late:
            with self._group.lock:
                self._slot.batches.drop(batch, late)
            for pending in late:
                pending.answer(DeadlineExceeded("queue"))
        return bool(batch.jobs)

    def _handle(self, answer: WorkerAnswer) -> None:
        batch = self._slot.batches.first
        if batch is None or batch.id != answer.id:
            raise WorkerDied("it answered another call")
        self._group.series.scored(batch.rows)
        if batch.trace is not None:
            # Before its calls are answered, of which some may be sent again.
            batch.trace.end(batch.began, answer.outcome.reason if isinstance(answer.outcome, EnricherError) else "")
        if isinstance(answer.outcome, EnricherError):
            self._handle_error(batch, answer.outcome)
            return
        scores = split_scores(batch.jobs, answer.outcome, batch.began, answer.compute)
        # With the way there and back: that is what the next one waits for.
        self._finish(batch, time.monotonic() - batch.began)
        for pending, its in zip(batch.jobs, scores, strict=True):
            pending.answer(its)

    def _handle_error(self, batch: InFlightBatch, error: EnricherError) -> None:
        """Answer the only job of a batch that failed; score several again by halves, unless no row is at fault."""
        if isinstance(error, DeadlineExceeded):
            # The first of the deadlines has passed; who has more time is scored again. A batch without any deadline has
            # had all the time that there is.
            self._finish(batch, None)
            now, timed = time.monotonic(), batch.end < float("inf")
            patient = [one for one in batch.jobs if timed and (one.job.deadline is None or one.job.deadline > now)]
            failed = [one for one in batch.jobs if one not in patient]
            self._group.requeue(patient)
        else:
            several = len(batch.jobs) > 1 or batch.jobs[0].job.calls > 1
            halve = several and not isinstance(error, UnavailableError)
            self._finish(batch, None, halve=halve)
            failed = [] if halve else batch.jobs
        for pending in failed:
            pending.answer(error)

    def _finish(self, batch: InFlightBatch, seconds: float | None, *, halve: bool = False) -> None:
        """Go on with the next batch, after one that took some seconds; None if it failed."""
        batches = self._slot.batches
        with self._group.lock:
            self._group.worked(batch.rows, seconds)
            batches.finish()
            if halve:
                batches.halve(batch)
            following = batches.first
            if following is not None and following.sent:
                self._begin(following)

    def _begin(self, batch: InFlightBatch) -> None:
        """Note that the worker is free for a batch, and watch that it does not hang. Call with the lock held."""
        batch.began = time.monotonic()
        for pending in batch.jobs:
            pending.stage = Stage.RUNNING
        settings = self._group.settings
        when = min(max(batch.end, batch.began), batch.began + settings.max_compute) + settings.hang_grace
        batch.hang = self._timer.call_at(when, lambda: self._kill_if_still(batch))

    def _kill_if_still(self, batch: InFlightBatch) -> None:
        with self._group.lock:
            hangs = self._slot.batches.first is batch
            if hangs:
                # It counts as one that the worker died of, though it may have read only a part of it.
                batch.sent = True
                self._slot.kill()
        if hangs:
            self._group.log.warning("a worker hangs and is killed", correlation_id=batch.jobs[0].correlation)


def _call_of(batch: InFlightBatch) -> ModelCall:
    first, deadline = batch.jobs[0], None if batch.end == float("inf") else batch.end
    return ModelCall(concat_jobs(batch.jobs), first.job.params, first.correlation, deadline, batch.trace)
