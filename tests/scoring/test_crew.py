"""The workers of a version: several of them, and calls that are prepared."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from prinz_enricher.scoring import InlinePool, Target
from prinz_enricher.scoring.lifecycle import VersionPool
from tests.scoring.hand_worker import QUICK, HandWorker, closing
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, scripted, target_of, until


def test_a_worker_has_one_call_running_and_one_prepared() -> None:
    """What comes while it scores is given to it before its answer is there, and no more than one call of it."""
    worker = HandWorker()
    with closing(VersionPool(lambda _: worker, FAST)) as pool:
        calls = [Call(pool, target_of(), rows(("", 1.0)))]
        until(lambda: len(worker.given) == 1)
        calls.append(Call(pool, target_of(), rows(("", 2.0))))
        until(lambda: len(worker.given) == 2)
        calls += [Call(pool, target_of(), rows(("", float(i)))) for i in (3, 4, 5)]
        assert len(worker.given) == 2
        worker.score(3)
        assert [call.values() for call in calls] == [[2.0 * i] for i in (1, 2, 3, 4, 5)]
        assert worker.sizes == [1, 1, 3]


def test_replicas_score_at_the_same_time() -> None:
    """Three workers of a version have three calls in hand at once."""
    together = threading.Barrier(3)

    def meet(batch: pa.RecordBatch, params: Mapping[str, object]) -> pa.RecordBatch:
        together.wait(PATIENCE)
        return scripted(batch, params)

    settings = replace(QUICK, replicas=3, batching="off")
    with closing(InlinePool(lambda _: meet, settings)) as pool:
        pool.load(target_of())
        until(lambda: [one.live for one in pool._versions[target_of().key]._replicas] == [True] * 3)
        calls = [Call(pool, target_of(), rows(("", float(i)))) for i in range(3)]
        assert [call.values() for call in calls] == [[2.0 * i] for i in range(3)]


def test_the_owner_of_a_version_says_how_many_workers_it_has() -> None:
    """More are started, and those too many end, without a call lost."""
    workers: list[HandWorker] = []

    def make(_: Target) -> HandWorker:
        workers.append(HandWorker())
        workers[-1].score(1000)
        return workers[-1]

    def alive() -> int:
        return sum(not worker.ended for worker in workers)

    with closing(VersionPool(make, QUICK)) as pool:
        target = replace(target_of(), replicas=3)
        pool.load(target)
        until(lambda: alive() == 3)
        pool.retain([replace(target, replicas=1)])
        until(lambda: alive() == 1)
        assert Call(pool, target, rows(("", 1.0))).values() == [2.0]
        pool.retain([replace(target, replicas=100)])
        until(lambda: alive() == QUICK.max_workers)
