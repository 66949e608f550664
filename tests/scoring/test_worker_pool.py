"""What every worker pool does."""

from __future__ import annotations

import time

import pytest

from prinz_enricher.errors import DeadlineExceeded, EnricherError, ModelError
from prinz_enricher.scoring.ports import ScoreResult, WorkerPool, WorkerState
from tests.scoring.scripted import PATIENCE, Call, rows, target_of, until


def test_the_first_job_loads_the_model_and_is_scored(pool: WorkerPool) -> None:
    """A job for a model that is not loaded waits for it, and every row comes back in order."""
    call = Call(pool, target_of(), rows(("", 1.0), ("", 2.5)))
    assert call.values() == [2.0, 5.0]
    outcome = call.outcome()
    assert isinstance(outcome, ScoreResult)
    assert outcome.batch_rows == 2
    assert 0 <= outcome.compute <= outcome.compute + outcome.queue <= call.answered_at - call.began
    assert pool.status(target_of()).state is WorkerState.AVAILABLE


def test_many_jobs_are_each_answered_once_with_their_own_scores(pool: WorkerPool) -> None:
    """Jobs that are submitted without waiting don't mix up."""
    calls = [Call(pool, target_of(), rows(("", float(i)))) for i in range(100)]
    assert [call.values() for call in calls] == [[2.0 * i] for i in range(100)]
    assert all(len(call.outcomes) == 1 for call in calls)


def test_zero_rows_are_answered_without_the_model(pool: WorkerPool) -> None:
    """An empty batch has an empty answer of the output schema, for a model that is not loaded too."""
    other = target_of("never loaded")
    outcome = Call(pool, other, rows()).outcome()
    assert isinstance(outcome, ScoreResult)
    assert outcome.batch.schema.names == ["output_0"]
    assert outcome.batch.num_rows == 0
    assert pool.status(other).state is WorkerState.DISCOVERED


def test_a_model_that_raises_fails_its_job_alone(pool: WorkerPool) -> None:
    """The error names the exception's type and no data, and the next job is scored."""
    outcome = Call(pool, target_of(), rows(("raise", 42.0))).outcome()
    assert isinstance(outcome, ModelError)
    assert outcome.metadata["exception"] == "ValueError"
    assert outcome.metadata["correlation_id"]
    assert "42" not in outcome.message.replace(outcome.metadata["correlation_id"], "")
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]


def test_a_deadline_in_the_past_is_answered_at_once(pool: WorkerPool) -> None:
    """No work is spent on a job that is late already."""
    outcome = Call(pool, target_of(), rows(("", 1.0)), within=-1.0).outcome()
    assert isinstance(outcome, DeadlineExceeded)
    assert outcome.metadata["where"] == "queue"


def test_a_job_without_a_deadline_is_scored(pool: WorkerPool) -> None:
    """A deadline is not needed."""
    assert Call(pool, target_of(), rows(("", 1.0)), within=None).values() == [2.0]


def test_a_running_job_is_answered_at_its_deadline(pool: WorkerPool) -> None:
    """The caller is not kept until the model is done; the worker is, within the grace."""
    Call(pool, target_of(), rows(("", 1.0))).values()
    call = Call(pool, target_of(), rows(("sleep", 0.35)), within=0.25)
    outcome = call.outcome()
    assert isinstance(outcome, DeadlineExceeded)
    assert outcome.metadata["where"] == "compute"
    assert call.answered_at - call.began >= 0.25
    assert Call(pool, target_of(), rows(("", 3.0))).values() == [6.0]


def test_a_queued_job_is_answered_at_its_deadline(pool: WorkerPool) -> None:
    """A job behind a long one learns at its own deadline that it waited in vain."""
    # Of a version that had no calls: one whose calls took long, on a busy machine, refuses the second job at once.
    target = target_of(version="unmeasured")
    Call(pool, target, rows(("", 1.0))).values()
    # With a null in it, it can't share its call with the one behind it.
    long = Call(pool, target, rows(("sleep", 0.4), (None, 1.0)))
    waiting = Call(pool, target, rows(("", 1.0)), within=0.1)
    outcome = waiting.outcome()
    assert isinstance(outcome, DeadlineExceeded)
    assert outcome.metadata["where"] == "queue"
    assert long.values() == [0.8, 2.0]


def test_a_cancelled_job_is_not_run(pool: WorkerPool) -> None:
    """A caller that has gone costs no model call."""
    long = Call(pool, target_of(), rows(("sleep", 0.1)))
    gone = Call(pool, target_of(), rows(("exit", 9.0)), cancelled=lambda: True)
    assert gone.reason() == "DEADLINE_EXCEEDED"
    assert long.values() == [0.2]
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]


def test_too_many_waiting_rows_are_refused_at_once(pool: WorkerPool) -> None:
    """Rows beyond the limit are overload, told at once and with when to come back."""
    Call(pool, target_of(), rows(("", 1.0))).values()
    long = Call(pool, target_of(), rows(("sleep", 0.3)))
    until(lambda: pool.status(target_of()).state is WorkerState.AVAILABLE)
    waiting = [Call(pool, target_of(), rows(*[("", 1.0)] * 50)) for _ in range(4)]
    refused = [call for call in waiting if call.answered]
    assert len(refused) >= 1
    for call in refused:
        outcome = call.outcome()
        assert isinstance(outcome, EnricherError)
        assert outcome.reason == "OVERLOADED"
        assert outcome.retry_after
    assert long.values() == [0.6]
    assert all(len(call.values()) == 50 for call in waiting if call not in refused)


def test_a_worker_that_dies_fails_its_job_and_is_replaced(pool: WorkerPool) -> None:
    """The job it died of is told how; the job behind it is scored by the next worker."""
    Call(pool, target_of(), rows(("", 1.0))).values()
    fatal = Call(pool, target_of(), rows(("exit", 3.0)))
    behind = Call(pool, target_of(), rows(("", 4.0)))
    outcome = fatal.outcome()
    assert isinstance(outcome, ModelError)
    assert outcome.metadata["exception"].startswith("worker died")
    assert behind.values() == [8.0]


def test_retain_unloads_what_is_not_wanted(pool: WorkerPool) -> None:
    """A version that is not wanted ends after its last job, and comes back when it is asked for."""
    Call(pool, target_of(), rows(("", 1.0))).values()
    last = Call(pool, target_of(), rows(("sleep", 0.1)))
    pool.retain([])
    assert last.values() == [0.2]
    until(lambda: pool.status(target_of()).state is WorkerState.DISCOVERED)
    pool.load(target_of())
    until(lambda: pool.status(target_of()).state is WorkerState.AVAILABLE)
    pool.retain([target_of()])
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]


@pytest.mark.timeout(PATIENCE * 2)
def test_close_answers_what_was_accepted_and_refuses_the_rest(pool: WorkerPool) -> None:
    """Accepted jobs get their scores; later ones learn that the service ends. The last test of the shared pool."""
    Call(pool, target_of(), rows(("", 1.0))).values()
    accepted = [Call(pool, target_of(), rows(("sleep", 0.05))) for _ in range(4)]
    pool.close(PATIENCE)
    assert all(call.answered for call in accepted)
    assert [call.values() for call in accepted] == [[0.1]] * 4
    began = time.monotonic()
    assert Call(pool, target_of(), rows(("", 1.0))).reason() == "SHUTTING_DOWN"
    assert time.monotonic() - began < 1.0
