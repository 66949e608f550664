"""The workers of one model version: how many there are, what each scores next, and what their ends mean."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from prinz_enricher.errors import EnricherError, ModelError, ShuttingDown
from prinz_enricher.scoring.ports import Target, WorkerState
from prinz_enricher.scoring.queue import Cost, LaneLimits, Pending, Queue, can_share, singles
from prinz_enricher.scoring.runtime.inflight import DEPTH
from prinz_enricher.scoring.runtime.load_times import LoadTimes
from prinz_enricher.scoring.runtime.restart_backoff import Cause, Setbacks, digest_of
from prinz_enricher.scoring.runtime.timer import Timer
from prinz_enricher.scoring.runtime.worker_supervisor import Orders, Replica
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.worker import Loaded, Worker

_SHORT = 0.005
"""Seconds of a call up to which another one is prepared where a version has several workers."""


class Crew:
    """Keeps the workers of a version, and gives them the jobs of its queue.

    Attributes:
        target: The version.
        lock: Guards all that is here, and the hands of the replicas.
    """

    def __init__(
        self,
        target: Target,
        make_worker: Callable[[Target], Worker],
        settings: PoolSettings,
        timer: Timer,
        load_times: LoadTimes,
        on_change: Callable[[], object] = lambda: None,
        have_room: Callable[[Callable[[], bool]], bool] = lambda _: False,
    ) -> None:
        """Make a version without workers.

        Args:
            target: The version.
            make_worker: Makes a worker of it; called in the thread that will use it.
            settings: Limits and times.
            timer: Rings at deadlines.
            load_times: What loads take, of all versions.
            on_change: Called after each change of the status, with the lock held: it may only take note.
            have_room: Calls what starts one more worker of a version that has one, if there is room for it; tells
                whether it was started.
        """
        self.target = target
        self.lock = threading.Condition()
        self._make_worker = make_worker
        self._settings = settings
        self._timer = timer
        self._load_times = load_times
        self._on_change = on_change
        self._have_room = have_room
        self._log = structlog.get_logger(__name__).bind(model=target.name, version=target.version)
        self._queue = Queue(LaneLimits(settings.max_queue_rows, settings.max_shared_rows, settings.max_delay))
        self._cost = Cost()
        self._setbacks = Setbacks(settings)
        self._state = WorkerState.DISCOVERED
        self._message = ""
        self._replicas: list[Replica] = []
        self._can_share = can_share(target.signature)
        self._shown = False
        self._leaving = self._aborted = False
        self._used = time.monotonic()
        self._loading_since = 0.0

    # With the lock held.

    @property
    def _batching(self) -> bool:
        """Whether jobs share model calls: `off` always wins, and no wish makes a model see other rows than its own."""
        wish = self.target.batching
        if self._settings.batching == "off" or wish == "off" or not self._can_share:
            return False
        return wish == "on" or self._shown

    @property
    def _wanted(self) -> int:
        """How many workers it should have."""
        limit = min(self._settings.max_replicas, self._settings.max_workers)
        return min(self.target.replicas or self._settings.replicas, limit)

    def _refusal(self) -> EnricherError:
        """Make the answer to a job of a version that can't be loaded."""
        return self._setbacks.refusal(self.target, self._message, time.monotonic())

    def _add_replica(self, after: Callable[[], object] = lambda: None) -> None:
        """Start one more worker.

        Raises:
            RuntimeError: The system has no thread for it.
        """
        replica = Replica(self, self.target, self._make_worker, self._settings, self._timer, self._log)
        self._replicas.append(replica)
        try:
            replica.start(after)
        except BaseException:
            self._replicas.remove(replica)
            raise

    def _lose(self, replica: Replica) -> None:
        """Take note that a replica has no thread any more."""
        self._replicas.remove(replica)
        if not self._replicas and self._state is not WorkerState.FAILED:
            self._become(WorkerState.DISCOVERED, self._message)
        elif self._state is WorkerState.AVAILABLE and not self._any_live:
            self._become(WorkerState.LOADING)

    @property
    def _any_live(self) -> bool:
        return any(replica.live for replica in self._replicas)

    def _is_surplus(self, replica: Replica) -> bool:
        """Tell whether a replica is one too many: of those, the ones that can't score go first."""
        ranked = sorted(self._replicas, key=lambda one: not one.live)
        return ranked.index(replica) >= self._wanted

    def _nobody_waits(self) -> bool:
        """Whether there is no reason to have a worker."""
        return self._aborted or (self._leaving and not len(self._queue))

    def _put_back(self, jobs: list[Pending]) -> None:
        """Queue jobs again before all others, and have whoever could take them ask for orders."""
        self._queue.put_back([pending for pending in jobs if not pending.answered])
        for replica in self._replicas:
            if replica.live:
                replica.wake()

    def _fail(self, why: str) -> tuple[list[Pending], EnricherError]:
        """Become FAILED; gives the jobs that wait, and what they are to be told."""
        self._become(WorkerState.FAILED, why)
        return self._queue.clear(), self._refusal()

    def _become(self, state: WorkerState, message: str = "") -> None:
        self._state = state
        self._message = message
        self._on_change()

    def _others_live(self, replica: Replica) -> bool:
        return any(other.live for other in self._replicas if other is not replica)

    def _poisonous(self, pending: Pending, how: str) -> ModelError:
        return ModelError(self.target.name, self.target.version, how, pending.correlation)

    # What a replica asks, from its thread.

    def may_start(self, replica: Replica) -> bool:
        """Wait until a worker may be started; False where it is not needed any more."""
        with self.lock:
            while not self._leaving and (pause := self._setbacks.not_before - time.monotonic()) > 0:
                self.lock.wait(pause)
            if not self._others_live(replica):
                self._loading_since = time.monotonic()
            return not (self._nobody_waits() or self._is_surplus(replica))

    def is_wanted(self, replica: Replica) -> bool:
        """Tell whether a worker that was just made is still needed. Call with the lock held."""
        return not (self._nobody_waits() or self._is_surplus(replica))

    def does(self, replica: Replica, step: str) -> None:
        """Take note of what is done so that a worker can score: it is told while there is no other one that can."""
        with self.lock:
            if self._state is WorkerState.LOADING and not self._others_live(replica):
                self._become(WorkerState.LOADING, step)

    def loaded(self, replica: Replica, loaded: Loaded, took: float) -> None:
        """Take note that a worker can score, and start those that are missing."""
        self._load_times.add(self.target, max(0.0, took - loaded.seconds.get("environment", 0.0)))
        with self.lock:
            self._setbacks.loaded()
            self._shown = loaded.batching
            replica.live = True
            self._used = time.monotonic()
            self._become(WorkerState.AVAILABLE, loaded.note)
            batching = self._batching
            if self._aborted:
                replica.kill()
        self._log.info(
            "a version is loaded",
            seconds=round(took, 3),
            path=loaded.path,
            batching=batching,
            **{f"{part}_seconds": round(seconds, 4) for part, seconds in loaded.seconds.items()},
        )
        self.grow()

    def grow(self) -> None:
        """Start the workers that are missing, once one has shown that the version can be loaded."""
        while self._have_room(self._grow_by_one):
            continue

    def _grow_by_one(self) -> bool:
        """Start a worker that is missing; tells whether one was."""
        with self.lock:
            wants = self._state is WorkerState.AVAILABLE and not self._leaving
            if not wants or len(self._replicas) >= self._wanted:
                return False
            try:
                self._add_replica()
            except RuntimeError as exc:
                self._log.warning("one more worker of a version can't be started", why=str(exc))
                return False
            return True

    def load_failed(self, replica: Replica, why: str, cause: Cause | None) -> bool:
        """Take note that a worker can't be loaded (cause None: it died); tells whether to try again."""
        with self.lock:
            if self._nobody_waits() or (self._leaving and self._others_live(replica)):
                self._lose(replica)
                return False
            if cause is None and self._setbacks.died_loading():
                return True
            self._setbacks.failed(cause or Cause.LOAD, time.monotonic())
            if self._others_live(replica):
                self._log.warning("one more worker of a version can't be loaded", why=why)
                return True
            self._lose(replica)
            left, refusal = self._fail(why)
        self._log.warning("a version can't be loaded", why=why)
        return self._answer(left, refusal)

    def orders(self, replica: Replica) -> Orders:
        """Put into a replica's hand what it is to score next."""
        hand = replica.hand
        late: list[Pending] = []
        wait: float | None = None
        with self.lock:
            surplus = self._is_surplus(replica)
            now = time.monotonic()
            while len(hand) < DEPTH:
                part = hand.next_part()
                if part is None:
                    if surplus or replica.restart or (len(hand) and self._leaves_it(replica)):
                        break
                    chosen = self._queue.take(now, share=self._batching, cost=self._cost.of)
                    late += chosen.late
                    wait = chosen.wait
                    part = chosen.jobs
                    if not part:
                        break
                hand.add(part)
            last = surplus or self._nobody_waits()
            return Orders(late, wait, not hand.busy and (last or replica.restart), last)

    def _leaves_it(self, replica: Replica) -> bool:
        """Whether a busy replica leaves what waits to others: to an idle one, or to whoever is free first.

        A call that was prepared can't go to another worker any more. That is worth it where calls are so short that
        the way to the worker counts.
        """
        if len(self._replicas) == 1:
            return False
        return self._idle_elsewhere(replica) or not self._cost.known or self._cost.of(1) > _SHORT

    def _idle_elsewhere(self, replica: Replica) -> bool:
        """Have another worker that is idle take what waits, before it waits at a busy one."""
        if not len(self._queue):
            return False
        idle = next((other for other in self._replicas if other is not replica and other.idle), None)
        if idle is not None:
            idle.wake()
        return idle is not None

    def worked(self, rows: int, seconds: float | None) -> None:
        """Take note of an answer; seconds None for a call that failed."""
        with self.lock:
            self._setbacks.worked()
            self._used = time.monotonic()
            if seconds is not None:
                self._cost.observe(rows, seconds)

    def restarting(self, replica: Replica) -> None:
        """Take note that a worker ended to be replaced."""
        with self.lock:
            if self._state is WorkerState.AVAILABLE and not self._any_live:
                self._become(WorkerState.LOADING)

    def again(self, jobs: list[Pending]) -> None:
        """Queue jobs again that were not scored through no fault of theirs."""
        with self.lock:
            if not self._aborted:
                self._put_back(jobs)
                return
        for pending in jobs:
            pending.answer(ShuttingDown())

    def died(self, replica: Replica, how: str) -> bool:
        """Queue the jobs of a worker that died again; one that two workers died of is answered."""
        with self.lock:
            victims, rest = replica.hand.let_go()
            if self._aborted:
                self._lose(replica)
                return self._answer([*victims, *rest], ShuttingDown())
            victims = singles(victims)
            # A death may be chance, so that its jobs get one more worker each; the next time each is alone, so that
            # nobody else is at fault if a worker dies of it again.
            alone = len(victims) == 1
            guilty = victims[0] if alone and victims[0].kills else None
            for pending in victims:
                pending.is_alone = True
                pending.kills += alone
            if guilty is not None:
                self._setbacks.remember(digest_of(guilty))
            self._put_back([*(() if guilty else victims), *rest])
        self._log.warning("a worker died", how=how, correlation_id=victims[0].correlation if victims else None)
        if guilty is not None:
            guilty.answer(self._poisonous(guilty, f"worker died: {how}"))
        with self.lock:
            if self._nobody_waits():
                self._lose(replica)
                return False
            if not self._setbacks.died(time.monotonic()):
                if not self._others_live(replica):
                    self._become(WorkerState.LOADING, f"its worker died ({how})")
                return True
            why = f"its worker died {self._setbacks.deaths} times in a row, last by {how}"
            self._setbacks.failed(Cause.CRASHES, time.monotonic())
            if self._others_live(replica):
                return True
            self._lose(replica)
            left, refusal = self._fail(why)
        self._log.warning("a version is given up for a while", why=why)
        return self._answer(left, refusal)

    def ended(self, replica: Replica) -> None:
        """Take note that a replica has no worker and no thread any more."""
        with self.lock:
            self._lose(replica)

    def broke(self, replica: Replica, why: str) -> None:
        """Take note that a replica's own code failed."""
        with self.lock:
            jobs = [pending for part in replica.hand.let_go() for pending in part]
            self._setbacks.failed(Cause.LOAD, time.monotonic())
            self._lose(replica)
            left: list[Pending] = jobs
            refusal: EnricherError = ShuttingDown()
            if self._replicas and not self._aborted:
                self._put_back(jobs)
                left = []
            elif not self._aborted:
                waiting, refusal = self._fail(why)
                left = [*jobs, *waiting]
        self._answer(left, refusal)
        self.grow()

    def _answer(self, jobs: list[Pending], refusal: EnricherError) -> bool:
        """Tell jobs why they are not scored; always False."""
        for pending in jobs:
            pending.answer(refusal)
        return False
