"""The workers of a version: several of them, and calls that are prepared."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pytest

from prinz_enricher.errors import DeadlineExceeded
from prinz_enricher.scoring.ports import Target, WorkerAnswer
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.hand_worker import QUICK, HandWorker, closing
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, scripted, target_of, until
from tests.support.inline_pool import InlinePool

pytestmark = pytest.mark.usefixtures("lone")


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
        until(lambda: [one.live for one in pool._versions[target_of().key].group.slots] == [True] * 3)
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


class LateOnce(HandWorker):
    """Answers its first call of several rows with the end of the call's time, as a model server would have it."""

    def __init__(self) -> None:
        super().__init__()
        self.late = False

    def receive(self, seconds: float | None = None) -> WorkerAnswer | None:
        """Score, or be late."""
        several = bool(self.given) and self.given[0][1].num_rows > 1
        answer = super().receive(seconds)
        if answer is None or self.late or not several:
            return answer
        self.late = True
        return WorkerAnswer(answer.id, DeadlineExceeded("compute"), 0.0)


@pytest.mark.parametrize("within", [None, PATIENCE])
def test_a_call_with_more_time_is_scored_again_when_a_shared_one_was_late(within: float | None) -> None:
    """The end of a shared call is that of the first deadline in it; who has none, or a later one, has an answer."""
    worker = LateOnce()
    with closing(VersionPool(lambda _: worker, QUICK)) as pool:
        first = Call(pool, target_of(), rows(("", 1.0)))
        until(lambda: len(worker.given) == 1)
        # It waits behind the first one, and so do these two, who share what comes next.
        ahead = Call(pool, target_of(), rows(("", 2.0)))
        until(lambda: len(worker.given) == 2)
        hasty = Call(pool, target_of(), rows(("", 3.0)), within=0.2)
        patient = Call(pool, target_of(), rows(("", 4.0)), within=within)
        worker.score(2)
        assert (first.values(), ahead.values()) == ([2.0], [4.0])
        until(lambda: len(worker.given) == 1)
        assert worker.given[0][1].num_rows == 2
        assert isinstance(hasty.outcome(), DeadlineExceeded)
        worker.score(2)
        assert patient.values() == [8.0]
        assert worker.late
