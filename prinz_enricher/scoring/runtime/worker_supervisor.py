"""One worker of a version and the thread that keeps it: started, fed, replaced where it dies, ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from prinz_enricher.errors import DeadlineExceeded, EnricherError, InternalError, UnavailableError
from prinz_enricher.provision.progress import steps_reported_to
from prinz_enricher.scoring.ports import Target
from prinz_enricher.scoring.queue import Pending, Stage, apart, together
from prinz_enricher.scoring.runtime.inflight import Call, Hand
from prinz_enricher.scoring.runtime.restart_backoff import Cause
from prinz_enricher.scoring.runtime.timer import Timer
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.worker import (
    Answer,
    FetchFailed,
    Loaded,
    LoaderRefused,
    LoadFailed,
    OutputsObserved,
    ServerAway,
    Worker,
    WorkerDied,
)


@dataclass(frozen=True, slots=True)
class Orders:
    """What a replica does next, besides what it has in hand.

    Attributes:
        late: Jobs that nobody waits for any more: to be answered, not run.
        wait: Seconds after which to ask again although nothing has come; None where only that changes anything.
        end: Whether to end the worker.
        last: Whether no other worker takes its place.
    """

    late: list[Pending] = field(default_factory=list)
    wait: float | None = None
    end: bool = False
    last: bool = False


class Keeper(Protocol):
    """What a replica asks of its version; called in the replica's thread, without the lock."""

    lock: threading.Condition

    def may_start(self, replica: Replica) -> bool:
        """Wait until a worker may be started; False where it is not needed any more."""

    def is_wanted(self, replica: Replica) -> bool:
        """Tell whether a worker that was just made is still needed; called with the lock held."""

    def does(self, replica: Replica, step: str) -> None:
        """Take note of what is done so that its worker can score."""

    def restarting(self, replica: Replica) -> None:
        """Take note that a worker ended to be replaced."""

    def again(self, jobs: list[Pending]) -> None:
        """Queue jobs again that were not scored through no fault of theirs."""

    def loaded(self, replica: Replica, loaded: Loaded, took: float) -> None:
        """Take note that the worker can score."""

    def load_failed(self, replica: Replica, why: str, cause: Cause | None) -> bool:
        """Take note that it can't be loaded (cause None: it died); tells whether to try again."""

    def orders(self, replica: Replica) -> Orders:
        """Put into the replica's hand what it is to score next."""

    def worked(self, rows: int, seconds: float | None) -> None:
        """Take note of an answer; seconds None for a call that failed."""

    def died(self, replica: Replica, how: str) -> bool:
        """Take note that the worker died, and take its jobs out of its hand; tells whether to start another."""

    def ended(self, replica: Replica) -> None:
        """Take note that the replica has no worker and no thread any more."""

    def broke(self, replica: Replica, why: str) -> None:
        """Take note that the replica's own code failed."""


class Replica:
    """Keeps one worker, in a thread that lives as long as a worker is needed.

    The thread that starts a worker process must outlive it: Linux sends the parent-death signal when the thread that
    forked ends, not when its process does.

    Attributes:
        hand: What its worker has in hand; guarded by the version's lock.
        live: Whether its worker is loaded; guarded likewise.
        restart: Whether the worker is to be replaced once it has nothing in hand; guarded likewise.
    """

    def __init__(
        self,
        keeper: Keeper,
        target: Target,
        make_worker: Callable[[Target], Worker],
        settings: PoolSettings,
        timer: Timer,
        log: Any,
    ) -> None:
        self._keeper = keeper
        self._target = target
        self._make_worker = make_worker
        self._settings = settings
        self._timer = timer
        self._log = log
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self.hand = Hand()
        self.live = False
        self.restart = False
        self._at_first = 0

    # From any thread, with the version's lock held.

    @property
    def idle(self) -> bool:
        """Whether its worker could score at once."""
        return self.live and not self.restart and not self.hand.busy

    def start(self, after: Callable[[], object] = lambda: None) -> None:
        """Begin to load, once something else has ended: `after` is called first, and blocks until then."""
        self._thread = threading.Thread(
            target=self._run, args=(after,), name=f"replica-{self._target.name}-{self._target.version}", daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        """Have it ask for orders."""
        if self._worker is not None:
            self._worker.wake()

    def kill(self) -> None:
        """End its worker at once."""
        if self._worker is not None:
            self._worker.kill()

    def memory(self) -> int:
        """Tell the bytes of memory that its worker holds."""
        return self._worker.memory() if self._worker is not None else 0

    def growth(self) -> int:
        """Tell the bytes of memory that its worker holds above half again of what it held when it was loaded."""
        return self.memory() - self._at_first * 3 // 2

    # From any thread, without the lock.

    def join(self, timeout: float | None = None) -> bool:
        """Wait until its thread has ended; tells whether it has."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
            return not thread.is_alive()
        return True

    # Its own thread.

    def _run(self, after: Callable[[], object]) -> None:
        try:
            after()
            while self._bring_up() and self._serve():
                continue
        except BaseException as exc:  # noqa: BLE001 - a thread has no one above it
            # Whatever went wrong here, callers must not wait for a thread that is gone.
            self._log.exception("the thread of a worker failed")
            self._put_down()
            self._keeper.broke(self, f"the service failed ({type(exc).__name__}); its log says why")

    def _bring_up(self) -> bool:
        """Start and load a worker; False where there is none to serve with."""
        while self._keeper.may_start(self):
            worker = self._make_worker(self._target)
            with self._keeper.lock:
                self._worker = worker
                if not self._keeper.is_wanted(self):
                    # Whoever said so meanwhile had no worker to kill.
                    worker.kill()
            limit = self._timer.at(time.monotonic() + self._settings.load_timeout, worker.kill)
            began = time.monotonic()
            try:
                with steps_reported_to(lambda step: self._keeper.does(self, step)):
                    loaded = worker.start()
            except (LoadFailed, WorkerDied) as exc:
                took = time.monotonic() - began
                ended = self._put_down()
                if not self._keeper.load_failed(self, *self._reason(exc, took, ended)):
                    return False
                continue
            finally:
                limit.cancel()
            self._at_first = worker.memory()
            self._keeper.loaded(self, loaded, time.monotonic() - began)
            return True
        self._keeper.ended(self)
        return False

    def _reason(self, exc: LoadFailed | WorkerDied, took: float, ended: str) -> tuple[str, Cause | None]:
        if took >= self._settings.load_timeout:
            return f"loading took longer than {self._settings.load_timeout:g} s", Cause.LOAD
        if isinstance(exc, LoadFailed):
            cause = Cause.LOAD
            if isinstance(exc, FetchFailed):
                cause = Cause.FETCH
            elif isinstance(exc, ServerAway):
                cause = Cause.SERVER
            elif isinstance(exc, LoaderRefused):
                cause = Cause.LOADER
            elif isinstance(exc, OutputsObserved):
                cause = Cause.OBSERVED
            return str(exc), cause
        return f"its worker ended while loading ({ended or exc})", None

    def _serve(self) -> bool:
        """Score until the worker ends; tells whether to start another."""
        worker = self._worker
        if worker is None:
            return False
        while True:
            orders = self._keeper.orders(self)
            for late in orders.late:
                late.answer(DeadlineExceeded("queue"))
            if orders.end:
                self._put_down()
                if orders.last:
                    self._keeper.ended(self)
                else:
                    self._keeper.restarting(self)
                return not orders.last
            try:
                if not self._give(worker):
                    continue
                answer = worker.take(orders.wait)
                if answer is not None:
                    self._answer(answer)
            except WorkerDied as exc:
                return self._after_death(str(exc))

    def _give(self, worker: Worker) -> bool:
        """Hand over the calls that the worker does not have yet, in their order.

        Returns:
            Whether all is as the last orders were: False where a call is at its end already.
        """
        for call in [call for call in self.hand if not call.given]:
            if not self._still_wanted(call):
                return False
            first = self.hand.first is call
            job = call.jobs[0]
            if first:
                with self._keeper.lock:
                    # Before it is given: a worker that does not even take it hangs as well.
                    self._begin(call)
            try:
                deadline = None if call.end == float("inf") else call.end
                if not worker.give(call.id, together(call.jobs), job.job.params, job.correlation, deadline):
                    return True
            except WorkerDied:
                raise
            except Exception as exc:  # noqa: BLE001 - the worker goes on with the next call
                if not first:
                    return True
                if not isinstance(exc, EnricherError):
                    self._log.exception("a call could not be given to its worker", correlation_id=job.correlation)
                    exc = InternalError(job.correlation)
                self._finish(call, exc)
                return False
            call.given = True
        return True

    def _still_wanted(self, call: Call) -> bool:
        """Answer the jobs of a call that nobody waits for any more; tells whether there are others."""
        now = time.monotonic()
        late = [pending for pending in call.jobs if pending.unwanted(now)]
        if late:
            with self._keeper.lock:
                self.hand.drop(call, late)
            for pending in late:
                pending.answer(DeadlineExceeded("queue"))
        return bool(call.jobs)

    def _begin(self, call: Call) -> None:
        """Take note that the worker is free for a call, and see that it does not hang. Call with the lock held."""
        call.began = time.monotonic()
        for pending in call.jobs:
            pending.stage = Stage.RUNNING
        when = min(max(call.end, call.began), call.began + self._settings.max_compute) + self._settings.hang_grace
        call.hang = self._timer.at(when, lambda: self._kill_if_still(call))

    def _answer(self, answer: Answer) -> None:
        call = self.hand.first
        if call is None or call.id != answer.id:
            raise WorkerDied("it answered another call")
        if isinstance(answer.outcome, EnricherError):
            self._finish(call, answer.outcome)
            return
        scores = apart(call.jobs, answer.outcome, call.began, answer.compute)
        # With the way there and back: that is what the next one waits for.
        seconds = time.monotonic() - call.began
        self._next(call)
        for pending, its in zip(call.jobs, scores, strict=True):
            pending.answer(its)
        self._keeper.worked(call.rows, seconds)

    def _finish(self, call: Call, error: EnricherError) -> None:
        """A call failed: its only job is told; several are scored again by halves, unless no row is at fault."""
        if isinstance(error, DeadlineExceeded):
            # The first of the deadlines has passed; who has more time is scored again. A call without any deadline has
            # had all the time that there is.
            self._next(call)
            now, timed = time.monotonic(), call.end < float("inf")
            patient = [one for one in call.jobs if timed and (one.job.deadline is None or one.job.deadline > now)]
            told = [one for one in call.jobs if one not in patient]
            self._keeper.again(patient)
        else:
            several = len(call.jobs) > 1 or call.jobs[0].job.calls > 1
            apart = several and not isinstance(error, UnavailableError)
            self._next(call, cut=apart)
            told = [] if apart else call.jobs
        for pending in told:
            pending.answer(error)
        self._keeper.worked(call.rows, None)

    def _next(self, call: Call, *, cut: bool = False) -> None:
        with self._keeper.lock:
            self.hand.finish()
            if cut:
                self.hand.cut(call)
            following = self.hand.first
            if following is not None and following.given:
                self._begin(following)

    def _kill_if_still(self, call: Call) -> None:
        with self._keeper.lock:
            still = self.hand.first is call
            if still:
                # It counts as one that the worker died of, though it may have taken only a part of it.
                call.given = True
                self.kill()
        if still:
            self._log.warning("a worker hangs and is killed", correlation_id=call.jobs[0].correlation)

    def _after_death(self, why: str) -> bool:
        ended = self._put_down() or "unknown"
        self._log.debug("a worker is gone", how=ended, why=why)
        return self._keeper.died(self, ended)

    def _put_down(self) -> str:
        """End the worker and let go of it; tells how it ended."""
        with self._keeper.lock:
            worker, self._worker = self._worker, None
            self.live = self.restart = False
        return worker.end() if worker is not None else ""
