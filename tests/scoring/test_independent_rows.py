"""The rows of a message that are calls of their own."""

from __future__ import annotations

import threading
import time
from typing import Any

import pyarrow as pa
import pytest

from prinz_enricher.errors import DeadlineExceeded, EnricherError, ModelError
from prinz_enricher.scoring.ports import Job, ScoreResult
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from prinz_enricher.service.score.call import split_rows
from tests.scoring.calls import SEPARATELY, plain, scripted_pool
from tests.scoring.hand_worker import HandWorker, closing
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, target_of, until


def of_rows(pool: VersionPool, batch: pa.RecordBatch, outcomes: list[Any], answered: threading.Event) -> None:
    """Submit rows that are calls of their own."""

    def done(outcome: ScoreResult | EnricherError) -> None:
        outcomes.append(outcome)
        answered.set()

    for job in split_rows(Job(target_of(), batch, {"factor": 2.0}, time.monotonic() + PATIENCE, done)):
        pool.submit(job)


@pytest.mark.parametrize("how", ["shared", *SEPARATELY])
def test_independent_rows_have_the_scores_of_calls_of_their_own(how: str) -> None:
    """In the order of the message, whether the version shares calls or not."""
    settings, batching = SEPARATELY.get(how, (FAST, True))
    with scripted_pool(settings, batching=batching) as (pool, workers):
        outcomes: list[Any] = []
        answered = threading.Event()
        of_rows(pool, rows(*plain(40)), outcomes, answered)
        assert answered.wait(PATIENCE)
        [scores] = outcomes
        assert scores.batch.column(0).to_pylist() == [2.0 * value for value in range(40)]
        assert workers.sizes == ([40] if how == "shared" else [1] * 40)
        assert scores.batch_rows == (40 if how == "shared" else 1)
        assert scores.compute == pytest.approx(0.001 if how == "shared" else 0.04)


@pytest.mark.parametrize("how", ["shared", *SEPARATELY])
@pytest.mark.parametrize("fault", ["raise", "exit"])
def test_an_independent_row_that_fails_fails_its_message(how: str, fault: str) -> None:
    """Once, with the reason of that row; the version goes on."""
    settings, batching = SEPARATELY.get(how, (FAST, True))
    with scripted_pool(settings, batching=batching) as (pool, workers):
        outcomes: list[Any] = []
        answered = threading.Event()
        of_rows(pool, rows(*plain(20), (fault, 3.0), *plain(20)), outcomes, answered)
        assert answered.wait(PATIENCE)
        until(lambda: not len(pool._versions[target_of().key].group.queue))
        assert Call(pool, target_of(), rows(("", 5.0))).values() == [10.0]
        assert [one.reason for one in outcomes] == ["MODEL_ERROR"]
        # What nobody waits for any more is not scored.
        assert how == "shared" or fault == "exit" or len(workers.sizes) <= 24


def test_independent_rows_share_with_calls_of_others() -> None:
    """As the calls that they are."""
    worker = HandWorker()
    with closing(VersionPool(lambda _: worker, FAST)) as pool:
        first = [Call(pool, target_of(), rows(("", 1.0)))]
        until(lambda: len(worker.given) == 1)
        first.append(Call(pool, target_of(), rows(("", 2.0))))
        until(lambda: len(worker.given) == 2)
        outcomes: list[Any] = []
        answered = threading.Event()
        of_rows(pool, rows(*plain(3)), outcomes, answered)
        other = Call(pool, target_of(), rows(("", 7.0)))
        worker.score(3)
        assert answered.wait(PATIENCE)
        assert other.values() == [14.0]
        assert worker.sizes == [1, 1, 4]
        assert outcomes[0].batch.column(0).to_pylist() == [0.0, 2.0, 4.0]


def test_rows_that_would_change_what_the_model_sees_of_others_are_apart_from_the_start() -> None:
    """A column of whole numbers is another one to a model as soon as one of them is missing; a float is not."""
    batch = pa.RecordBatch.from_pydict(
        {
            "whole": pa.array([1, None, 3, None, 5], pa.int64()),
            "flag": pa.array([True, True, None, None, False]),
            "float": pa.array([1.0, None, 3.0, 4.0, None]),
            "text": pa.array(["a", None, "c", "d", "e"]),
        }
    )
    outcomes: list[Any] = []
    jobs = split_rows(Job(target_of(), batch, {}, None, outcomes.append))
    assert sorted(job.batch.num_rows for job in jobs) == [1, 1, 1, 2]
    for job in jobs:
        assert all(column.null_count in (0, len(column)) for column in job.batch.columns[:2])
        assert job.calls == job.batch.num_rows
        # Each row comes back as it was, so that their order can be seen.
        parts = job.split_calls() if job.calls > 1 else [job]
        assert [part.batch.num_rows for part in parts] == [1] * job.batch.num_rows
        for part in parts:
            assert not outcomes
            part.done(ScoreResult(part.batch, 0.0, 1.0, 1))
    [scores] = outcomes
    assert scores.batch.equals(batch)
    assert scores.compute == 5.0


def test_independent_rows_are_told_their_first_fault_at_once_and_no_other() -> None:
    """Whatever the rows after it come to."""
    outcomes: list[Any] = []
    [job] = split_rows(Job(target_of(), rows(*plain(3)), {}, None, outcomes.append))
    parts = job.split_calls()
    parts[0].done(ScoreResult(rows(("", 0.0)), 0.0, 0.0, 1))
    assert not parts[2].cancelled()
    fault = ModelError("scripted", "1", "ValueError", "id")
    parts[1].done(fault)
    assert outcomes == [fault]
    assert parts[2].cancelled()
    parts[2].done(DeadlineExceeded("queue"))
    job.done(DeadlineExceeded("queue"))
    assert outcomes == [fault]
