"""The workers of one model version: how many there are, what each scores next, and what their ends mean."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from prinz_enricher.errors import DeadlineExceeded, EnricherError, ModelError, ShuttingDown
from prinz_enricher.scoring.cost import CallCost, LoadTimes
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Loaded, LoadFailed, Target, Worker, WorkerState
from prinz_enricher.scoring.queue import Pending, Queue, can_share, single_calls
from prinz_enricher.scoring.runtime.inflight import MAX_IN_FLIGHT, InFlightBatches
from prinz_enricher.scoring.runtime.restart_backoff import CrashLoop, CrashLoopBackoff, digest_of
from prinz_enricher.telemetry.series import Series

_SHORT = 0.005
"""Seconds of a call up to which another one is sent ahead if a version has several workers."""


class WorkerSlot:
    """A place for one worker of a group, and the thread that supervises it; guarded by the group's lock.

    It is `live` if its worker is loaded; with `restart` that is replaced once it has nothing in flight. `sending` is
    held by who sends to the worker or ends it, and is taken before the group's lock. `send_at_once`, to be called with
    that lock held, gives a worker that has nothing to do a job; it returns what sends it, for the same thread without
    the lock, or None where the job is to be queued.
    """

    # Slots keep it in few cache lines: thousands are read at each scrape.
    __slots__ = ("batches", "live", "loaded_memory", "restart", "send_at_once", "sending", "thread", "worker")

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.thread: threading.Thread | None = None
        self.send_at_once: Callable[[Pending], Callable[[], None] | None] = lambda _: None
        self.sending = threading.Lock()
        self.batches = InFlightBatches()
        self.live = self.restart = False
        # Bytes that its worker held when it was loaded.
        self.loaded_memory = 0

    @property
    def idle(self) -> bool:
        """Whether its worker could score at once."""
        return self.live and not self.restart and not self.batches.busy

    def wake(self) -> None:
        """Have its supervisor ask for batches."""
        if self.worker is not None:
            self.worker.wake()

    def kill(self) -> None:
        """End its worker at once."""
        if self.worker is not None:
            self.worker.kill()

    def memory(self) -> int:
        """Return the bytes of memory that its worker holds."""
        return self.worker.memory() if self.worker is not None else 0

    def growth(self) -> int:
        """Return the bytes that its worker holds above one and a half times what it held when it was loaded.

        That is what a model leaks, or keeps of its calls; 0 or less for what any model does.
        """
        return self.memory() - self.loaded_memory * 3 // 2


class WorkerGroup:
    """The workers of a version, each with a slot, its queue, and the state they bring it to; `lock` guards all of it.

    Times are by `time.monotonic()`. If `leaving` it accepts no more jobs and ends once none waits, `aborted` at once.
    """

    def __init__(
        self,
        target: Target,
        settings: PoolSettings,
        load_times: LoadTimes,
        on_change: Callable[[], object],
        series: Series,
    ) -> None:
        self.series = series.version(target.name, target.version)
        self._series = series
        self.target = target
        self.lock = threading.Condition()
        self.queue = Queue(settings.max_queue_rows, settings.max_shared_rows, settings.max_delay)
        self.cost = CallCost()
        self.accelerated = False
        self.backoff = CrashLoopBackoff(settings)
        self.state = WorkerState.DISCOVERED
        self.message = ""
        self.slots: list[WorkerSlot] = []
        self.leaving = self.aborted = False
        self.last_used = time.monotonic()
        self.loading_since = 0.0
        self.load_times = load_times
        self.log = structlog.get_logger(__name__).bind(model=target.name, version=target.version)
        self.settings = settings
        self._on_change = on_change
        self._can_share = can_share(target.signature)
        self._shown_to_share = False

    # With the lock held.

    @property
    def batching(self) -> bool:
        """Whether jobs share model calls: `off` always wins, and no wish makes a model see other rows than its own."""
        wish = self.target.batching
        if self.settings.batching == "off" or wish == "off" or not self._can_share:
            return False
        return wish == "on" or self._shown_to_share

    @property
    def wanted(self) -> int:
        """How many workers it should have."""
        limit = min(self.settings.max_replicas, self.settings.max_workers)
        return min(self.target.replicas or self.settings.replicas, limit)

    def set_state(self, state: WorkerState, message: str = "") -> None:
        """Change the state."""
        self.state = state
        self.message = message
        self._on_change()

    def refusal(self) -> EnricherError:
        """Make the answer to a job of a version that can't be loaded."""
        return self.backoff.refusal(self.target, time.monotonic())

    def poisonous(self, pending: Pending, how: str) -> ModelError:
        """Make the answer to a job that workers die of."""
        return ModelError(self.target.name, self.target.version, how, pending.correlation)

    def is_needed(self, slot: WorkerSlot) -> bool:
        """Whether a slot is to have a worker: of those too many, the ones that can't score go first."""
        if self._nobody_waits or slot not in self.slots:
            return False
        wanted = self.wanted
        return len(self.slots) <= wanted or sorted(self.slots, key=lambda one: not one.live).index(slot) < wanted

    @property
    def _nobody_waits(self) -> bool:
        return self.aborted or (self.leaving and not len(self.queue))

    def worked(self, rows: int, seconds: float | None) -> None:
        """Note an answer; seconds None for a call that failed."""
        self.backoff.worked()
        self.last_used = time.monotonic()
        if seconds is not None:
            self.cost.observe(rows, seconds)

    def _others_live(self, slot: WorkerSlot) -> bool:
        return any(other.live for other in self.slots if other is not slot)

    def _remove(self, slot: WorkerSlot) -> None:
        if slot in self.slots:
            self.slots.remove(slot)
            if not self.slots and self.state is not WorkerState.FAILED:
                self.set_state(WorkerState.DISCOVERED, self.message)
            self._note_if_none_live()

    def _note_if_none_live(self) -> None:
        if self.state is WorkerState.AVAILABLE and not any(slot.live for slot in self.slots):
            self.set_state(WorkerState.LOADING)

    def _fail(self, slot: WorkerSlot, why: str) -> list[Pending]:
        """Become FAILED without the last worker; returns the jobs that waited for it."""
        self._remove(slot)
        self.set_state(WorkerState.FAILED, why)
        return self.queue.clear()

    def _put_back(self, jobs: list[Pending]) -> None:
        self.queue.put_back([pending for pending in jobs if not pending.answered])
        for slot in self.slots:
            if slot.live:
                slot.wake()

    # Called by supervisors in their threads, without the lock.

    def may_start(self, slot: WorkerSlot) -> bool:
        """Wait until a slot may have a worker; removes one that is not needed any more and returns False."""
        with self.lock:
            if self.is_needed(slot):
                self._note_if_none_live()
            while self.is_needed(slot) and not self.leaving:
                pause = self.backoff.not_before - time.monotonic()
                if pause <= 0:
                    break
                self.lock.wait(pause)
            if not self.is_needed(slot):
                self._remove(slot)
                return False
            if not self._others_live(slot):
                self.loading_since = time.monotonic()
            return True

    def report_step(self, slot: WorkerSlot, step: str) -> None:
        """Note a step of loading: it is shown while no other worker can score."""
        with self.lock:
            if self.state is WorkerState.LOADING and not self._others_live(slot):
                self.set_state(WorkerState.LOADING, step)

    def loaded(self, slot: WorkerSlot, loaded: Loaded, seconds: float) -> None:
        """Note that a worker can score, after some seconds."""
        self._series.loaded(loaded.seconds)
        self.load_times.add(self.target, max(0.0, seconds - loaded.seconds.get("environment", 0.0)))
        with self.lock:
            self.backoff.loaded()
            self._shown_to_share = loaded.batching
            self.accelerated = loaded.path == "accelerated"
            slot.live = True
            self.last_used = time.monotonic()
            self.set_state(WorkerState.AVAILABLE, loaded.note)
            batching = self.batching
            if self.aborted:
                slot.kill()
        self.log.info(
            "a version is loaded",
            seconds=round(seconds, 3),
            path=loaded.path,
            batching=batching,
            **{f"{part}_seconds": round(took, 4) for part, took in loaded.seconds.items()},
        )

    def load_failed(self, slot: WorkerSlot, failure: LoadFailed, *, died: bool) -> None:
        """Note that a worker can't be loaded, or died meanwhile; `may_start` decides whether it is tried again."""
        with self.lock:
            others = self._others_live(slot)
            if self._nobody_waits or (self.leaving and others):
                self._remove(slot)
                return
            if died and self.backoff.died_loading():
                return
            self.backoff.failed(failure, time.monotonic())
            left = [] if others else self._fail(slot, str(failure))
            refusal = self.refusal()
        event = "one more worker of a version can't be loaded" if others else "a version can't be loaded"
        self.log.warning(event, why=str(failure))
        _answer(left, refusal)

    def next_batches(self, slot: WorkerSlot) -> tuple[float | None, bool]:
        """Fill a slot with what it scores next, and answer what came too late.

        Returns the seconds after which to ask again although nothing has come, if any, and whether to end the worker.
        """
        batches = slot.batches
        dropped: list[Pending] = []
        wait: float | None = None
        with self.lock:
            needed = self.is_needed(slot)
            now = time.monotonic()
            while len(batches) < MAX_IN_FLIGHT:
                jobs = batches.next_part()
                if jobs is None:
                    if not needed or slot.restart or (len(batches) and self._leaves_to_others(slot)):
                        break
                    chosen = self.queue.next_batch(now, share=self.batching, cost=self.cost.estimate)
                    dropped += chosen.dropped
                    wait = chosen.wait
                    jobs = chosen.jobs
                    if not jobs:
                        break
                batches.add(jobs)
            ends = not batches.busy and (slot.restart or not self.is_needed(slot))
            if ends:
                # From here on nobody gives it a job.
                slot.live = False
        _answer(dropped, DeadlineExceeded("queue"))
        return wait, ends

    def _leaves_to_others(self, slot: WorkerSlot) -> bool:
        # A batch that was sent ahead can't go to another worker any more. That is worth it if calls are so short that
        # the way to the worker counts.
        if len(self.slots) == 1:
            return False
        idle = next((other for other in self.slots if other is not slot and other.idle), None)
        if idle is not None and len(self.queue):
            idle.wake()
            return True
        return not self.cost.known or self.cost.estimate(1) > _SHORT

    def requeue(self, jobs: list[Pending]) -> None:
        """Queue jobs again that were not scored through no fault of theirs."""
        with self.lock:
            if not self.aborted:
                self._put_back(jobs)
                return
        _answer(jobs, ShuttingDown())

    def died(self, slot: WorkerSlot, how: str) -> None:
        """Queue the jobs of a dead worker again, except one that two workers died of, which is answered."""
        with self.lock:
            victims, rest = slot.batches.release()
            aborted = self.aborted
            if not aborted:
                victims = single_calls(victims)
                guilty = self._blame(victims)
                self._put_back([*(() if guilty else victims), *rest])
                why = self._count_death(slot, how)
                left = self._fail(slot, why) if why else []
                refusal = self.refusal()
        if aborted:
            _answer([*victims, *rest], ShuttingDown())
            return
        self.log.warning("a worker died", how=how, correlation_id=victims[0].correlation if victims else None)
        if guilty is not None:
            guilty.answer(self.poisonous(guilty, f"worker died: {how}"))
        if why:
            self.log.warning("a version is given up for a while", why=why)
        _answer(left, refusal)

    def _blame(self, victims: list[Pending]) -> Pending | None:
        """Mark the jobs of the batch that a worker died of; returns the one that is at fault."""
        # A death may be chance, so that its jobs get one more worker each; the next time each is alone, so that nobody
        # else is at fault if a worker dies of it again.
        alone = len(victims) == 1
        guilty = victims[0] if alone and victims[0].kills else None
        for pending in victims:
            pending.is_alone = True
            pending.kills += alone
        if guilty is not None:
            self.backoff.add_poison(digest_of(guilty))
        return guilty

    def _count_death(self, slot: WorkerSlot, how: str) -> str:
        """Count a death; returns why the version fails for a while, empty if it does not."""
        others = self._others_live(slot)
        if self._nobody_waits:
            return ""
        if not self.backoff.died(time.monotonic()):
            if not others:
                self.set_state(WorkerState.LOADING, f"its worker died ({how})")
            return ""
        why = f"its worker died {self.backoff.deaths} times in a row, last by {how}"
        self.backoff.failed(CrashLoop(why), time.monotonic())
        return "" if others else why

    def supervisor_failed(self, slot: WorkerSlot, why: str) -> None:
        """Note that a supervisor's own code failed, and that its thread ends."""
        refusal: EnricherError = ShuttingDown()
        with self.lock:
            left = [pending for jobs in slot.batches.release() for pending in jobs]
            self.backoff.failed(LoadFailed(why), time.monotonic())
            self._remove(slot)
            if self.slots and not self.aborted:
                self._put_back(left)
                left = []
            elif not self.aborted:
                left += self._fail(slot, why)
                refusal = self.refusal()
        _answer(left, refusal)


def _answer(jobs: list[Pending], refusal: EnricherError) -> None:
    for pending in jobs:
        pending.answer(refusal)
