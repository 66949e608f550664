"""What becomes of jobs where a worker dies, takes nothing, or leaves."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pytest

from prinz_enricher.errors import BatchTooLarge
from prinz_enricher.scoring.ports import Loaded, ModelCall, ScoreResult, Target, WorkerDied, WorkerState
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.hand_worker import QUICK, HandWorker, closing
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, scripted, target_of, until
from tests.support.inline_pool import InlinePool, ScoreFunction

pytestmark = pytest.mark.usefixtures("lone")


def test_a_worker_that_dies_takes_only_the_running_call_for_guilty() -> None:
    """The call that was prepared goes on with the next worker as if nothing had been."""
    workers = [HandWorker(), HandWorker()]
    made = iter(workers)
    with closing(VersionPool(lambda _: next(made), FAST)) as pool:
        first = Call(pool, target_of(), rows(("", 1.0)))
        until(lambda: len(workers[0].given) == 1)
        second = Call(pool, target_of(), rows(("", 2.0)))
        until(lambda: len(workers[0].given) == 2)
        workers[0].kill()
        until(lambda: len(workers[1].given) == 2)
        workers[1].score(2)
        assert [first.values(), second.values()] == [[2.0], [4.0]]


def test_a_replica_that_can_not_be_loaded_leaves_the_others_serving() -> None:
    """The version stays available, and the missing worker is tried again."""
    made: list[int] = []

    def find(_: Target) -> ScoreFunction:
        made.append(1)
        if len(made) in (2, 3):
            raise ValueError
        return scripted

    with closing(InlinePool(find, replace(QUICK, replicas=2))) as pool:
        pool.load(target_of())
        until(lambda: len(made) >= 4)
        assert pool.status(target_of()).state is WorkerState.AVAILABLE
        assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]


class RefusingWorker(HandWorker):
    """A worker that can't be given calls with a certain value."""

    def send(self, id: int, call: ModelCall) -> bool:
        """Refuse a batch that holds thirteen."""
        if 13.0 in call.batch.column(1).to_pylist():
            raise BatchTooLarge(1, 0)
        return super().send(id, call)


def test_what_can_not_be_given_fails_alone() -> None:
    """Of calls that were put together only the one that no worker can be given is refused; no worker dies of it."""
    worker = RefusingWorker()
    worker.score(1)
    with closing(VersionPool(lambda _: worker, FAST)) as pool:
        assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
        calls = [Call(pool, target_of(), rows(("", float(i)))) for i in (1, 2, 13, 4, 5)]
        worker.score(100)
        outcomes = [call.outcome() for call in calls]
        assert [isinstance(one, ScoreResult) for one in outcomes] == [True, True, False, True, True]
        assert calls[2].reason() == "BATCH_TOO_LARGE"
        assert not worker.ended


def test_a_worker_that_takes_nothing_is_killed() -> None:
    """One that blocks whoever gives it a call hangs as well as one that does not answer."""

    class Deaf(HandWorker):
        def send(self, id: int, call: ModelCall) -> bool:
            with self._changed:
                self._changed.wait_for(lambda: self._dead)
            raise WorkerDied("killed")

    hearing = HandWorker()
    hearing.score(10)
    made = iter([Deaf(), hearing])
    with closing(VersionPool(lambda _: next(made), FAST)) as pool:
        call = Call(pool, target_of(), rows(("", 1.0)), within=0.1)
        assert call.reason() in ("DEADLINE_EXCEEDED", "MODEL_LOADING")
        until(lambda: hearing.sizes != [] or Call(pool, target_of(), rows(("", 1.0))).values() == [2.0])


def test_jobs_of_a_dead_worker_go_to_one_that_is_idle() -> None:
    """They don't wait for its successor, which takes its time."""
    loading = threading.Event()
    workers: list[HandWorker] = []

    class Slow(HandWorker):
        def start(self) -> Loaded:
            if len(workers) > 2:
                loading.wait(PATIENCE)
            return super().start()

    def make(_: Target) -> HandWorker:
        workers.append(Slow())
        return workers[-1]

    with closing(VersionPool(make, replace(QUICK, replicas=2, batching="off"))) as pool:
        pool.load(target_of())
        until(lambda: len(workers) == 2 and pool._versions[target_of().key].group.slots[-1].live)
        call = Call(pool, target_of(), rows(("", 1.0)))
        until(lambda: any(worker.given for worker in workers))
        busy = next(worker for worker in workers if worker.given)
        idle = next(worker for worker in workers if worker is not busy)
        busy.kill()
        idle.score(1)
        assert call.values() == [2.0]
        loading.set()


def test_a_version_registered_anew_is_another_target() -> None:
    """The worker of a deleted version does not score for the one that got its number."""
    answers = {"old": 1.0, "new": 2.0}

    def find(target: Target) -> ScoreFunction:
        value = answers[target.fingerprint]

        def score(batch: pa.RecordBatch, params: Mapping[str, object]) -> pa.RecordBatch:
            return scripted(batch, {**params, "factor": value})

        return score

    with closing(InlinePool(find, QUICK)) as pool:
        old, new = (replace(target_of(), fingerprint=which) for which in answers)
        assert Call(pool, old, rows(("", 1.0))).values() == [1.0]
        pool.retain([new])
        assert Call(pool, new, rows(("", 1.0))).values() == [2.0]


def test_jobs_in_hand_of_a_dead_worker_are_told_when_all_is_broken_off() -> None:
    """Between its death and their return to the queue no job is out of reach."""
    worker = HandWorker()
    pool = VersionPool(lambda _: worker, FAST)
    calls = [Call(pool, target_of(), rows(("", float(i)))) for i in range(3)]
    until(lambda: len(worker.given) >= 1)
    version = pool._versions[target_of().key]
    with version.group.lock:
        worker.kill()
        # It notices the death, and waits for the lock.
        until(lambda: worker.ended or worker._dead)
        version.abort()
    pool.close(1.0)
    assert {call.reason() for call in calls} == {"SHUTTING_DOWN"}


def test_a_version_that_leaves_does_not_load_without_end() -> None:
    """A worker that can't be loaded is given up when its version goes, though another one still works."""
    made: list[int] = []

    def find(_: Target) -> ScoreFunction:
        made.append(1)
        if len(made) > 1:
            raise ValueError
        return scripted

    pool = InlinePool(find, replace(QUICK, replicas=2))
    last = Call(pool, target_of(), rows(("sleep", 0.3)))
    until(lambda: len(made) > 1)
    pool.close(5.0)
    assert last.values() == [0.6]
    assert len(made) < 10
