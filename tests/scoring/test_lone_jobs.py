"""Lone jobs: an idle worker gets them from the thread that submits them, without a hand-over."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from prinz_enricher.scoring.ports import ModelCall, ScoreResult, WorkerDied
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.calls import ScriptedWorker
from tests.scoring.hand_worker import QUICK, HandWorker, closing
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, target_of, until

JOBS = 400


@pytest.fixture(autouse=True)
def _lone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Call, "lone", True)


class SeenWorker(HandWorker):
    """Notes which thread sends what, and may fail to send."""

    def __init__(self, fails: Callable[[float], None] = lambda _: None) -> None:
        super().__init__()
        self.threads: list[tuple[float, int]] = []
        self._fails = fails

    def send(self, id: int, call: ModelCall) -> bool:
        """Note the thread, and keep the batch."""
        value = call.batch.column(1)[0].as_py()
        self.threads.append((value, threading.get_ident()))
        self._fails(value)
        return super().send(id, call)


def load(pool: VersionPool, worker: HandWorker) -> None:
    """Have a first job scored, and wait until its worker is idle."""
    first = Call(pool, target_of(), rows(("", 0.0)))
    worker.score()
    assert first.values() == [0.0]
    version = pool._versions[target_of().key]
    until(lambda: version.idle_since is not None)


def test_a_lone_job_is_sent_by_its_submitter() -> None:
    """The worker has it when `submit` returns; those that come meanwhile are sent after it, by the supervisor."""
    worker = SeenWorker()
    with closing(VersionPool(lambda _: worker, FAST)) as pool:
        load(pool, worker)
        calls = [Call(pool, target_of(), rows(("", 1.0)))]
        assert worker.threads[-1] == (1.0, threading.get_ident())
        calls += [Call(pool, target_of(), rows(("", value))) for value in (2.0, 3.0)]
        worker.score(3)
        assert [call.values() for call in calls] == [[2.0], [4.0], [6.0]]
        (one, mine), (two, its), *_ = worker.threads[1:]
        assert (one, mine, two) == (1.0, threading.get_ident(), 2.0)
        assert its != mine


def test_jobs_wait_for_others_where_a_delay_is_set() -> None:
    """A lone job is queued where jobs are to wait for others."""
    worker = SeenWorker()
    with closing(VersionPool(lambda _: worker, replace(FAST, max_delay=0.01))) as pool:
        load(pool, worker)
        call = Call(pool, target_of(), rows(("", 1.0)))
        worker.score()
        assert call.values() == [2.0]
        assert worker.threads[-1][1] != threading.get_ident()


@pytest.mark.parametrize("error", [WorkerDied("it ended"), ValueError("a fault of sending")])
def test_a_worker_that_takes_nothing_any_more(error: Exception) -> None:
    """A job that can't be sent goes to another worker, and its submitter does not hear of it."""

    def fails(value: float) -> None:
        if value == 13.0:
            raise error

    workers = [SeenWorker(fails), SeenWorker()]
    made = iter(workers)
    with closing(VersionPool(lambda _: next(made), FAST)) as pool:
        load(pool, workers[0])
        call = Call(pool, target_of(), rows(("", 13.0)))
        workers[1].score()
        assert call.values() == [26.0]
        assert workers[0].ended


def test_a_job_is_not_to_blame_for_workers_that_were_dead_before() -> None:
    """A job that met a dead worker is not what that died of, even where the next worker does die of it."""

    def fails(value: float) -> None:
        if value == 13.0:
            raise WorkerDied("it ended")

    workers = [SeenWorker(fails), HandWorker(), HandWorker()]
    made = iter(workers)
    with closing(VersionPool(lambda _: next(made), FAST)) as pool:
        load(pool, workers[0])
        call = Call(pool, target_of(), rows(("", 13.0)))
        until(lambda: bool(workers[1].given))
        workers[1].kill()
        workers[2].score()
        assert call.values() == [26.0]


def test_a_worker_that_leaves_gets_no_lone_job() -> None:
    """A version whose worker was unloaded for want of work loads again, and no job is lost between the two."""
    made: list[ScriptedWorker] = []

    def make(_: object) -> ScriptedWorker:
        made.append(ScriptedWorker())
        return made[-1]

    with closing(VersionPool(make, replace(QUICK, idle_unload=0.001, watch_interval=0.001))) as pool:
        until(lambda: Call(pool, target_of(), rows(("", 1.0))).values() == [2.0] and len(made) > 5)


def test_lone_jobs_of_many_threads_while_workers_die() -> None:
    """Each job has one answer, its own, whoever sends it and however workers end meanwhile."""
    made: list[ScriptedWorker] = []
    over = threading.Event()

    def make(_: object) -> ScriptedWorker:
        made.append(ScriptedWorker())
        return made[-1]

    def kill() -> None:
        chance = random.Random(5)  # noqa: S311 - no secret
        while not over.wait(chance.random() / 50):
            for worker in made[-1:]:
                worker.kill()

    settings = replace(
        QUICK,
        replicas=2,
        crash_limit=10_000,
        backoff_initial=0.001,
        backoff_max=0.001,
        max_queue_rows=JOBS,
        max_wait=PATIENCE,
    )
    with closing(VersionPool(make, settings)) as pool, ThreadPoolExecutor(8) as threads:
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            calls = list(threads.map(lambda value: Call(pool, target_of(), rows(("", float(value)))), range(JOBS)))
            outcomes = [call.outcome() for call in calls]
        finally:
            over.set()
            killer.join(PATIENCE)
        for value, (call, outcome) in enumerate(zip(calls, outcomes, strict=True)):
            assert len(call.outcomes) == 1
            # A job that two workers died of is refused: chance may have it so.
            if isinstance(outcome, ScoreResult):
                assert outcome.batch.column(0).to_pylist() == [2.0 * value]
            else:
                assert outcome.reason in {"MODEL_ERROR", "MODEL_LOADING"}, outcome
    assert len(made) > 2
