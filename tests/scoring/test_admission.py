"""Which jobs are refused because they would wait too long."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from prinz_enricher.errors import Overloaded
from prinz_enricher.scoring.ports import ScoreResult
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.hand_worker import HandWorker, closing, settle_cost
from tests.scoring.scripted import FAST, Call, rows, target_of

pytestmark = pytest.mark.usefixtures("lone")


def test_what_can_not_be_in_time_is_refused_at_once() -> None:
    """Once calls are known to take long, a job whose turn would come too late learns it when it comes."""
    worker = HandWorker()
    worker.score(1)
    settings = replace(FAST, batching="off")
    with closing(VersionPool(lambda _: worker, settings)) as pool:
        settle_cost(pool, 0.001)
        waiting = [Call(pool, target_of(), rows(("", 1.0))) for _ in range(60)]
        hurried = Call(pool, target_of(), rows(("", 1.0)), within=0.03)
        assert hurried.answered
        outcome = hurried.outcome()
        assert isinstance(outcome, Overloaded)
        assert 0.05 < (outcome.retry_after or 0.0) < 0.07
        patient = Call(pool, target_of(), rows(("", 1.0)), within=5.0)
        assert not patient.answered
        worker.score(100)
        assert all(call.values() == [2.0] for call in [*waiting, patient])


def test_an_idle_worker_takes_any_job() -> None:
    """What a call costs is learnt anew, however slow the last ones were: nobody is shut out forever."""
    worker = HandWorker()
    worker.score(100)
    with closing(VersionPool(lambda _: worker, FAST)) as pool:
        settle_cost(pool, 0.001)
        call = Call(pool, target_of(), rows(("", 1.0)), within=0.0005)
        assert call.outcome().__class__ is not Overloaded


def test_a_queue_that_is_too_long_in_time_is_refused() -> None:
    """`max_wait` bounds the wait of callers that have time too."""
    worker = HandWorker()
    worker.score(1)
    with closing(VersionPool(lambda _: worker, replace(FAST, batching="off", max_wait=0.02))) as pool:
        settle_cost(pool, 0.001)
        calls = [Call(pool, target_of(), rows(("", 1.0)), within=None) for _ in range(60)]
        refused = [call for call in calls if call.answered]
        assert 30 <= len(refused) <= 45
        assert all(isinstance(call.outcome(), Overloaded) for call in refused)
        worker.score(100)
        assert all(isinstance(call.outcome(), ScoreResult) for call in calls if call not in refused)


def test_what_would_be_refused_is_told_beforehand() -> None:
    """Rows that would come too late need not be read: the pool says so without a job, and takes nothing by that."""
    worker = HandWorker()
    worker.score(1)
    soon = time.monotonic() + 0.03
    with closing(VersionPool(lambda _: worker, replace(FAST, batching="off"))) as pool:
        assert pool.refusal(target_of(), 1, soon) is None
        settle_cost(pool, 0.001)
        assert pool.refusal(target_of(), 1, time.monotonic() + 0.0005) is None
        waiting = [Call(pool, target_of(), rows(("", 1.0))) for _ in range(60)]
        refusal = pool.refusal(target_of(), 1, time.monotonic() + 0.03)
        assert isinstance(refusal, Overloaded)
        assert 0.05 < (refusal.retry_after or 0.0) < 0.07
        assert pool.refusal(target_of(), 1, time.monotonic() + 5.0) is None
        assert pool.refusal(target_of(), 1, None) is None
        worker.score(100)
        assert all(call.values() == [2.0] for call in waiting)
