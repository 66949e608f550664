"""One model version in use: which of its jobs are taken, and where it is in its life."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from prinz_enricher.errors import DeadlineExceeded, EnricherError, ModelLoading, Overloaded, ShuttingDown
from prinz_enricher.scoring.ports import Status, Target, WorkerState
from prinz_enricher.scoring.queue import Ahead, Pending, Stage
from prinz_enricher.scoring.runtime.inflight import DEPTH
from prinz_enricher.scoring.runtime.restart_backoff import digest_of
from prinz_enricher.scoring.runtime.worker_group import Crew
from prinz_enricher.scoring.runtime.worker_supervisor import Replica

_CAUTION = 0.5
"""The share of the time until its deadline in which a job should be answered. The estimate is a mean; and jobs that
come to their turn with little time left can share no large call, which costs everyone."""


class Offer(Enum):
    """What became of a job that was offered to a version."""

    TAKEN = 1
    REFUSED = 2
    NOT_RUNNING = 3


class Version(Crew):
    """Serves the jobs of one model version by its crew."""

    # What the pool asks, from any thread.

    @property
    def workers(self) -> int:
        """How many workers it has, starts or ends: what counts against the limit of workers."""
        return len(self._replicas)

    @property
    def active(self) -> bool:
        """Whether it has, starts or ends a worker."""
        return bool(self._replicas)

    @property
    def idle_since(self) -> float | None:
        """When it last had work, by `time.monotonic()`; None while it has, or has no loaded worker."""
        with self.lock:
            busy = len(self._queue) or any(replica.hand.busy for replica in self._replicas)
            return self._used if self._state is WorkerState.AVAILABLE and not busy else None

    def status(self) -> Status:
        """Tell where the version is in its life."""
        with self.lock:
            state = WorkerState.UNLOADING if self._leaving and self._replicas else self._state
            return Status(state, self._message, self._batching)

    def memory(self) -> int:
        """Tell the bytes of memory that its workers hold."""
        with self.lock:
            return sum(replica.memory() for replica in self._replicas)

    def wish(self, target: Target) -> None:
        """Take over what the owner of the version wishes now: sharing of calls, and how many workers."""
        with self.lock:
            fewer = len(self._replicas) > self._wanted
            self.target = target
            if fewer or len(self._replicas) > self._wanted:
                for replica in self._replicas:
                    replica.wake()
                self.lock.notify_all()
        self.grow()

    def growth(self) -> int:
        """Tell the bytes of memory that its worker which grew most holds more than when it was loaded, and half again.

        That is what a model leaks, or keeps of its calls; 0 or less for what any model does.
        """
        with self.lock:
            return max((replica.growth() for replica in self._replicas if replica.live), default=0)

    def restart(self) -> None:
        """Replace the worker that grew most, once it has nothing in hand."""
        with self.lock:
            live = [replica for replica in self._replicas if replica.live and not replica.restart]
            if live:
                chosen = max(live, key=Replica.growth)
                chosen.restart = True
                chosen.wake()

    def wants_start(self) -> bool:
        """Whether a job or a wish to load would start a worker now."""
        with self.lock:
            waits = self._state is WorkerState.FAILED and time.monotonic() < self._setbacks.not_before
            return not (self._replicas or self._leaving or waits)

    def start(self, after: Callable[[], object] = lambda: None) -> None:
        """Begin to load, once something else has ended: `after` blocks until then."""
        with self.lock:
            self._loading_since = time.monotonic()
            self._add_replica(after)
            self._become(WorkerState.LOADING)

    def overload(self, rows: int, now: float, deadline: float | None) -> Overloaded | None:
        """Tell why a job of some rows, with a deadline by `time.monotonic()`, would come too late; None where not."""
        if not len(self._queue):
            return None
        with self.lock:
            return self._overload(rows, now, deadline)

    def offer(self, pending: Pending) -> Offer:
        """Take a job into the queue, or answer it with why not; NOT_RUNNING where there is nothing to take it."""
        if pending.job.calls > 1 and self._setbacks.has_poison:
            return self._offer_each(pending)
        # Costs as much as a small model call, and is asked only of versions that something has killed.
        digest = digest_of(pending) if self._setbacks.has_poison else b""
        with self.lock:
            if not self._replicas or self._leaving:
                if self._state is not WorkerState.FAILED or self._leaving:
                    return Offer.NOT_RUNNING
                refusal: EnricherError | None = self._refusal()
            elif digest and self._setbacks.is_poison(digest):
                refusal = self._poisonous(pending, "workers died of the same rows before")
            else:
                refusal = self._admit(pending)
        if refusal is None:
            return Offer.TAKEN
        pending.answer(refusal)
        return Offer.REFUSED

    def _offer_each(self, pending: Pending) -> Offer:
        """Take the calls of a job each for itself: one of them may be what a worker died of."""
        with self.lock:
            if self._leaving or not (self._replicas or self._state is WorkerState.FAILED):
                return Offer.NOT_RUNNING
        for part in pending.apart():
            if self.offer(part) is Offer.NOT_RUNNING:
                part.answer(Overloaded("the version is being unloaded"))
        return Offer.TAKEN

    def leave(self) -> None:
        """Take no more jobs, finish those taken, and end the workers."""
        with self.lock:
            self._leaving = True
            self.lock.notify_all()
            for replica in self._replicas:
                if replica.live or len(self._queue):
                    replica.wake()
                else:
                    # Nobody waits for what it loads.
                    replica.kill()

    def abort(self) -> None:
        """Answer every job with a refusal, and end the workers at once."""
        with self.lock:
            self._leaving = self._aborted = True
            self.lock.notify_all()
            left = self._queue.clear()
            for replica in self._replicas:
                left += replica.hand.jobs
                replica.kill()
        for pending in left:
            pending.answer(ShuttingDown())

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every worker has ended and every job has its answer; tells whether that is so."""
        end = None if timeout is None else time.monotonic() + timeout
        with self.lock:
            replicas = list(self._replicas)
        return all(replica.join(None if end is None else max(0.0, end - time.monotonic())) for replica in replicas)

    # With the lock held.

    def _admit(self, pending: Pending) -> EnricherError | None:
        """Queue a job, or tell why not."""
        overload = self._overload(pending.rows, pending.taken, pending.job.deadline)
        if overload is not None:
            return overload
        deadline = pending.job.deadline
        if deadline is not None:
            # Set before the job can be seen by a replica's thread, so that its answer cancels the alarm.
            pending.alarm = self._timer.at(self._first_ring(pending, deadline), lambda: self._ring(pending))
        if not self._queue.push(pending):
            return Overloaded(f"{self._queue.rows} rows are waiting for this model already")
        self._used = pending.taken
        if self._state is WorkerState.AVAILABLE:
            self._wake_one()
        return None

    def _overload(self, rows: int, now: float, deadline: float | None) -> Overloaded | None:
        if self._state is not WorkerState.AVAILABLE or not self._cost.known:
            return None
        if not len(self._queue) and any(replica.idle for replica in self._replicas):
            # One that is scored at once is taken in any case: what it costs is learnt anew, whatever was believed.
            return None
        wait = self._cost.wait(self._ahead(now))
        limit = self._settings.max_wait
        if deadline is not None:
            limit = min(limit, (deadline - now) * _CAUTION - self._cost.of(rows))
        if wait <= limit:
            return None
        return Overloaded(f"a call would wait {wait:.2g} s for this model, too long for it", max(0.01, wait))

    def _ahead(self, now: float) -> Ahead:
        """Tell what stands before a job that comes now."""
        in_hand, workers = 0.0, 0
        for replica in self._replicas:
            workers += replica.live
            for call in replica.hand:
                done = now - call.began if call is replica.hand.first and call.given else 0.0
                in_hand += max(0.0, self._cost.of(call.rows) - done)
        workers = max(1, workers)
        return Ahead(self._queue.calls(share=self._batching), self._queue.rows, in_hand / workers, workers)

    def _wake_one(self) -> None:
        """Have one replica ask for orders: an idle one, else one that can prepare a call."""
        chosen = None
        for replica in self._replicas:
            if replica.idle:
                chosen = replica
                break
            if chosen is None and replica.live and len(replica.hand) < DEPTH:
                chosen = replica
        if chosen is not None:
            chosen.wake()

    def _first_ring(self, pending: Pending, deadline: float) -> float:
        if self._state is WorkerState.AVAILABLE:
            return deadline
        # Early enough that the reason reaches the caller, but never the greater part of a short deadline.
        return deadline - max(0.0, min(self._settings.loading_margin, (deadline - pending.taken) / 5))

    # Deadlines, in the timer's thread.

    def _ring(self, pending: Pending) -> None:
        deadline = pending.job.deadline
        if deadline is None:
            return
        answer: EnricherError | None = None
        with self.lock:
            now = time.monotonic()
            if self._state is not WorkerState.AVAILABLE and self._queue.remove(pending):
                past = now - self._loading_since
                retry_after = max(1.0, self._load_times.usual(self.target) - past)
                answer = ModelLoading(self.target.name, self.target.version, retry_after, step=self._message)
            elif now < deadline:
                pending.alarm = self._timer.at(deadline, lambda: self._ring(pending))
            elif pending.stage is Stage.RUNNING:
                answer = DeadlineExceeded("compute")
            else:
                self._queue.remove(pending)
                answer = DeadlineExceeded("queue")
        if answer is not None:
            pending.answer(answer)
