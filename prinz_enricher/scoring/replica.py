"""The worker of one model version through its life: loading, serving its lane, dying, coming back, leaving."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum

import structlog

from prinz_enricher.errors import (
    DeadlineExceeded,
    EnricherError,
    ModelError,
    ModelLoadFailed,
    ModelLoading,
    Overloaded,
    RegistryUnavailable,
    ShuttingDown,
)
from prinz_enricher.scoring.calls import Calls
from prinz_enricher.scoring.lane import LaneLimits, Queue
from prinz_enricher.scoring.pending import Pending
from prinz_enricher.scoring.pool import Status, Target, WorkerState
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.shared import can_share
from prinz_enricher.scoring.timer import Timer
from prinz_enricher.scoring.worker import FetchFailed, LoadFailed, Worker, WorkerDied

log = structlog.get_logger(__name__)

_USUAL_LOADING = 5.0
"""Seconds that loading takes about; what a caller is told before the first load has been timed."""


class Offer(Enum):
    """What became of a job that was offered to a replica."""

    TAKEN = 1
    REFUSED = 2
    NOT_RUNNING = 3


class Replica:
    """Serves the jobs of one model version by one worker, in one thread that lives as long as a worker is needed.

    The thread that starts a worker process must outlive it: Linux sends the parent-death signal when the thread that
    forked ends, not when its process does.
    """

    def __init__(
        self,
        target: Target,
        make_worker: Callable[[Target], Worker],
        settings: PoolSettings,
        timer: Timer,
        on_change: Callable[[], object],
    ) -> None:
        self.target = target
        self._make_worker = make_worker
        self._settings = settings
        self._timer = timer
        self._on_change = on_change
        self._log = log.bind(model=target.name, version=target.version)
        self._changed = threading.Condition()
        self._lane = Queue(LaneLimits(settings.max_queue_rows, settings.max_shared_rows, settings.max_delay))
        self._state = WorkerState.DISCOVERED
        self._message = ""
        self._worker: Worker | None = None
        self._can_share = can_share(target.signature)
        self._calls = Calls(self._changed, timer, settings, self._log)
        self._shown = False
        self._wish = target.batching
        self._thread: threading.Thread | None = None
        self._active = False
        self._leaving = False
        self._aborted = False
        self._deaths = 0
        self._failures = 0
        self._not_before = 0.0
        self._used = time.monotonic()
        self._loading_since = 0.0
        self._may_pass = False

    # What the pool asks, from any thread.

    @property
    def active(self) -> bool:
        """Whether it has, starts or ends a worker: whether it counts against the limit of workers."""
        return self._active

    @property
    def idle_since(self) -> float | None:
        """When it last had work, by `time.monotonic()`; None while it has, or has no loaded worker."""
        with self._changed:
            idle = self._state is WorkerState.AVAILABLE and not self._calls.busy and not len(self._lane)
            return self._used if idle else None

    def status(self) -> Status:
        """Tell where the version is in its life."""
        with self._changed:
            state = WorkerState.UNLOADING if self._leaving and self._active else self._state
            return Status(state, self._message, self._batching)

    @property
    def _batching(self) -> bool:
        """Whether jobs share model calls: `off` always wins, and no wish makes a model see other rows than its own."""
        if self._settings.batching == "off" or self._wish == "off" or not self._can_share:
            return False
        return self._wish == "on" or self._shown

    def wants_start(self) -> bool:
        """Whether a job or a wish to load would start a worker now."""
        with self._changed:
            waits = self._state is WorkerState.FAILED and time.monotonic() < self._not_before
            return not (self._active or self._leaving or waits)

    def start(self, after: Replica | None = None) -> None:
        """Begin to load, once another replica has ended its worker."""
        with self._changed:
            self._active = True
            self._become(WorkerState.LOADING)
            self._loading_since = time.monotonic()
            self._thread = threading.Thread(
                target=self._run, args=(after,), name=f"replica-{self.target.name}-{self.target.version}", daemon=True
            )
            self._thread.start()

    def offer(self, pending: Pending) -> Offer:
        """Take a job into the lane, or answer it with why not; NOT_RUNNING where there is nothing to take it."""
        refusal: EnricherError | None = None
        with self._changed:
            if not self._active or self._leaving:
                if self._state is not WorkerState.FAILED or self._leaving:
                    return Offer.NOT_RUNNING
                refusal = self._refusal()
            else:
                self._wish = pending.job.target.batching
                # Set before the job can be seen by the replica's thread, so that its answer cancels the alarm.
                deadline = pending.job.deadline
                if deadline is not None:
                    pending.alarm = self._timer.at(self._first_ring(pending, deadline), lambda: self._ring(pending))
                if self._lane.push(pending):
                    self._used = time.monotonic()
                    if self._worker is not None and self._state is WorkerState.AVAILABLE and not self._calls.busy:
                        self._worker.wake()
                else:
                    refusal = Overloaded(f"{self._lane.rows} rows are waiting for this model already")
        if refusal is None:
            return Offer.TAKEN
        pending.answer(refusal)
        return Offer.REFUSED

    def leave(self) -> None:
        """Take no more jobs, finish those taken, and end the worker."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
            if self._worker is None:
                return
            if self._state is WorkerState.AVAILABLE or len(self._lane):
                self._worker.wake()
            else:
                # Nobody waits for what it loads.
                self._worker.kill()

    def abort(self) -> None:
        """Answer every job with a refusal, and end the worker at once."""
        with self._changed:
            self._leaving = self._aborted = True
            self._changed.notify_all()
            left = self._lane.clear()
            left += self._calls.in_hand
            if self._worker is not None:
                self._worker.kill()
        for pending in left:
            pending.answer(ShuttingDown())

    def join(self, timeout: float | None = None) -> bool:
        """Wait until its worker has ended and every job has its answer.

        Returns:
            Whether that is so.
        """
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
            return not thread.is_alive()
        return True

    # Deadlines, in the timer's thread.

    def _first_ring(self, pending: Pending, deadline: float) -> float:
        if self._state is WorkerState.AVAILABLE:
            return deadline
        # Early enough that the reason reaches the caller, but never the greater part of a short deadline.
        return deadline - max(0.0, min(self._settings.loading_margin, (deadline - pending.taken) / 5))

    def _ring(self, pending: Pending) -> None:
        deadline = pending.job.deadline
        if deadline is None:
            return
        answer: EnricherError | None = None
        with self._changed:
            now = time.monotonic()
            waits = pending not in self._calls.running
            if waits and self._state is not WorkerState.AVAILABLE and self._lane.remove(pending):
                past = now - self._loading_since
                retry_after = max(1.0, _USUAL_LOADING - past)
                answer = ModelLoading(self.target.name, self.target.version, retry_after)
            elif now < deadline:
                pending.alarm = self._timer.at(deadline, lambda: self._ring(pending))
            elif waits:
                self._lane.remove(pending)
                answer = DeadlineExceeded("queue")
            else:
                answer = DeadlineExceeded("compute")
        if answer is not None:
            pending.answer(answer)

    # The replica's own thread.

    def _run(self, after: Replica | None) -> None:
        try:
            if after is not None:
                after.join()
            while self._bring_up() and self._serve() and self._comes_back():
                self._log.info("a worker is started again", deaths=self._deaths)
        except BaseException as exc:  # noqa: BLE001 - a thread has no one above it
            # Whatever went wrong here, callers must not wait for a thread that is gone.
            self._log.exception("the thread of a worker failed")
            self._put_down()
            self._fail(f"the service failed ({type(exc).__name__}); its log says why")

    def _bring_up(self) -> bool:
        """Start and load a worker; False where there is none to serve with."""
        with self._changed:
            self._loading_since = time.monotonic()
            while not self._leaving and (pause := self._not_before - time.monotonic()) > 0:
                self._changed.wait(pause)
            if self._leaving and not len(self._lane):
                return self._stop()
            worker = self._worker = self._make_worker(self.target)
            if self._aborted:
                worker.kill()
        limit = self._timer.at(time.monotonic() + self._settings.load_timeout, worker.kill)
        began = time.monotonic()
        try:
            loaded = worker.start()
        except (LoadFailed, WorkerDied) as exc:
            took = time.monotonic() - began
            ended = self._put_down()
            with self._changed:
                if self._leaving and not len(self._lane):
                    return self._stop()
            if isinstance(exc, LoadFailed):
                why = str(exc)
            elif took >= self._settings.load_timeout:
                why = f"loading took longer than {self._settings.load_timeout:g} s"
            else:
                why = f"its worker ended while loading ({ended or exc})"
            return self._fail(why, may_pass=isinstance(exc, FetchFailed))
        finally:
            limit.cancel()
        with self._changed:
            self._failures = 0
            self._shown = loaded.batching
            self._become(WorkerState.AVAILABLE)
        took = round(time.monotonic() - began, 3)
        self._log.info("a version is loaded", seconds=took, path=loaded.path, batching=self._batching)
        return True

    def _serve(self) -> bool:
        """Run the jobs of the lane; True once the worker has died, False once the version has left."""
        worker = self._worker
        if worker is None:
            return False
        while True:
            with self._changed:
                chosen = self._lane.take(time.monotonic(), share=self._batching)
                self._calls.running = chosen.jobs
                stop = self._leaving and not len(self._lane) and not chosen.jobs
            for late in chosen.late:
                late.answer(DeadlineExceeded("queue"))
            if stop:
                self._put_down()
                with self._changed:
                    return self._stop()
            if not chosen.jobs:
                if not worker.wait(chosen.wait):
                    return True
            elif not self._calls.run(worker, chosen.jobs):
                return True
            else:
                with self._changed:
                    self._deaths = 0
                    self._used = time.monotonic()

    def _comes_back(self) -> bool:
        """After a death: tell whether to start another worker at once; a job that two died of is answered."""
        ended = self._put_down() or "unknown"
        with self._changed:
            victims, rest = self._calls.let_go()
            if self._aborted:
                return self._stop()
            self._deaths += 1
            deaths = self._deaths
            why = f"its worker died {deaths} times in a row, last by {ended}"
            # The first death may be chance: the next worker is started at once.
            self._not_before = time.monotonic() + (self._settings.backoff(deaths - 1) if deaths > 1 else 0.0)
            self._message = f"its worker died ({ended})"
            # A death may be chance, so that its jobs get one more worker each; the next time each is alone, so that
            # nobody else is at fault if a worker dies of it again.
            alone = len(victims) == 1
            guilty = victims if alone and victims[0].kills else []
            for pending in victims:
                pending.is_alone = True
                pending.kills += alone
            self._lane.put_back([pending for pending in victims if not (guilty or pending.answered)])
            self._lane.put_back(rest)
        self._log.warning(
            "a worker died", how=ended, deaths=deaths, correlation_id=victims[0].correlation if victims else None
        )
        target = self.target
        for pending in guilty:
            pending.answer(ModelError(target.name, target.version, f"worker died: {ended}", pending.correlation))
        if deaths >= self._settings.crash_limit:
            return self._fail(why)
        with self._changed:
            if not len(self._lane):
                return self._stop()
            self._become(WorkerState.LOADING, self._message)
            return True

    def _put_down(self) -> str:
        """End the worker and let go of it; tells how it ended."""
        with self._changed:
            worker, self._worker = self._worker, None
            if self._state is WorkerState.AVAILABLE:
                self._become(WorkerState.UNLOADING if self._leaving else WorkerState.LOADING)
        return worker.end() if worker is not None else ""

    def _refusal(self) -> EnricherError:
        """Make the answer to a job of a version that can't be loaded."""
        if self._may_pass:
            retry_after = max(0.5, self._not_before - time.monotonic())
            return RegistryUnavailable(self.target.registry, self._message, retry_after)
        return ModelLoadFailed(self.target.name, self.target.version, self._message)

    def _fail(self, why: str, *, may_pass: bool = False) -> bool:
        """Keep the reason, and tell it to every job that waits; always False."""
        with self._changed:
            self._failures += 1
            self._not_before = time.monotonic() + self._settings.backoff(self._failures + self._deaths)
            self._may_pass = may_pass
            self._become(WorkerState.FAILED, why)
            left = self._lane.clear()
            for jobs in self._calls.let_go():
                left += jobs
            self._active = False
            aborted = self._aborted
            refusal = self._refusal()
        if not aborted:
            self._log.warning("a version can't be loaded", why=why)
        for pending in left:
            pending.answer(refusal)
        return False

    def _stop(self) -> bool:
        """Have no worker any more, until a job or a wish to load comes; always False. Call with the lock held."""
        self._active = False
        self._become(WorkerState.DISCOVERED, self._message)
        return False

    def _become(self, state: WorkerState, message: str = "") -> None:
        self._state = state
        self._message = message
        self._on_change()
